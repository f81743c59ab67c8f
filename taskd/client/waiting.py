"""A call as a thread waits for it: its outcome is kept, and its progress until the thread passes it on."""

from __future__ import annotations

from taskd.client.words import OnProgress
from taskd.errors import TaskdError, Unreachable
from taskd.model import Outcome, Progress

__all__ = ["Reply"]


class Reply:
    """The reply to one call. Is a `taskd.client.pending.Waiter`.

    `was_written` is whether the server may have the call.
    """

    __slots__ = ("_on_progress", "_reports", "error", "outcome", "was_written")

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        self.outcome: Outcome | None = None
        self.error: TaskdError | None = None
        self.was_written = False
        self._on_progress = on_progress
        self._reports: list[Progress] = []

    @property
    def is_done(self) -> bool:
        """Whether the call has ended, or its connection is lost."""
        return self.outcome is not None or self.error is not None

    @property
    def was_not_sent(self) -> bool:
        """Whether the connection was lost, and the server cannot have run the call."""
        if not isinstance(self.error, Unreachable):
            return False
        return not (self.was_written and self.error.data["sent"])

    def progressed(self, progress: Progress) -> None:
        """Keep progress. As `Waiter.progressed`."""
        self._reports.append(progress)

    def ended(self, outcome: Outcome) -> None:
        """Keep the outcome. As `Waiter.ended`."""
        self.outcome = outcome

    def failed(self, error: Unreachable) -> None:
        """Keep the reason. As `Waiter.failed`."""
        self.error = error

    def report(self) -> None:
        """Pass on the progress that has arrived, outside of the conversation: the callback may raise."""
        while self._reports:
            progress = self._reports.pop(0)
            if self._on_progress is not None:
                self._on_progress(progress)
