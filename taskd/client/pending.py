"""Calls that share a connection, told apart by ids: lines in, outcomes out, and no I/O.

Each call is sent as JSON-RPC under a number, by whose text it is known. Its
waiter gets the progress and, exactly once, the end. The rules:

- at most `window` calls are sent and not answered; the others wait to be sent;
- a call that has a waiter no more keeps its place until it is answered, so
  that no more are sent than the server takes;
- what belongs to no call (a late reply, progress that nobody asked for) is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from typing import Protocol

from msgspec import Raw

from taskd.client.tokens import AUTH_ID, ShownToken, has_expired
from taskd.errors import Busy, Cancelled, NotAllowed, ShuttingDown, TooLarge, Unreachable
from taskd.model import Call, Failure, Outcome, Progress, Result
from taskd.protocol.replies import EventPushed, parse_reply
from taskd.protocol.request_lines import cancel_line, request_line

__all__ = ["CANCELLED_UNSENT", "NO_REPLY", "OnEvent", "PendingCalls", "Waiter"]

OnEvent = Callable[[Raw], object]
"""What is called with each event that the server pushes, as JSON text; events are not told apart by calls."""

NO_REPLY = Result(Raw(b"null"))
"""The outcome of a call that was sent and detached."""

CANCELLED_UNSENT = Failure.of(Cancelled("the task was cancelled before it was sent", was="waiting"))
"""The outcome of a call that was cancelled before any task server had it."""


SHORT = 1024
"""Bytes of a request that is not too long for any server."""


_REPLY_BEGINS = re.compile(
    rb"""
    \{ \s* "jsonrpc" \s* : \s* "2\.0" \s* , \s*
    (?: "id" \s* : \s* (?P<id>[0-9]+) \s* , \s* "(?:result|error)" | "method" \s* : \s* "taskd\.event" )
    """,
    re.VERBOSE,
)
"""The beginning of a reply to a call, or of an event, as task servers send them."""


class Waiter(Protocol):
    """Whoever waits for the end of one call."""

    def progressed(self, progress: Progress) -> None:
        """Take the progress of the call's task."""

    def ended(self, outcome: Outcome) -> None:
        """Take the outcome of the call."""

    def failed(self, error: Unreachable) -> None:
        """Take the reason why there will be no outcome: the connection is gone."""


class PendingCalls:
    """The calls that await their replies on one connection.

    `send` gets lines without their LF; it is called only between `opened` and
    `fail`. After `fail` another connection may be opened: the numbers go on.
    `on_event` gets the events that are pushed on the connection; `shown` is for the tokens
    that it shows. If the first is refused, every call ends with that failure, since none is run.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        window: int,
        on_event: OnEvent | None = None,
        shown: ShownToken | None = None,
    ) -> None:
        self._send = send
        self._on_event = on_event
        self._shown = shown
        self._window = window
        self._numbers = count(1)
        self._waiters: dict[bytes, Waiter | None] = {}
        self._unsent: dict[bytes, bytes] = {}  # lines, in order; their calls have waiters
        self._cancelled: set[bytes] = set()  # of those that are sent
        self._detached: set[bytes] = set()  # of those that are not sent yet
        self._unread: list[bytes] = []  # of those that are sent, and that the server will not read
        self._is_open = False
        self.is_refused = False
        """Whether the server has refused a message: it reads nothing that was sent after that."""
        self.is_leaving = False
        """Whether the server has refused a call because it is about to stop."""
        self.denial: Failure | None = None
        """Why the server lets nobody in over this connection any more: its token."""
        self._sizes: dict[bytes, int] = {}  # of the lines that are long, with their LF

    def __len__(self) -> int:
        """Return how many calls have not been answered, sent or not."""
        return len(self._waiters)

    def add(self, call: Call, waiter: Waiter) -> bytes:
        """Send a call, now or when that is possible; returns the id that it is known by.

        Its waiter is never called before this returns.
        """
        request_id = b"%d" % next(self._numbers)
        line = request_line(call, request_id)
        self._waiters[request_id] = waiter
        if len(line) > SHORT:
            self._sizes[request_id] = len(line) + 1
        if self._is_open and len(self._waiters) <= self._window:
            self._send(line)
        else:
            self._unsent[request_id] = line
        return request_id

    def cancel(self, request_id: bytes) -> None:
        """Have the task of a call cancelled; a call that was not sent yet ends at once."""
        waiter = self._waiters.get(request_id)
        if waiter is None:
            return
        if request_id in self._unsent:
            self._forget_unsent(request_id)
            waiter.ended(CANCELLED_UNSENT)
        elif request_id not in self._cancelled:
            self._cancelled.add(request_id)
            self._send(cancel_line(request_id))

    def detach(self, request_id: bytes) -> None:
        """End a call without its reply, now or once it is sent."""
        waiter = self._waiters.get(request_id)
        if waiter is None:
            return
        if request_id in self._unsent:
            self._detached.add(request_id)
        else:
            self._waiters[request_id] = None
            waiter.ended(NO_REPLY)

    def _forget_unsent(self, request_id: bytes) -> None:
        del self._unsent[request_id]
        del self._waiters[request_id]
        self._detached.discard(request_id)

    # --- what the connection does ---

    def opened(self, token: str | None = None) -> None:
        """Send the token, if there is one, and the calls that waited for the connection."""
        self.is_refused = self.is_leaving = False
        self.denial = None
        self._is_open = True
        if token is not None:
            assert self._shown is not None
            self._send(self._shown.first(token))
        self._send_more()

    def show(self, token: str) -> None:
        """Show a token, ahead of the calls that follow."""
        assert self._shown is not None
        self._send(self._shown.line(token))

    def deny(self, failure: Failure) -> None:
        """End every call: the server lets nobody in over this connection, and has run none of them."""
        self.denial = failure
        self._is_open = False  # for calls that are added before another connection is opened
        self._end_all(failure)

    @property
    def takes_more(self) -> bool:
        """Whether the server reads what is sent from now on, as far as is known."""
        return not self.is_refused and self.denial is None

    def _send_more(self) -> None:
        unsent = self._unsent
        while unsent and self.takes_more and len(self._waiters) - len(unsent) < self._window:
            request_id = next(iter(unsent))
            self._send(unsent.pop(request_id))
            if request_id in self._detached:
                self._detached.remove(request_id)
                self.detach(request_id)

    def received(self, line: bytes) -> None:
        """Take in a reply or a notification. Raises `ParseError` for anything else."""
        reply = parse_reply(line)
        request_id = b"" if reply.id is None else bytes(reply.id)
        body = reply.body
        if isinstance(body, Progress):
            waiter = self._waiters.get(request_id)
            if waiter is not None:
                waiter.progressed(body)
            return
        if isinstance(body, EventPushed):
            if self._on_event is not None:
                self._on_event(body.event)
            return
        if reply.id is None and isinstance(body, Failure):
            self._refused(body)
            return
        waiter = self._waiters.pop(request_id, None)
        if self._unsent:
            self._send_more()
        if self._cancelled:
            self._cancelled.discard(request_id)
        self._sizes.pop(request_id, None)
        if type(body) is Failure:
            self._failed(body)
        if waiter is not None:
            waiter.ended(body)
        else:
            self._unawaited(request_id, body)

    def drop(self, head: bytes, error: Unreachable) -> bool:
        """Fail the call whose reply begins with `head` and is too long to be read, if that is a reply at all.

        Returns whether it is, or is an event, so that what follows it can be read.
        """
        begins = _REPLY_BEGINS.match(head)
        if begins is None:
            return False
        request_id = begins["id"]
        if request_id is not None:
            waiter = self._waiters.pop(request_id, None)
            self._cancelled.discard(request_id)
            self._sizes.pop(request_id, None)
            self._send_more()
            if waiter is not None:
                waiter.failed(error)
        return True

    def _unawaited(self, request_id: bytes, outcome: Outcome) -> None:
        """Take in an outcome that no call awaits: the answer to a token, or one that is of no interest."""
        if self._shown is not None and request_id == AUTH_ID:
            denial = self._shown.answered(outcome)
            if denial is not None:
                self.deny(denial)

    def _failed(self, failure: Failure) -> None:
        """Note what the failure of a call says of the server."""
        if failure.code == ShuttingDown.code:
            self.is_leaving = True
        elif self._shown is not None and has_expired(failure):
            self.denial = failure
            self._is_open = False

    def _refused(self, failure: Failure) -> None:
        """Take in an error about no call: the server could not read one, or has refused the connection."""
        if failure.code == Busy.code:
            self._end_all(failure)
        elif failure.code == NotAllowed.code:
            if self._shown is not None and self._shown.was_accepted:
                self.denial = failure  # and calls that are in flight may have been run
            else:
                self.deny(failure)
        elif failure.code == TooLarge.code:
            self._refuse_longest(failure)

    def _refuse_longest(self, failure: Failure) -> None:
        """End the call that is too long for the server. Such an error has no id.

        Replies to what was sent before it may still come; what was sent after it is not read.
        """
        self.is_refused = True
        limit = failure.data.get("limit", SHORT) if isinstance(failure.data, dict) else SHORT
        sent = [each for each in self._waiters if each not in self._unsent]
        refused = next((each for each in sent if self._sizes.get(each, 0) > limit), None)
        if refused is None:
            self.refuse_oldest(failure)
            return
        self._unread = sent[sent.index(refused) + 1 :]
        waiter = self._waiters.pop(refused)
        if waiter is not None:
            waiter.ended(failure)

    def fail_unread(self, error: Unreachable) -> None:
        """Fail the calls that the server will not read, after it has refused one."""
        unread = [*self._unread, *self._unsent]
        self._unread = []
        self._unsent.clear()
        for request_id in unread:
            waiter = self._waiters.pop(request_id, None)
            if waiter is not None:
                waiter.failed(error)

    def refuse_oldest(self, failure: Failure) -> None:
        """End the call that was sent first: the server has not read it, since it is too long.

        Such an error has no id, and comes after the replies to all that was sent before; what was sent
        after it is not read.
        """
        oldest = next((each for each in self._waiters if each not in self._unsent), None)
        if oldest is not None:
            waiter = self._waiters.pop(oldest)
            self._cancelled.discard(oldest)
            if waiter is not None:
                waiter.ended(failure)

    def _end_all(self, failure: Failure) -> None:
        """End every call: the server has refused the connection, and has read none of them."""
        waiters, self._waiters = self._waiters, {}
        self._unsent.clear()
        self._cancelled.clear()
        self._detached.clear()
        for waiter in waiters.values():
            if waiter is not None:
                waiter.ended(failure)

    def fail(self, error: Callable[[bool], Unreachable]) -> None:
        """Fail every call: the connection is lost. `error(sent)` makes the reasons."""
        waiters, self._waiters = self._waiters, {}
        unsent, self._unsent = self._unsent, {}
        self._sizes.clear()
        self._cancelled.clear()
        self._detached.clear()
        self._is_open = False
        for request_id, waiter in waiters.items():
            if waiter is not None:
                waiter.failed(error(request_id not in unsent))
