"""One connection, as the server sees it: which replies it owes, and in which order.

Lines go in by `Session.receive`, requests come out of `Session.requests`,
outcomes go in by `Session.answer`, and messages to be sent come out of
`Session.take`. The rules:

- every request gets exactly one reply, but for a notification, which gets none;
- bare replies, and errors about lines that could not be read, go out in
  request order; JSON-RPC replies as soon as they are there;
- a batch gets one reply, when its last request is done;
- at most `max_outstanding` requests are under way; lines past that wait, and
  `wants_data` is False until enough replies have gone out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable

from taskd.errors import InvalidRequest, ParseError, StateError, TaskdError, TooLarge
from taskd.messages import Call, Dialect, Failure, Outcome, Progress, Result
from taskd.wire.dialects import Batch, Invalid, batch_reply, parse, progress_line, reply_line

__all__ = ["MAX_OUTSTANDING", "Request", "Session", "task_complete"]

MAX_OUTSTANDING = 1000
"""Requests of one connection under way at once: enough to keep any pool busy,
few enough that one client cannot fill the server's queue of 10 000 alone."""

_HTTP_REQUEST = re.compile(rb"[A-Z]+ \S+ HTTP/\d")

BareReply = Callable[[Outcome], bytes]


def result_or_error(outcome: Outcome) -> bytes:
    """The bare reply on TCP: the result itself, or an error object."""
    return reply_line(Dialect.BARE, None, outcome)


def task_complete(outcome: Outcome) -> bytes:
    """The bare reply on a websocket, as the page that taskd comes from has it."""
    if isinstance(outcome, Result):
        return b"task complete"
    return f"task failed: {outcome.message}".encode()


class _BatchReply:
    """The replies to a batch, until all are there."""

    __slots__ = ("missing", "replies")

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.replies: list[bytes] = []


class Request:
    """One call, and the place where its reply belongs."""

    __slots__ = ("_answered", "_batch", "_ready", "call")

    def __init__(self, call: Call, batch: _BatchReply | None = None) -> None:
        self.call = call
        self._batch = batch
        self._answered = False
        self._ready: bytes | None = None


