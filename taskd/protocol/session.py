"""One connection, as the server sees it: which replies it owes, and in which order.

Lines go in by `Session.receive`, requests come out of `Session.requests`,
outcomes go in by `Session.answer`, and messages to be sent come out of
`Session.take`. The rules:

- every request gets exactly one reply, but for a notification, which gets none;
- bare replies, and errors about lines that could not be read, go out in
  request order; JSON-RPC replies as soon as they are there;
- a batch gets one reply, when its last request is done;
- at most `max_outstanding` requests are in flight; lines past that wait, and
  `wants_data` is False until enough replies have gone out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from msgspec import Raw

from taskd.errors import InvalidRequest, ParseError, StateError, TaskdError, TooLarge
from taskd.model import BARE, JSON_RPC, Call, Failure, Outcome, Progress, Result
from taskd.protocol.requests import Batch, Invalid, batch_reply, parse, progress_line, reply_line

__all__ = ["MAX_OUTSTANDING", "Request", "Session", "task_complete"]

MAX_OUTSTANDING = 1000
"""Requests of one connection in flight at once: enough to keep any pool busy,
few enough that one client cannot fill the server's queue of 10 000 alone."""

_HTTP_REQUEST = re.compile(rb"[A-Z]+ \S+ HTTP/\d")

BareReply = Callable[[Outcome], bytes]


def result_or_error(outcome: Outcome) -> bytes:
    """The bare reply on TCP: the result itself, or an error object."""
    if type(outcome) is Result:
        return bytes(outcome.value)
    return reply_line(BARE, None, outcome)


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
    """One call, and the place where its reply belongs.

    Whoever runs it may derive a class of its own, and keep there what it needs.
    """

    __slots__ = ("_batch", "_ready", "call")

    def __init__(self, call: Call, batch: _BatchReply | None = None) -> None:
        self.call = call
        self._batch = batch
        self._ready: bytes | None = None


_Request = TypeVar("_Request", bound=Request)


