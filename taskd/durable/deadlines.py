"""The deadlines of stored tasks that wait in the store; the scheduler keeps those of claimed tasks itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.waiters import Waiters
from taskd.durable.writer import Execute, StoreWriter
from taskd.errors import TimedOut
from taskd.model import Failure
from taskd.net.timers import Alarm
from taskd.store.base import Overdue, Store, StoreError
from taskd.store.records import Settle, State

__all__ = ["LATE", "Deadlines"]

_log = Logger(namespace="taskd.store")

EXPIRED = 1000
"""Tasks that expire in one transaction."""

RETRY_SECONDS = 1.0
"""Seconds after which a store that could not be read is asked again."""

LATE = Failure.of(TimedOut("the task had not been started by its deadline", limit="deadline"))
"""The outcome of tasks that expire."""

_LATE = msgspec.json.encode(LATE)


class _Tasks(Protocol):
    """The stored tasks, as far as their deadlines are concerned."""

    @property
    def store(self) -> Store:
        """The store."""

    @property
    def writer(self) -> StoreWriter:
        """What writes to it."""

    @property
    def waiters(self) -> Waiters:
        """Who waits for the ends of tasks."""


class Deadlines:
    """Ends the tasks in the store that have not been started by their deadlines."""

    def __init__(
        self, tasks: _Tasks, execute: Execute, clock: IReactorTime, now: Callable[[], float]
    ) -> None:
        self._tasks = tasks
        self._execute = execute
        self._clock = clock
        self._now = now
        self._expiring: set[str] = set()
        self._alarm = Alarm(clock, self.look)
        self._is_held = self._is_reading = self._has_begun = False

    def is_expiring(self, task: str) -> bool:
        """Return whether a task is being ended, so that it must not be started any more."""
        return task in self._expiring

    def watch(self, deadline: float) -> None:
        """Look at the store again at `deadline`, in seconds since 1970."""
        self._alarm.set(self._clock.seconds() + max(deadline - self._now(), 0.0))

    def look(self) -> None:
        """End what is overdue, and look again at the next deadline."""
        if not self._is_held:
            self._has_begun = self._is_reading = True
            now = self._now()  # and not that of the thread: the clock may be set until then
            reading = self._execute(lambda: self._tasks.store.overdue(now, EXPIRED))
            reading.addCallbacks(self._end, self._broke)

    def look_again(self) -> None:
        """Look for what others may have stored, unless that is being done; not before the first `look`."""
        if self._has_begun and not self._is_reading:
            self.look()

    def hold(self) -> None:
        """Look at nothing until `release`, since the clock was set."""
        self._is_held = True

    def release(self) -> None:
        """Look again: the store has the times of the clock as it is now."""
        self._is_held = False
        self.look()

    def _end(self, overdue: Overdue) -> None:
        self._is_reading = False
        ending = [task for task in overdue.ids if task not in self._expiring]
        for task in ending:
            self._expiring.add(task)
            settle = Settle(task, 0, State.EXPIRED, "expired", b'{"error":%b}' % _LATE, _LATE)
            self._tasks.writer.settle(settle, partial(self._ended, task))
        if len(overdue.ids) == EXPIRED:
            self._tasks.writer.flushed().addCallback(lambda _: self.look())
        elif overdue.next is not None:
            self.watch(overdue.next)

    def _ended(self, task: str, is_own: bool) -> None:  # noqa: FBT001 (the writer passes it)
        self._expiring.discard(task)
        if is_own:
            self._tasks.waiters.announce(task, State.EXPIRED, _LATE)

    def _broke(self, reason: TwistedFailure) -> None:
        self._is_reading = False
        if reason.check(StoreError) is None:
            _log.failure("a bug in taskd", reason)
        self._alarm.set(self._clock.seconds() + RETRY_SECONDS)
