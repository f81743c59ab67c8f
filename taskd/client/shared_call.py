"""A call on a shared connection, as a Twisted program waits for it."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from taskd.client.link import OnProgress, report
from taskd.client.pending import PendingCalls
from taskd.errors import Unreachable
from taskd.model import Call, Outcome, Progress

__all__ = ["SharedCall"]


class SharedCall:
    """One of the `PendingCalls` of a connection.

    Is a `taskd.client.link.PendingCall`, and its own `taskd.client.pending.Waiter`.
    """

    __slots__ = ("_calls", "_on_progress", "_request_id", "outcome")

    def __init__(self, calls: PendingCalls, call: Call, on_progress: OnProgress | None) -> None:
        self.outcome: Deferred[Outcome] = Deferred()
        self._on_progress = on_progress
        self._calls = calls
        self._request_id = calls.add(call, self)

    def cancel(self) -> None:
        """Have the task cancelled. As `PendingCall.cancel`."""
        self._calls.cancel(self._request_id)

    def detach(self) -> None:
        """Wait no more. As `PendingCall.detach`."""
        self._calls.detach(self._request_id)

    def progressed(self, progress: Progress) -> None:
        """Pass progress on. As `Waiter.progressed`."""
        report(self._on_progress, progress)

    def ended(self, outcome: Outcome) -> None:
        """Fire. As `Waiter.ended`."""
        self.outcome.callback(outcome)

    def failed(self, error: Unreachable) -> None:
        """Fail. As `Waiter.failed`."""
        self.outcome.errback(error)
