"""The task: an accepted call on its way through the scheduler and the pool, and its subscribers."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from taskd.model import Call, Outcome, Progress
from taskd.scheduler.parties import Lane, Party
from taskd.scheduler.states import DONE, NEW, TaskState
from taskd.scheduler.stats import FunctionStats
from taskd.scheduler.stops import Stop

__all__ = ["NOBODY", "Subscriber", "Task"]


class Subscriber(Protocol):
    """A receiver of the progress and the outcomes of tasks, such as a connection.

    `key` is the subscriber's own name for a task.
    """

    @property
    def lane(self) -> Lane:
        """Where the tasks that it submits wait, unless they are those of another caller."""

    @property
    def is_full(self) -> bool:
        """Whether the subscriber leaves too much unread; the tasks that it submitted wait meanwhile."""

    def task_progressed(self, key: Any, progress: Progress) -> None:
        """Receive a task's progress. `flush` follows."""

    def task_ended(self, key: Any, outcome: Outcome) -> None:
        """Receive a task's outcome. `flush` follows."""

    def flush(self) -> None:
        """Pass on what has been received; called once for several outcomes and reports."""


class _Nobody:
    """The subscriber of a task that nobody waits for."""

    is_full = False
    lane = Lane(Party("nobody"))

    def task_progressed(self, key: object, progress: Progress) -> None:
        """Drop the progress."""

    def task_ended(self, key: object, outcome: Outcome) -> None:
        """Drop the outcome."""

    def flush(self) -> None:
        """Do nothing."""


NOBODY: Subscriber = _Nobody()
"""The replacement for a subscriber that has gone."""


class Task(msgspec.Struct, eq=False):
    """An accepted call. Its number is for people, and unique on one server.

    `subscriber`, which knows the task as `key`, submitted the task, which waits
    in `lane`; `others` also receive its progress and outcome. Times are on the server's clock, in
    seconds: `received`, `deadline` (before which the task must be started, None
    for no deadline) and `started` (when its function began, as far as the
    scheduler knows). `limit` is in seconds of run time, None for none.
    `attempts` counts how often the task was given to a worker, `losses` how
    often a worker ended before it had begun the task.

    Tasks are created and dropped within microseconds, in great numbers: hence a
    struct, with its first subscriber outside the list.
    """

    number: int
    call: Call
    stats: FunctionStats
    subscriber: Subscriber
    key: Any
    received: float
    priority: int
    lane: Lane
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
        """Whether the task has been accepted and has no outcome yet."""
        return self.state is not NEW and self.state is not DONE

    def subscribe(self, subscriber: Subscriber, key: Any) -> None:
        """Add a subscriber, which receives the task's further progress and its outcome."""
        if self.others is None:
            self.others = []
        self.others.append((subscriber, key))

    def detach(self) -> None:
        """Forget the subscriber that submitted the task; the task goes on."""
        self.subscriber, self.key = NOBODY, None
