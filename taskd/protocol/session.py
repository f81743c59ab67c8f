"""The session of one connection: which replies the peer is owed, and in which order.

Messages go in through `Session.receive`, requests come out of
`Session.requests`, outcomes go in through `Session.answer`, and the messages to
send come out of `Session.take`. The rules:

- every request gets exactly one reply, except a notification, which gets none;
- bare replies, and errors about messages that could not be read, go out in
  request order; JSON-RPC replies go out as soon as they are ready;
- a batch gets one reply, when its last request has been answered;
- at most `max_outstanding` requests are in flight, members of batches included;
  further messages wait, and `wants_data` is False until enough replies have gone out;
- each call of `requests` does a bounded amount of work, a step; what is left
  waits for the next one;
- with `begins_as_json`, the first message must begin as a request does. If it
  does not, it is answered with one error, and nothing after it is read: the
  peer speaks another protocol. (Any web page can make its visitor's browser
  post to a port of this machine. If the lines of the request were merely
  errors, its body would be run.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Generic

from taskd.errors import ParseError, StateError, TaskdError
from taskd.model import Failure, Outcome, Progress
from taskd.protocol.backlog import MESSAGE_COST, STEP, Backlog, backlog_size
from taskd.protocol.dialects import BARE, JSON_RPC
from taskd.protocol.framing import MAX_MESSAGE
from taskd.protocol.replies import (
    batch_reply,
    batch_too_large,
    not_json,
    progress_line,
    reply_line,
    result_or_error,
)
from taskd.protocol.request_ids import RequestIds
from taskd.protocol.requests import (
    AnyRequest,
    Batch,
    BatchMember,
    BatchReplies,
    Invalid,
    Parsed,
    Request,
    Work,
    parse,
    parse_in_steps,
    parse_member,
)

__all__ = ["MAX_OUTSTANDING", "SHORT", "BareReply", "Session"]

MAX_OUTSTANDING = 1000
"""Requests of one connection in flight at once: enough to keep any pool busy, and
few enough that one client cannot fill the server's queue of 10 000 alone."""

SHORT = 2048
"""Bytes that every request counts for: what it takes while it waits. Longer messages count as they are."""

_BLANK = b" \t\r\n"
_CONTAINERS = (b"{", b"[")

BareReply = Callable[[Outcome], bytes]
Unclaimed = Callable[[str, Outcome], object]
"""Gets the function and the outcome of a request that has no reply of its own."""


