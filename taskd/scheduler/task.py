"""The task: an accepted call on its way through the scheduler and the pool, and its subscribers."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from taskd.model import Call, Outcome, Progress
from taskd.scheduler.budget import Account
from taskd.scheduler.parties import Lane, Party
from taskd.scheduler.quotas import Quota
from taskd.scheduler.states import DONE, NEW, TaskState
from taskd.scheduler.stats import FunctionStats
from taskd.scheduler.stops import Stop

__all__ = ["NOBODY", "Nobody", "Subscriber", "Task"]


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

    def needs(self, key: Any) -> bool:
        """Return whether a task must start although the subscriber is full: its outcome makes room."""

    def account(self) -> Account | None:
        """Return the account for what is held for the subscriber; None if nothing is."""

    def wants_result(self, key: Any, size: int) -> bool:
        """Return whether a result that has `size` bytes so far can be of use."""

    def task_progressed(self, key: Any, progress: Progress) -> None:
        """Receive a task's progress. `flush` follows."""

    def task_ended(self, key: Any, outcome: Outcome) -> None:
        """Receive a task's outcome. `flush` follows."""

    def flush(self) -> None:
        """Pass on what has been received; called once for several outcomes and reports."""


class Nobody:
    """The subscriber of a task that nobody waits for."""

    is_full = False
    lane = Lane(Party("nobody"))

    def needs(self, key: object) -> bool:
        """Return True: nothing stops these tasks."""
        return True

    def account(self) -> Account | None:
        """Return None, since nothing is held."""
        return None

    def wants_result(self, key: object, size: int) -> bool:
        """Return False, since every result is dropped."""
        return False

    def task_progressed(self, key: object, progress: Progress) -> None:
        """Drop the progress."""

    def task_ended(self, key: object, outcome: Outcome) -> None:
        """Drop the outcome."""

    def flush(self) -> None:
        """Do nothing."""


NOBODY: Subscriber = Nobody()
"""The replacement for a subscriber that has gone."""


class Departed(Nobody):
    """The replacement for a subscriber that has gone, while its account holds the tasks' arguments.

    The keys of its tasks are the bytes to release.
    """

    def __init__(self, account: Account) -> None:
        self._account = account

    def task_ended(self, key: int, outcome: Outcome) -> None:  # type: ignore[override]
        """Release the arguments of a task."""
        self._account.release(key)


class Task(msgspec.Struct, eq=False):
    """An accepted call. Its number is for people, and unique on one server.

    `subscriber`, which knows the task as `key`, submitted the task, which waits
    in `lane`; `others` also receive its progress and outcome. Times are on the server's clock, in
    seconds: `received`, `deadline` (before which the task must be started, None
    for no deadline) and `started` (when its function began, as far as the
    scheduler knows). `limit` is in seconds of run time, None for none.
    `attempts` counts how often the task was given to a worker, `losses` how
    often a worker ended before it had begun the task. `quota` has the limits of its owner, if any.

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
    quota: Quota | None = None
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

    def forget_arguments(self) -> None:
        """Drop the arguments of an ended task, which may still have a place among others."""
        self.call, self.key = Call(self.call.function), None

    def detach(self, account: Account | None = None, held: int = 0) -> None:
        """Forget the subscriber that submitted the task; the task goes on.

        When it ends, `held` bytes of the account are released.
        """
        if account is None or not held:
            self.subscriber, self.key = NOBODY, None
        elif self.is_in_flight:
            self.subscriber, self.key = Departed(account), held
        else:
            account.release(held)
