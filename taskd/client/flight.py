"""Many calls in flight on one blocking connection: which are sent, which have ended, which are sent again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any

from taskd.client.answers import not_in_time
from taskd.client.sockets import Connection
from taskd.client.tokens import has_expired
from taskd.client.waiting import Reply
from taskd.client.words import OnProgress
from taskd.errors import TaskdError
from taskd.model import Call, Outcome

__all__ = ["Ended", "Flight"]

Ended = tuple[Any, Outcome | TaskdError]
"""A row, and the outcome of its call or why there is none."""


class _RowReply(Reply):
    """The reply to the call of a row; it notes its end in a list."""

    __slots__ = ("_ended", "call", "request_id", "row", "until")

    def __init__(
        self,
        row: object,
        call: Call,
        until: float | None,
        on_progress: OnProgress | None,
        ended: list[_RowReply],
    ) -> None:
        super().__init__(on_progress)
        self.row = row
        self.call = call
        self.until = until
        self.request_id = b""
        self._ended = ended

    def ended(self, outcome: Outcome) -> None:
        super().ended(outcome)
        self._ended.append(self)

    def failed(self, error: Any) -> None:
        super().failed(error)
        self._ended.append(self)


class Flight:
    """Calls, each of a row, of which some are in flight. `wait` is in seconds, for each of them.

    If the token `is_renewable`, calls that are refused because it has expired are sent once more.
    """

    def __init__(
        self,
        calls: Iterable[tuple[Any, Call]],
        wait: float | None,
        on_progress: OnProgress | None,
        *,
        is_renewable: bool = False,
    ) -> None:
        self._is_renewable = is_renewable
        self._expired_on: Connection | None = None  # since then, no call has got an answer
        self._calls = iter(calls)
        self._wait = wait
        self._on_progress = on_progress
        self._again: deque[tuple[Any, Call]] = deque()
        self._in_flight: dict[bytes, _RowReply] = {}
        self._ended: list[_RowReply] = []

    def _next(self) -> tuple[Any, Call] | None:
        return self._again.popleft() if self._again else next(self._calls, None)

    def has_more(self) -> bool:
        """Return whether a call is left to be sent."""
        if not self._again and (following := next(self._calls, None)) is not None:
            self._again.append(following)
        return bool(self._again)

    def fail_next(self, error: TaskdError) -> Ended:
        """End the next call, which cannot be sent."""
        row, _ = self._again.popleft()
        return row, error

    def run(self, connection: Connection, at_once: int, deadline: float) -> Iterator[Ended]:
        """Send calls while the connection lasts, up to `at_once` at the same time; yield those that end.

        What was not sent is kept for the next connection, until the `deadline`.
        """
        while True:
            self._fill(connection, at_once)
            if not self._in_flight and not self._ended:
                return
            if not self._ended:
                oldest = next(iter(self._in_flight.values()))
                if not connection.wait(oldest.until):
                    self._give_up(connection)
            for reply in self._in_flight.values() if self._on_progress is not None else ():
                reply.report()
            ended = self._ended[:]
            self._ended.clear()
            for reply in ended:
                self._in_flight.pop(reply.request_id, None)
                reply.report()
                if self._may_retry(reply, connection, deadline):
                    self._again.append((reply.row, reply.call))
                elif reply.outcome is not None:
                    yield reply.row, reply.outcome
                elif reply.error is not None:
                    yield reply.row, reply.error

    def _may_retry(self, reply: _RowReply, connection: Connection, deadline: float) -> bool:
        """Return whether a call that was not run may be sent on another connection."""
        if reply.outcome is None:
            may_retry = not connection.conversation.is_foreign and monotonic() < deadline
            return reply.was_not_sent and may_retry
        if not (self._is_renewable and has_expired(reply.outcome)):
            self._expired_on = None
            return False
        if self._expired_on is None:
            self._expired_on = connection
        return self._expired_on is connection

    def _fill(self, connection: Connection, at_once: int) -> None:
        added = []
        while len(self._in_flight) < at_once and connection.is_usable:
            following = self._next()
            if following is None:
                break
            row, call = following
            until = None if self._wait is None else monotonic() + self._wait
            reply = _RowReply(row, call, until, self._on_progress, self._ended)
            reply.request_id = connection.conversation.call(call, reply)
            self._in_flight[reply.request_id] = reply
            added.append(reply)
        connection.send(*added)

    def _give_up(self, connection: Connection) -> None:
        """End the calls whose time is over, and have their tasks cancelled."""
        assert self._wait is not None
        now = monotonic()
        for request_id, reply in list(self._in_flight.items()):
            if reply.until is None or reply.until > now:
                return  # those behind it were sent later
            if reply.is_done:
                continue
            connection.conversation.cancel(request_id)
            connection.conversation.detach(request_id)
            reply.outcome = None
            reply.error = not_in_time(reply.call.function, self._wait, "it was asked to be cancelled")
        connection.flush()

    def abandon(self, connection: Connection) -> None:
        """Have what is in flight cancelled, and close the connection."""
        connection.abandon(self._in_flight)
