"""The upkeep of a store: lets tasks wait when they are due, and forgets ended ones."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.writer import RETRY_SECONDS, Execute
from taskd.net.timers import Alarm
from taskd.store.base import Store, StoreError

__all__ = ["Upkeep"]

_log = Logger(namespace="taskd.store")

Result = TypeVar("Result")

PROMOTED = 1000
"""Scheduled tasks that are let wait in one transaction."""

PRUNE_SECONDS, PRUNED = 10.0, 1000
"""Seconds between two times that ended tasks are forgotten, and how many in one transaction."""

MAX_PRUNE_LAG = 86400.0
"""Seconds for which tasks are kept longer at most after the clock has been put forward."""


class Upkeep:
    """Keeps a store tidy, in its thread. `look` is called when tasks may have become due."""

    def __init__(
        self,
        store: Store,
        execute: Execute,
        clock: IReactorTime,
        now: Callable[[], float],
        look: Callable[[], object],
    ) -> None:
        self._store = store
        self._execute = execute
        self._clock = clock
        self._now = now
        self._look = look
        self._alarm = Alarm(clock, self._promote)
        self._prune_alarm = Alarm(clock, self._prune)
        self._is_closed = self._is_held = self._is_promoting = False
        self._has_begun = False
        self._prune_lag = 0.0
        self.fault: str | None = None
        """The last failure, if it has not worked since."""
        self._faults: set[str] = set()  # those that were logged: they come again every second

    def begin(self) -> None:
        """Begin, once the store is open."""
        self._has_begun = True
        self._promote()
        self._prune_alarm.set(self._clock.seconds() + PRUNE_SECONDS)

    def watch(self, due: float) -> None:
        """Look for scheduled tasks at `due`, in seconds since 1970; those must be stored by now."""
        self._alarm.set(self._clock.seconds() + max(due - self._now(), 0.0))

    def look(self) -> None:
        """Look for scheduled tasks now, which others may have stored, unless that is being done."""
        if self._has_begun and not self._is_promoting:
            self._promote()

    def clock_moved(self, seconds: float) -> None:
        """Keep ended tasks for as long as ever, although the clock was set; promote none until `release`."""
        # What has ended has no new time, and must not be forgotten early.
        self._prune_lag = min(max(self._prune_lag + seconds, 0.0), MAX_PRUNE_LAG)
        self._is_held = True

    def release(self) -> None:
        """Look for scheduled tasks again: the store has the times of the clock as it is now."""
        self._is_held = False
        self._promote()

    def close(self) -> Deferred[None]:
        """Close the store after what has been begun."""
        self._is_closed = True
        return self._execute(self._store.close)

    def _promote(self) -> None:
        if not (self._is_closed or self._is_held):
            self._is_promoting = True
            now = self._now()  # and not that of the thread: the clock may be set until then
            promoting = self._execute(lambda: self._store.promote(now, PROMOTED))
            promoting.addBoth(self._end_promoting).addCallbacks(self._promoted, self._broke)

    def _end_promoting(self, result: Result) -> Result:
        self._is_promoting = False
        return result

    def _promoted(self, next_due: float | None) -> None:
        self.fault = None
        self._faults.clear()
        if next_due is not None and next_due < inf:
            self.watch(next_due)
        self._look()

    def _prune(self) -> None:
        if not self._is_closed:
            now = self._now() - self._prune_lag
            pruning = self._execute(lambda: self._store.prune(now, PRUNED))
            pruning.addCallbacks(self._pruned, self._broke)

    def _pruned(self, count: int) -> None:
        self._prune_alarm.set(self._clock.seconds() + (0.0 if count == PRUNED else PRUNE_SECONDS))

    def _broke(self, reason: TwistedFailure) -> None:
        self.log(reason)
        self._alarm.set(self._clock.seconds() + RETRY_SECONDS)
        self._prune_alarm.set(self._clock.seconds() + PRUNE_SECONDS)

    def log(self, reason: TwistedFailure) -> None:
        """Log that the store has failed."""
        if reason.check(StoreError) is None:
            _log.failure("a bug in taskd", reason)
        else:
            error = reason.getErrorMessage()
            if error not in self._faults:
                self._faults.add(error)
                _log.error("{error}", error=error)
            self.fault = error
