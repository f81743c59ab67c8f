"""Attempts that are not the task's own any more: others have it, or its function has ended it.

A function may settle its task in a transaction of its own (`taskd.settle` in SQL). Then there
is nothing left for the node to store, and the end is the one that the store has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.elsewhere import Elsewhere
from taskd.durable.events import EventHub
from taskd.durable.run import Run, Runner
from taskd.durable.waiters import Waiters
from taskd.store.records import Record, Settle, State

__all__ = ["NotOwn"]

_log = Logger(namespace="taskd.store")


class Tasks(Protocol):
    """The stored tasks of this node: `taskd.durable.tasks.DurableTasks`."""

    elsewhere: Elsewhere | None
    hub: EventHub
    waiters: Waiters
    is_stopping: bool

    def get(self, task: str) -> Deferred[Record | None]:
        """Read a task."""


class NotOwn:
    """Finds out what has become of attempts of which the store has not taken the start or the end."""

    def __init__(self, tasks: Tasks, runner: Runner) -> None:
        self._tasks = tasks
        self._runner = runner

    def started(self, run: Run) -> None:
        """End an attempt that others run, or have cancelled: its end will be dropped."""
        self._look(run, run.attempt, lambda _: None, lambda: self._cancel(run))

    def _cancel(self, run: Run) -> None:
        if run.task is not None and run.task.is_in_flight:
            self._runner.cancel(run.task)

    def ended(self, run: Run, settle: Settle) -> None:
        """Announce the end that the task has by its function, or log that this one is dropped."""

        def drop() -> None:
            _log.warn(
                "{function} {end.id}: attempt {end.attempt} is not its own any more: its end is dropped",
                function=run.record.new.function,
                end=settle,
            )

        self._look(run, settle.attempt, self._announce, drop)

    def _announce(self, record: Record) -> None:
        self._tasks.hub.look_again([record.new.id])
        self._tasks.waiters.announce(record.new.id, record.state, record.outcome)

    def _look(
        self, run: Run, attempt: int, found: Callable[[Record], object], lost: Callable[[], object]
    ) -> None:
        """Call `found` with the task if its function has settled this attempt, and else `lost`."""
        if self._tasks.elsewhere is None:  # only in a store that is shared can anybody else have done it
            lost()
            return

        def read(record: Record | None) -> None:
            if record is not None and record.state is State.SUCCEEDED and record.attempt == attempt:
                found(record)
            else:
                lost()

        def unread(_: TwistedFailure) -> None:
            if not self._tasks.is_stopping:  # when the store may be closed already
                lost()

        self._tasks.get(run.record.new.id).addCallbacks(read, unread)