class Session(Generic[Work]):
    """The requests and owed replies of one connection. Does no I/O.

    `bare_reply` encodes the outcome of a bare request. `unclaimed` is called
    with the outcome of each notification, and with the failure of each message
    that cannot be read, whose error no caller can relate to a request. The reply
    to a batch has at most `max_batch_reply` bytes, errors aside. Whoever starts the
    requests keeps so many `copies` of each. `Work` is the type of `Request.work`,
    which belongs to whoever starts the requests.
    """

    # An empty deque takes 600 bytes: each is made only when something is put into it.
    __slots__ = (
        "_bare_reply",
        "_by_id",
        "_copies",
        "_has_begun",
        "_in_order",
        "_late_progress",
        "_max_batch_reply",
        "_outbox",
        "_steps",
        "_unclaimed",
        "backlog",
        "backlog_size",
        "closing",
        "in_flight",
        "large",
        "max_outstanding",
        "members",
        "owed",
        "refuses_rest",
    )

    def __init__(
        self,
        max_outstanding: int = MAX_OUTSTANDING,
        bare_reply: BareReply = result_or_error,
        unclaimed: Unclaimed = lambda function, outcome: None,  # noqa: ARG005
        *,
        begins_as_json: bool = False,
        max_batch_reply: int = MAX_MESSAGE,
        copies: int = 1,
    ) -> None:
        self.max_outstanding = max_outstanding
        self._max_batch_reply = max_batch_reply
        self._copies = copies
        self._bare_reply = bare_reply
        self._unclaimed = unclaimed
        self._has_begun = not begins_as_json
        self.backlog: Backlog | None = None
        """What has been received and not been read; None if that is nothing."""
        self.backlog_size = 0
        """The bytes of that, at most; 0 if these are few messages that are all short."""
        self._steps: Generator[None, None, Parsed] | None = None
        self._in_order: deque[Request[Work] | bytes] | None = None  # a request without a reply comes first
        self._outbox: list[bytes] = []
        self._late_progress: dict[Request[Work], bytes] | None = None
        self._by_id: RequestIds[Work] | None = None
        self.members = 0
        """The members of batches so far, beyond one of each."""
        self.closing = False
        self.refuses_rest = False
        """Whether nothing that is still to be read is of use."""
        self.in_flight: dict[Request[Work], None] = {}
        """The requests that have been started and not answered, oldest first."""
        self.large = 0
        """The bytes of long messages whose requests are in flight."""
        self.owed = 0
        """The bytes of replies that wait for others: bare ones for their turn, those to batches, progress."""

    @property
    def outstanding(self) -> int:
        """The number of requests in flight."""
        return len(self.in_flight)

    @property
    def is_idle(self) -> bool:
        """Whether everything received has been answered, and nothing is left to send."""
        return not self.in_flight and not self.backlog and not self._in_order and not self._outbox

    def find(self, request_id: bytes) -> Request[Work] | None:
        """Return the oldest request in flight that has this id, None if there is none.

        `request_id` is the JSON text of the id.
        """
        if self._by_id is None:
            self._by_id = RequestIds(self.in_flight)
        return self._by_id.find(request_id)

    # --- what comes in ---

    def receive(self, messages: list[bytes]) -> None:
        """Take in messages, in the order of their arrival. Messages after `refuse_rest` are dropped."""
        if not self._has_begun and messages:
            self._has_begun = messages[0].lstrip(_BLANK).startswith(_CONTAINERS)
            if not self._has_begun:
                self._refuse_stranger()
        if self.refuses_rest:
            return
        if self.backlog is None:
            self.backlog = deque(messages)
            if messages and len(messages[0]) > SHORT:  # only the first can be long
                self.backlog_size = sum(map(len, messages))
        else:
            self.backlog.extend(messages)
            if self.backlog_size:
                self.backlog_size += sum(map(len, messages))

    def receive_part(self, data: bytes) -> None:
        """Take a look at bytes of a message that is not complete: they may be enough to refuse the peer."""
        if not self._has_begun:
            begun = data.lstrip(_BLANK)
            if begun.startswith(_CONTAINERS):
                self._has_begun = True
            elif begun:
                self._refuse_stranger()

    def _refuse_stranger(self) -> None:
        if not self.refuses_rest:
            self.refuse_rest(not_json())

    def _queue_error(self, error: TaskdError) -> None:
        if self.backlog is None:
            self.backlog = deque()
        self.backlog.append(error)

    def refuse_rest(self, error: TaskdError | None = None) -> None:
        """Reply with `error`, if any, after all earlier messages: the rest of the stream cannot be read."""
        if error is not None:
            self._queue_error(error)
        self.refuses_rest = self.closing = True

    def end_of_input(self, unfinished: int = 0) -> None:
        """Note that the peer sends nothing more; `unfinished` counts the bytes of an incomplete message."""
        if unfinished and not self.closing:
            error = ParseError(
                f"the connection ended inside a message, {unfinished} bytes into it; its LF is missing"
            )
            self._queue_error(error)
        self.closing = True

    def requests(self) -> list[Request[Work]]:
        """Take one step through the messages; return the requests that may start now.

        More may follow at once if `has_more` is True afterwards, and after each `answer`.
        """
        started: list[Request[Work]] = []
        backlog = self.backlog
        if backlog is None:
            return started
        in_flight = self.in_flight
        left = STEP
        while backlog and left > 0 and len(in_flight) < self.max_outstanding:
            message = backlog.popleft()
            if type(message) is bytes:
                size = len(message)
                left -= size + MESSAGE_COST
                parsed = parse(message) if size <= STEP else self._parse_long(message, backlog)
                if type(parsed) is not Request:
                    self._not_one_request(parsed, backlog)
                    continue
            else:
                size, parsed = self._read_other(message, backlog)  # type: ignore[arg-type]
                left -= size + MESSAGE_COST
                if parsed is None:
                    continue
            request: Request[Work] = parsed  # type: ignore[assignment]
            in_flight[request] = None  # as `begin` does: a call of it would be felt here
            if size > SHORT:
                request.held = size * self._copies
                self.large += request.held
                self.backlog_size = max(self.backlog_size - size, 0)
            if request.dialect is BARE:
                if self._in_order is None:
                    self._in_order = deque((request,))
                else:
                    self._in_order.append(request)
            started.append(request)
        self._note_backlog(backlog)
        if self._by_id is not None:
            self._by_id.add(started)
        return started

    def begin(self, request: Request[Work], size: int) -> None:
        """Take in a request of `size` bytes that has been read already, behind the others."""
        self.in_flight[request] = None
        if size > SHORT:
            request.held = size * self._copies
            self.large += request.held
        if request.dialect is BARE:
            if self._in_order is None:
                self._in_order = deque()
            self._in_order.append(request)

    def _read_other(
        self, message: BatchMember | TaskdError, backlog: Backlog
    ) -> tuple[int, AnyRequest | None]:
        """Return the size of a member of a batch, and the request; None if there is none to start."""
        if not isinstance(message, BatchMember):
            self._refuse(Invalid(message))
            return 0, None
        size = message.size
        parsed = parse_member(message.text) if size <= STEP else self._parse_long(message, backlog)
        if parsed is None:
            return STEP, None
        is_request = self._joins_batch(parsed, message.replies)  # type: ignore[arg-type]
        return size, parsed if is_request else None  # type: ignore[return-value]

    def _note_backlog(self, backlog: Backlog) -> None:
        if not backlog:
            self.backlog = None
            self.backlog_size = 0
        elif not self.backlog_size:
            self.backlog_size = backlog_size(backlog)

    def _parse_long(self, message: bytes | BatchMember, backlog: Backlog) -> Parsed | None:
        """Take the next step in reading a long message.

        If that was not the last, the result is None, and the message comes first again.
        """
        self._steps = self._steps or parse_in_steps(message, STEP)
        try:
            next(self._steps)
        except StopIteration as end:
            self._steps = None
            parsed: Parsed = end.value
            return parsed
        backlog.appendleft(message)
        return None

    @property
    def has_more(self) -> bool:
        """Whether `requests` would take another step."""
        return bool(self.backlog) and len(self.in_flight) < self.max_outstanding

    def _reply_in_order(self, reply: bytes) -> None:
        """Reply to a message that is no request, behind the bare replies that are owed."""
        if self._in_order is None:
            self._outbox.append(reply)
        else:
            self._in_order.append(reply)
            self.owed += SHORT + len(reply)

    def _not_one_request(self, parsed: Parsed | None, backlog: Backlog) -> None:
        """Refuse a message that cannot be read, or put the members of a batch ahead of what follows it."""
        if type(parsed) is Batch:
            self.members += len(parsed.members) - 1
            replies = BatchReplies(len(parsed.members))
            backlog.extendleft(BatchMember(member, replies) for member in reversed(parsed.members))
        elif isinstance(parsed, Invalid):
            self._refuse(parsed)

    def _joins_batch(self, parsed: AnyRequest | Invalid, replies: BatchReplies) -> bool:
        """Return whether a member of a batch is a request; if it is not, reply to it."""
        if isinstance(parsed, Invalid):
            failure = Failure.of(parsed.error)
            if parsed.id is None:
                self._unclaimed(parsed.function, failure)
            self._reply_in_batch(replies, reply_line(JSON_RPC, parsed.id, failure))
            return False
        if parsed.is_notification:
            self._reply_in_batch(replies, None)
        else:
            parsed.batch = replies
        return True

    def _reply_in_batch(self, batch: BatchReplies, reply: bytes | None) -> None:
        self.owed += batch.add(reply)
        if not batch.missing and batch.replies:
            self.owed -= batch.size
            self._outbox.append(batch_reply(batch.replies))
            for follow in batch.when_replied:
                follow()

    def _refuse(self, invalid: Invalid) -> None:
        failure = Failure.of(invalid.error)
        if invalid.dialect is BARE:
            self._reply_in_order(self._bare_reply(failure))
        elif invalid.id is not None:
            self._outbox.append(reply_line(JSON_RPC, invalid.id, failure))
        else:
            # The request is unknown, so the error takes its place among the bare
            # replies, in a form that clients of both dialects understand.
            self._reply_in_order(reply_line(JSON_RPC, None, failure))
            self._unclaimed(invalid.function, failure)

    # --- what goes out ---

    def answer(self, request: Request[Work], outcome: Outcome) -> None:
        """Reply to a request with its outcome. Raises `StateError` for a second outcome."""
        try:
            del self.in_flight[request]
        except KeyError:
            raise StateError(f"a second reply to {request.function}") from None
        request.work = None
        if request.held:
            self.large -= request.held
        if self._by_id is not None:
            self._by_id = self._by_id.without(request)
        if self._late_progress:
            self._flush_progress(request)
        if request.dialect is BARE:
            reply = self._bare_reply(outcome)
            in_order = self._in_order
            if in_order[0] is request:  # type: ignore[index]
                in_order.popleft()  # type: ignore[union-attr]
                self._outbox.append(reply)
                # In most cases the next one is not ready.
                following = in_order[0] if in_order else b""
                if type(following) is bytes or following.ready is not None:  # type: ignore[union-attr]
                    self._release()
            else:
                request.ready = reply
                self.owed += SHORT + len(reply)
                request.args = None  # type: ignore[misc]  # only the reply waits for its turn
        elif request.batch is not None:
            self._answer_member(request, request.batch, outcome)
        elif request.id is not None:
            self._outbox.append(reply_line(JSON_RPC, request.id, outcome))
        else:
            self._unclaimed(request.function, outcome)

    def _answer_member(self, request: Request[Work], batch: BatchReplies, outcome: Outcome) -> None:
        reply = reply_line(JSON_RPC, request.id, outcome)
        if not self.has_room(request, len(reply)):
            outcome = Failure.of(batch_too_large(self._max_batch_reply))
            reply = reply_line(JSON_RPC, request.id, outcome)
        self._reply_in_batch(batch, reply)

    def has_room(self, request: Request[Work], size: int) -> bool:
        """Return whether a reply of `size` bytes has room in the reply to its batch, if there is one."""
        return request.batch is None or request.batch.size + size < self._max_batch_reply

    def needs(self, request: Request[Work]) -> bool:
        """Return whether replies wait for this request: it is the oldest, or in the batch of the oldest."""
        oldest = next(iter(self.in_flight), request)
        return request is oldest or (request.batch is not None and request.batch is oldest.batch)

    def report(self, request: Request[Work], progress: Progress, *, congested: bool = False) -> None:
        """Report a request's progress, if its caller asked for progress.

        If the peer is slow to read (`congested`), the report waits for
        `take(resumed=True)`, and only the latest report of each request is kept.
        """
        if request not in self.in_flight or not request.wants_progress:
            return
        line = progress_line(request.id, progress)
        if congested:
            if self._late_progress is None:
                self._late_progress = {}
            self.owed += len(line) - len(self._late_progress.get(request, b""))
            self._late_progress[request] = line
        else:
            if self._late_progress is not None:
                self.owed -= len(self._late_progress.pop(request, b""))
            self._outbox.append(line)

    def notify(self, line: bytes) -> None:
        """Send a notification that no request has to do with."""
        self._outbox.append(line)

    def _flush_progress(self, request: Request[Work]) -> None:
        assert self._late_progress is not None
        if line := self._late_progress.pop(request, b""):
            self.owed -= len(line)
            self._outbox.append(line)

    def _release(self) -> None:
        """Move the bare replies that waited for the one before them to the outbox."""
        in_order = self._in_order
        while in_order:
            first = in_order[0]
            ready = first if type(first) is bytes else first.ready  # type: ignore[union-attr]
            if ready is None:
                return
            in_order.popleft()
            self._outbox.append(ready)
            self.owed -= SHORT + len(ready)
        self._in_order = None

    def take(self, *, resumed: bool = False) -> list[bytes]:
        """Return, and forget, the messages to send: in order, without framing.

        `resumed` says that the peer reads again: reports that waited go out too.
        """
        if resumed and self._late_progress:
            self._outbox.extend(self._late_progress.values())
            self.owed -= sum(map(len, self._late_progress.values()))
            self._late_progress = None
        if taken := self._outbox:
            self._outbox = []
        return taken

    def clear(self) -> int:
        """Forget everything: the connection is gone, and no reply is owed.

        Returns how many messages had been received and not been read.
        """
        unread = 0 if self.backlog is None else len(self.backlog)
        for request in self.in_flight:
            request.batch = None
        self.in_flight.clear()
        self.backlog = self._steps = self._in_order = self._late_progress = self._by_id = None
        self._outbox = []
        self.backlog_size = self.large = self.owed = 0
        self.refuses_rest = self.closing = True
        return unread

    # --- state ---

    @property
    def held(self) -> int:
        """The bytes held for the connection here: messages, requests in flight, and replies that wait."""
        return SHORT * len(self.in_flight) + self.large + self.owed + self.backlog_size

    @property
    def wants_data(self) -> bool:
        """Whether to continue reading from the peer."""
        return not self.closing and not self.backlog and len(self.in_flight) < self.max_outstanding

    @property
    def finished(self) -> bool:
        """Whether nothing more will be received or sent, so that the connection may be closed."""
        return self.closing and self.is_idle
