"""A task: an accepted call on its way through the scheduler and the pool."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from taskd.model import Call, Outcome, Progress
from taskd.scheduler.states import DONE, NEW, TaskState
from taskd.scheduler.stats import FunctionStats
from taskd.scheduler.stops import Stop

__all__ = ["NOBODY", "Subscriber", "Task"]


class Subscriber(Protocol):
    """Whoever wants the progress and the outcomes of tasks: a connection, say.

    `key` is what the subscriber itself knows a task by.
    """

    @property
    def is_full(self) -> bool:
        """Whether it leaves too much unread: none of the tasks that it submitted is started meanwhile."""

    def task_progressed(self, key: Any, progress: Progress) -> None:
        """Take a task's progress. `flush` follows."""

    def task_ended(self, key: Any, outcome: Outcome) -> None:
        """Take a task's outcome. `flush` follows."""

    def flush(self) -> None:
        """Pass on what has been taken, at the end of a batch of it."""


class _Nobody:
    """The subscriber of a task for which nobody waits."""

    is_full = False

    def task_progressed(self, key: object, progress: Progress) -> None:
        """Drop it."""

    def task_ended(self, key: object, outcome: Outcome) -> None:
        """Drop it."""

    def flush(self) -> None:
        """Do nothing."""


NOBODY: Subscriber = _Nobody()
"""Takes the place of a subscriber that has gone."""


class Task(msgspec.Struct, eq=False):
    """One accepted call. Its number is for people, and unique on one server.

    `subscriber`, which knows the task as `key`, submitted it; `others` are
    whoever else wants to know what becomes of it. Times are on the server's
    clock, in seconds: `received`, `deadline` (before which the task must be
    started, None for no matter) and `started` (when its function began, as far
    as the scheduler knows). `limit` is in seconds of run time, None for none.
    `attempts` counts how often the task was given to a worker, `losses` how
    often a worker ended before it had begun the task.

    Made and forgotten within microseconds, in great numbers: hence a struct,
    and one subscriber without a list.
    """

    number: int
    call: Call
    stats: FunctionStats
    subscriber: Subscriber
    key: Any
    received: float
    priority: int
    limit: float | None = None
    deadline: float | None = None
    started: float = 0.0
    state: TaskState = NEW
    worker: int = 0
    attempts: int = 0
    losses: int = 0
    stop: Stop | None = None
    others: list[tuple[Subscriber, Any]] | None = None

    @property
    def is_in_flight(self) -> bool:
        """Whether it has been accepted, and has not ended."""
        return self.state is not NEW and self.state is not DONE

    @property
    def is_throttled(self) -> bool:
        """Whether it must wait because its submitter does not read what it is sent."""
        return self.subscriber.is_full

    def subscribe(self, subscriber: Subscriber, key: Any) -> None:
        """Have one more subscriber get what is still to come of this task."""
        if self.others is None:
            self.others = []
        self.others.append((subscriber, key))

    def detach(self) -> None:
        """Forget the subscriber that submitted the task; the task goes on."""
        self.subscriber, self.key = NOBODY, None