class Session(Generic[_Request]):
    """The replies owed on one connection. Does no I/O.

    `bare_reply` renders the outcome of a bare request; `make_request` makes
    the requests: `Request`, or a class derived from it.
    """

    # An idle connection is to cost little: an empty deque takes 600 bytes, so
    # one is made when there is something to put into it.
    __slots__ = (
        "_backlog",
        "_bare_reply",
        "_deaf",
        "_in_order",
        "_late_progress",
        "_make_request",
        "_max_outstanding",
        "_outbox",
        "closing",
        "in_flight",
    )

    def __init__(
        self,
        max_outstanding: int = MAX_OUTSTANDING,
        bare_reply: BareReply = result_or_error,
        make_request: Callable[..., _Request] = Request,  # type: ignore[assignment]
    ) -> None:
        self._make_request = make_request
        self._max_outstanding = max_outstanding
        self._bare_reply = bare_reply
        self._backlog: deque[bytes | TaskdError] | None = None
        self._in_order: deque[_Request | bytes] | None = None
        self._outbox: list[bytes] = []
        self._late_progress: dict[Request, bytes] | None = None
        self._deaf = False
        self.closing = False
        self.in_flight: set[_Request] = set()
        """The requests that have been started and not answered."""

    @property
    def outstanding(self) -> int:
        """How many requests are in flight."""
        return len(self.in_flight)

    def find(self, request_id: Raw) -> _Request | None:
        """The request in flight that has this id, None where there is none."""
        wanted = bytes(request_id)
        for request in self.in_flight:
            if request.call.id is not None and bytes(request.call.id) == wanted:
                return request
        return None

    # --- what comes in ---

    def receive(self, lines: Iterable[bytes]) -> None:
        """Take in messages, in the order they came. What comes after `refuse_rest` is nobody's."""
        if self._deaf:
            return
        if self._backlog is None:
            self._backlog = deque(lines)
        else:
            self._backlog.extend(lines)

    def _queue_error(self, error: TaskdError) -> None:
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.append(error)

    def refuse_rest(self, error: TaskdError) -> None:
        """The rest of the stream cannot be read: answer so, after all that came before."""
        self._queue_error(error)
        self._deaf = self.closing = True

    def end(self, unfinished: int = 0) -> None:
        """No more will come. `unfinished` is how many bytes of a message had come."""
        if unfinished and not self.closing:
            error = ParseError(
                f"the connection ended inside a message, {unfinished} bytes into it; its LF is missing"
            )
            self._queue_error(error)
        self.closing = True

    def requests(self) -> list[_Request]:
        """The requests that may now be started. To be asked again after each `answer`."""
        started: list[_Request] = []
        backlog = self._backlog
        if backlog is None:
            return started
        in_flight = self.in_flight
        while backlog and len(in_flight) < self._max_outstanding:
            line = backlog.popleft()
            parsed = parse(line) if isinstance(line, bytes) else Invalid(line)
            if type(parsed) is Call:
                request = self._make_request(parsed)
                in_flight.add(request)
                if parsed.dialect is BARE:
                    self._keep_order(request)
                started.append(request)
            elif type(parsed) is Batch:
                started += self._start_batch(parsed)
            else:
                assert isinstance(parsed, Invalid)
                self._refuse(self._not_http(line, parsed))
        if not backlog:
            self._backlog = None
        return started

    def _keep_order(self, reply: _Request | bytes) -> None:
        if self._in_order is None:
            self._in_order = deque((reply,))
        else:
            self._in_order.append(reply)

    def _not_http(self, line: bytes | TaskdError, invalid: Invalid) -> Invalid:
        """Take nothing more from a web browser.

        Any page may have its visitor's browser post to a port of this
        machine: were the header lines merely errors, the body would be run.
        """
        if isinstance(line, bytes) and _HTTP_REQUEST.match(line):
            assert self._backlog is not None
            self._backlog.clear()
            self._deaf = self.closing = True
            return Invalid(InvalidRequest("this is a task server, and speaks no HTTP; its gateway does"))
        return invalid

    def _start_batch(self, batch: Batch) -> list[_Request]:
        calls = [item for item in batch.items if isinstance(item, Call)]
        wanted = sum(not call.is_notification for call in calls)
        reply = _BatchReply(wanted)
        for item in batch.items:
            if isinstance(item, Invalid):
                reply.replies.append(reply_line(JSON_RPC, item.id, Failure.of(item.error)))
        if not wanted and reply.replies:
            self._outbox.append(batch_reply(reply.replies))
        requests = [self._make_request(call, None if call.is_notification else reply) for call in calls]
        self.in_flight.update(requests)
        return requests

    def _refuse(self, invalid: Invalid) -> None:
        failure = Failure.of(invalid.error)
        if invalid.dialect is BARE:
            self._keep_order(self._bare_reply(failure))
        elif invalid.id is not None:
            self._outbox.append(reply_line(JSON_RPC, invalid.id, failure))
        else:
            # Whose line it was cannot be told: it keeps its place among the
            # bare replies, in the form that readers of both dialects know.
            self._keep_order(reply_line(JSON_RPC, None, failure))
        self._release()

    # --- what goes out ---

    def answer(self, request: _Request, outcome: Outcome) -> None:
        """Give a request its one outcome. Raises `StateError` for a second one."""
        try:
            self.in_flight.remove(request)
        except KeyError:
            raise StateError(f"a second reply to {request.call}") from None
        call = request.call
        if self._late_progress:
            self._flush_progress(request)
        if call.dialect is BARE:
            request._ready = self._bare_reply(outcome)
            self._release()
        elif request._batch is not None:
            batch = request._batch
            batch.replies.append(reply_line(JSON_RPC, call.id, outcome))
            batch.missing -= 1
            if not batch.missing:
                self._outbox.append(batch_reply(batch.replies))
        elif call.id is not None:
            self._outbox.append(reply_line(JSON_RPC, call.id, outcome))

    def report(self, request: _Request, progress: Progress, *, congested: bool = False) -> None:
        """Tell how far a request is, where its caller asked for that.

        With `congested` (the peer is slow to read) it waits for `take` with
        `resumed`, and only the last report of each request is kept.
        """
        if request not in self.in_flight or not request.call.options.progress or request.call.is_notification:
            return
        line = progress_line(request.call.id, progress)
        if congested:
            if self._late_progress is None:
                self._late_progress = {}
            self._late_progress[request] = line
        else:
            if self._late_progress is not None:
                self._late_progress.pop(request, None)
            self._outbox.append(line)

    def _flush_progress(self, request: Request) -> None:
        assert self._late_progress is not None
        line = self._late_progress.pop(request, None)
        if line is not None:
            self._outbox.append(line)

    def _release(self) -> None:
        """Move the bare replies whose turn has come to the outbox."""
        in_order = self._in_order
        while in_order:
            first = in_order[0]
            ready = first if type(first) is bytes else first._ready  # type: ignore[union-attr]
            if ready is None:
                return
            self._outbox.append(ready)
            in_order.popleft()
        self._in_order = None

    def take(self, *, resumed: bool = False) -> list[bytes]:
        """The messages to be sent, in order, without their framing."""
        if resumed and self._late_progress:
            self._outbox.extend(self._late_progress.values())
            self._late_progress = None
        taken = self._outbox
        if taken:
            self._outbox = []
        return taken

    # --- state ---

    @property
    def wants_data(self) -> bool:
        """Whether to go on reading from the peer."""
        return not self.closing and not self._backlog and len(self.in_flight) < self._max_outstanding

    @property
    def finished(self) -> bool:
        """Whether nothing more will come or go: the connection may be closed."""
        return (
            self.closing
            and not self.in_flight
            and not self._backlog
            and not self._in_order
            and not self._outbox
        )


def too_large(limit: int) -> TooLarge:
    """The error for a message over `limit` bytes."""
    return TooLarge(f"a message is at most {limit} bytes, with its LF; this one is longer", limit=limit)
