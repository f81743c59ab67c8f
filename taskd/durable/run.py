"""One claimed task of the store, as the subscriber of its task in the scheduler."""

from __future__ import annotations

from math import inf
from typing import Protocol

import msgspec
from msgspec import Raw

from taskd.durable.moments import RunOptions
from taskd.durable.reports import Reports
from taskd.durable.vault import UNREADABLE
from taskd.model import Call, Failure, Grant, Options, Outcome, Progress, Raised, StoredCall
from taskd.scheduler.parties import Lane
from taskd.scheduler.quotas import Quota
from taskd.scheduler.task import Subscriber, Task
from taskd.server.position import Position
from taskd.store.records import Record, first_seq

__all__ = ["Attempts", "Run", "Runner"]


class SharedStore(Protocol):
    """A store that other nodes share."""

    @property
    def node(self) -> int:
        """The number of this node."""


class Attempts(Protocol):
    """Whoever notes the start and the end of each attempt."""

    @property
    def elsewhere(self) -> SharedStore | None:
        """The store as other nodes share it, None if there are none."""

    def started(self, run: Run, /) -> None:
        """Note the start of an attempt."""

    def ended(self, run: Run, outcome: Outcome, /) -> None:
        """Settle an attempt."""

    def progressed(self, run: Run, progress: Progress, /) -> None:
        """Pass progress on to whoever has called the function."""

    def reports(self, run: Run, /) -> Reports:
        """Return where the progress and the partial results of an attempt go."""


class Runner(Protocol):
    """The task server, as far as stored tasks need it."""

    def run(self, call: Call, subscriber: Subscriber, lane: Lane) -> Task:
        """Queue a task. Raises `TaskdError` if there is no such function."""

    def limit(self, grant: Grant) -> Quota:
        """Return the limits of an owner, which are those of this grant from now on."""

    def stored_lane(self, owner: str, running: int | None) -> Lane:
        """Return the lane of an owner's stored tasks; `running` may run, unless more is known of that."""

    def withdraw(self, task: Task) -> bool:
        """Take back a task that waits, without an outcome; return whether it did."""

    def cancel(self, task: Task, grace: float = inf) -> None:
        """Cancel a task in flight, which has so many seconds at most until its process is terminated."""

    def position(self, task: Task) -> Position | None:
        """Return the place of a task in the queue, None if it does not wait there."""


class Run:
    """A stored task that this node has claimed; the subscriber of its task in the scheduler."""

    __slots__ = (
        "_reports",
        "_tasks",
        "has_started",
        "is_cancelled",
        "is_fenced",
        "is_marked",
        "is_start_committed",
        "lane",
        "owner_running",
        "raised",
        "record",
        "result",
        "retries",
        "seq",
        "task",
    )

    is_full = False

    def __init__(self, tasks: Attempts, record: Record, lane: Lane) -> None:
        self._tasks = tasks
        self.lane = lane
        self.record = record
        self.task: Task | None = None
        self.has_started = self.is_start_committed = False
        self.is_marked = self.is_cancelled = False
        """Whether the store has its start before a worker has it, and whether it was cancelled meanwhile."""
        self.is_fenced = False
        """Whether it was stopped since others may run it: that is no end of the task."""
        self.seq = 0
        """The sequence number that was given out last in this attempt."""
        self.result: bytes | None = None
        """The result, if it has ended with one."""
        self._reports: Reports | None = None
        self.raised: Raised | None = None
        self.owner_running: int | None = None
        """How many tasks of its owner might run when it was submitted; None for no limit."""
        self.retries: int | None = None
        """The retries that the task was submitted with, None for the function's own."""

    def call(self, deadline: float | None) -> StoredCall | None:
        """Return the call of the next attempt, which must start in `deadline` seconds (None: whenever).

        Returns None if its secret arguments could not be opened.
        """
        elsewhere = self._tasks.elsewhere
        new, kept = self.record.new, _options.decode(self.record.new.options)
        self.retries, self.owner_running = kept.retries, kept.owner_running
        if kept.is_sealed:
            return None
        return StoredCall(
            new.function,
            None if new.args is None else Raw(new.args),
            # Its progress is asked for, since anybody may watch it.
            Options(kept.timeout, deadline, kept.priority, progress=True, traceparent=kept.traceparent),
            self.started,
            self.failed,
            self.yielded,
            new.id,
            self.record.attempt + 1,
            # An end that is no error of the function, and after which it goes on, is an interruption.
            self.record.attempt > self.record.errors,
            None if elsewhere is None else elsewhere.node,
        )

    def begin_unreadable(self) -> Failure:
        """Begin an attempt that ends at once, with the failure that is returned, and is not repeated."""
        self.started()
        self.failed(Raised(None, may_retry=False))
        return UNREADABLE

    @property
    def attempt(self) -> int:
        """The number of the attempt that is running, or of the last one."""
        return self.record.attempt + self.has_started

    def mark(self) -> None:
        """Count the attempt as started, before a worker has been given the task."""
        self.is_marked = True
        self._number()

    def _number(self) -> None:
        self.has_started = True
        # As the store numbers the start.
        self.seq = max(self.record.last_seq + 1, first_seq(self.attempt))

    def started(self) -> None:
        """Note that a worker has been given the task; what it returns unbegun is given out again."""
        if not self.has_started:
            self._number()
            self._tasks.started(self)
        elif self.is_marked:
            self._tasks.started(self)

    def start_committed(self, _is_own: bool) -> None:  # noqa: FBT001
        """Note that the start is in the log."""
        self.is_start_committed = True
        if self._reports is not None:
            self._reports.committed()

    def next_seq(self) -> int:
        """Return the sequence number of the next event of this attempt."""
        self.seq += 1
        return self.seq

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
        """Push the progress to whoever watches, and store it in time."""
        shown = _ShownProgress(progress.done, progress.total, progress.message)
        self._tasks.progressed(self, progress)
        self._to_reports().progressed(msgspec.json.encode(shown))

    def yielded(self, value: Raw) -> None:
        """Store a value that the function has yielded, and push it."""
        self._to_reports().partial(value)

    def _to_reports(self) -> Reports:
        if self._reports is None:
            self._reports = self._tasks.reports(self)
        return self._reports

    def flush(self) -> None:
        """Do nothing."""

    def task_ended(self, key: object, outcome: Outcome) -> None:
        """Settle the attempt."""
        if self._reports is not None:
            self._reports.end()
        self._tasks.ended(self, outcome)


class _ShownProgress(msgspec.Struct, omit_defaults=True):
    done: float | int
    total: float | int | None = None
    message: str | None = None


_options = msgspec.json.Decoder(RunOptions)