class Session:
    """The replies owed on one connection. Does no I/O.

    `bare_reply` renders the outcome of a bare request.
    """

    __slots__ = (
        "_backlog",
        "_bare_reply",
        "_deaf",
        "_in_order",
        "_late_progress",
        "_max_outstanding",
        "_outbox",
        "closing",
        "outstanding",
    )

    def __init__(
        self, max_outstanding: int = MAX_OUTSTANDING, bare_reply: BareReply = result_or_error
    ) -> None:
        self._max_outstanding = max_outstanding
        self._bare_reply = bare_reply
        self._backlog: deque[bytes | TaskdError] = deque()
        self._in_order: deque[Request | bytes] = deque()
        self._outbox: list[bytes] = []
        self._late_progress: dict[Request, bytes] = {}
        self._deaf = False
        self.closing = False
        self.outstanding = 0

    # --- what comes in ---

    def receive(self, lines: Iterable[bytes]) -> None:
        """Take in messages, in the order they came. What comes after `refuse_rest` is nobody's."""
        if not self._deaf:
            self._backlog.extend(lines)

    def refuse_rest(self, error: TaskdError) -> None:
        """The rest of the stream cannot be read: answer so, after all that came before."""
        self._backlog.append(error)
        self._deaf = self.closing = True

    def end(self, unfinished: int = 0) -> None:
        """No more will come. `unfinished` is how many bytes of a message had come."""
        if unfinished and not self.closing:
            error = ParseError(
                f"the connection ended inside a message, {unfinished} bytes into it; its LF is missing"
            )
            self._backlog.append(error)
        self.closing = True

    def requests(self) -> list[Request]:
        """The requests that may now be started. To be asked again after each `answer`."""
        started: list[Request] = []
        while self._backlog and self.outstanding < self._max_outstanding:
            line = self._backlog.popleft()
            parsed = parse(line) if isinstance(line, bytes) else Invalid(line)
            if type(parsed) is Call:
                request = Request(parsed)
                self.outstanding += 1
                if parsed.dialect is Dialect.BARE:
                    self._in_order.append(request)
                started.append(request)
            elif type(parsed) is Batch:
                started += self._start_batch(parsed)
            else:
                assert isinstance(parsed, Invalid)
                self._refuse(self._not_http(line, parsed))
        return started

    def _not_http(self, line: bytes | TaskdError, invalid: Invalid) -> Invalid:
        """Take nothing more from a web browser.

        Any page may have its visitor's browser post to a port of this
        machine: were the header lines merely errors, the body would be run.
        """
        if isinstance(line, bytes) and _HTTP_REQUEST.match(line):
            self._backlog.clear()
            self._deaf = self.closing = True
            return Invalid(InvalidRequest("this is a task server, and speaks no HTTP; its gateway does"))
        return invalid

    def _start_batch(self, batch: Batch) -> list[Request]:
        calls = [item for item in batch.items if isinstance(item, Call)]
        wanted = sum(not call.is_notification for call in calls)
        reply = _BatchReply(wanted)
        for item in batch.items:
            if isinstance(item, Invalid):
                reply.replies.append(reply_line(Dialect.JSON_RPC, item.id, Failure.of(item.error)))
        self.outstanding += len(calls)
        if not wanted and reply.replies:
            self._outbox.append(batch_reply(reply.replies))
        return [Request(call, None if call.is_notification else reply) for call in calls]

    def _refuse(self, invalid: Invalid) -> None:
        failure = Failure.of(invalid.error)
        if invalid.dialect is Dialect.BARE:
            self._in_order.append(self._bare_reply(failure))
        elif invalid.id is not None:
            self._outbox.append(reply_line(Dialect.JSON_RPC, invalid.id, failure))
        else:
            # Whose line it was cannot be told: it keeps its place among the
            # bare replies, in the form that readers of both dialects know.
            self._in_order.append(reply_line(Dialect.JSON_RPC, None, failure))
        self._release()

    # --- what goes out ---

    def answer(self, request: Request, outcome: Outcome) -> None:
        """Give a request its one outcome. Raises `StateError` for a second one."""
        if request._answered:
            raise StateError(f"a second reply to {request.call}")
        request._answered = True
        self.outstanding -= 1
        call = request.call
        if self._late_progress:
            self._flush_progress(request)
        if call.dialect is Dialect.BARE:
            request._ready = self._bare_reply(outcome)
            self._release()
        elif request._batch is not None:
            batch = request._batch
            batch.replies.append(reply_line(Dialect.JSON_RPC, call.id, outcome))
            batch.missing -= 1
            if not batch.missing:
                self._outbox.append(batch_reply(batch.replies))
        elif call.id is not None:
            self._outbox.append(reply_line(Dialect.JSON_RPC, call.id, outcome))

    def report(self, request: Request, progress: Progress, *, congested: bool = False) -> None:
        """Tell how far a request is, where its caller asked for that.

        With `congested` (the peer is slow to read) it waits for `take` with
        `resumed`, and only the last report of each request is kept.
        """
        if request._answered or not request.call.options.progress or request.call.is_notification:
            return
        line = progress_line(request.call.id, progress)
        if congested:
            self._late_progress[request] = line
        else:
            self._late_progress.pop(request, None)
            self._outbox.append(line)

    def _flush_progress(self, request: Request) -> None:
        line = self._late_progress.pop(request, None)
        if line is not None:
            self._outbox.append(line)

    def _release(self) -> None:
        """Move the bare replies whose turn has come to the outbox."""
        in_order = self._in_order
        while in_order:
            first = in_order[0]
            ready = first._ready if isinstance(first, Request) else first
            if ready is None:
                return
            self._outbox.append(ready)
            in_order.popleft()

    def take(self, *, resumed: bool = False) -> list[bytes]:
        """The messages to be sent, in order, without their framing."""
        if resumed and self._late_progress:
            self._outbox.extend(self._late_progress.values())
            self._late_progress.clear()
        taken, self._outbox = self._outbox, []
        return taken

    # --- state ---

    @property
    def wants_data(self) -> bool:
        """Whether to go on reading from the peer."""
        return not self.closing and not self._backlog and self.outstanding < self._max_outstanding

    @property
    def finished(self) -> bool:
        """Whether nothing more will come or go: the connection may be closed."""
        return (
            self.closing
            and not self.outstanding
            and not self._backlog
            and not self._in_order
            and not self._outbox
        )


def too_large(limit: int) -> TooLarge:
    """The error for a message over `limit` bytes."""
    return TooLarge(f"a message is at most {limit} bytes, with its LF; this one is longer", limit=limit)
