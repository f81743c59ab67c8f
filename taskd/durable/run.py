"""One claimed task of the store, as the subscriber of its task in the scheduler."""

from __future__ import annotations

from typing import Protocol

from taskd.model import Outcome, Progress, Raised
from taskd.scheduler.parties import Lane
from taskd.scheduler.task import Task
from taskd.store.records import Record

__all__ = ["Attempts", "Run"]


class Attempts(Protocol):
    """Whoever notes the start and the end of each attempt."""

    def started(self, run: Run, /) -> None:
        """Note the start of an attempt."""

    def ended(self, run: Run, outcome: Outcome, /) -> None:
        """Settle an attempt."""


class Run:
    """A stored task that this node has claimed; the subscriber of its task in the scheduler."""

    __slots__ = (
        "_tasks",
        "has_started",
        "is_cancelled",
        "is_marked",
        "lane",
        "raised",
        "record",
        "retries",
        "task",
    )

    is_full = False

    def __init__(self, tasks: Attempts, record: Record, lane: Lane) -> None:
        self._tasks = tasks
        self.lane = lane
        self.record = record
        self.task: Task | None = None
        self.has_started = False
        self.is_marked = self.is_cancelled = False
        """Whether the store has its start before a worker has it, and whether it was cancelled meanwhile."""
        self.raised: Raised | None = None
        self.retries: int | None = None
        """The retries that the task was submitted with, None for the function's own."""

    @property
    def attempt(self) -> int:
        """The number of the attempt that is running, or of the last one."""
        return self.record.attempt + self.has_started

    def mark(self) -> None:
        """Count the attempt as started, before a worker has been given the task."""
        self.has_started = self.is_marked = True

    def started(self) -> None:
        """Note that a worker has been given the task; what it returns unbegun is given out again."""
        if not self.has_started or self.is_marked:
            self.has_started = True
            self._tasks.started(self)

    def failed(self, raised: Raised) -> None:
        """Keep what the worker reports of the attempt that has failed, until it is settled."""
        self.raised = raised

    def needs(self, key: object) -> bool:
        """Return True: nothing stops it."""
        return True

    def account(self) -> None:
        """Return None, since nothing is held for a connection."""
        return

    def wants_result(self, key: object, size: int) -> bool:
        """Return True: it is stored."""
        return True

    def task_progressed(self, key: object, progress: Progress) -> None:
        """Drop the progress."""

    def flush(self) -> None:
        """Do nothing."""

    def task_ended(self, key: object, outcome: Outcome) -> None:
        """Settle the attempt."""
        self._tasks.ended(self, outcome)
