"""Schedules: functions that the server runs by itself, each tick as a stored task.

The last tick of each schedule is in the store, and changes in the transaction
that stores the tick's task. So no tick has two tasks, whatever dies meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol

from msgspec import Raw
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.writer import Execute, StoreWriter
from taskd.functions.registry import FunctionInfo
from taskd.functions.schedule import Schedule
from taskd.model import SubmitOptions
from taskd.net.timers import Alarm
from taskd.server.status import ScheduleStatus
from taskd.store.base import Store, StoreError
from taskd.store.records import Accepted, LastTick, New, Tick

__all__ = ["Schedules"]

_log = Logger(namespace="taskd.store")

LATE_SECONDS = 60.0
"""Seconds by which a tick may be late and is still no missed one: a restart takes some."""

MAX_MISSED = 1000
"""Ticks that are made up for after a start: the last ones, as many as one transaction takes easily."""

RETRY_SECONDS = 1.0
"""Seconds after which a store that has failed is asked again."""

TICK_KEY = "taskd.tick"
"""The key of the tasks of ticks: while one has not ended, there is no second one."""


class _Tasks(Protocol):
    """The stored tasks, as far as schedules need them."""

    @property
    def store(self) -> Store:
        """The store."""

    @property
    def writer(self) -> StoreWriter:
        """What writes to it."""

    def new(self, function: str, args: Raw | None, options: SubmitOptions, now: float) -> New:
        """Return a new task, which is still to be stored."""

    def look(self, function: str) -> None:
        """Claim the waiting tasks of a function, with the next transaction."""


@dataclass(slots=True)
class _Entry:
    """A schedule that is in use; times are in seconds since 1970."""

    name: str
    schedule: Schedule
    seen: float
    """The time up to which its ticks have been handled."""
    last: float | None = None
    """Its last tick that had a task."""
    is_new: bool = False
    """Whether its ticks since then came while the server did not run."""
    unanswered: int = 0
    moved: float = 0.0
    is_behind: bool = False

    def next(self, now: float) -> float:
        return self.schedule.after(max(self.seen, now))


class Schedules:
    """The schedules of the functions in use. `now` returns the seconds since 1970."""

    def __init__(
        self, tasks: _Tasks, execute: Execute, clock: IReactorTime, now: Callable[[], float]
    ) -> None:
        self._tasks = tasks
        self._execute = execute
        self._clock = clock
        self._now = now
        self._wanted: dict[str, Schedule] = {}
        self._entries: dict[str, _Entry] = {}
        self._alarm = Alarm(clock, self._look)
        self._is_stopped = False
        self._fault: str | None = None
        """The failure that was logged last, since it comes again every second."""

    @property
    def status(self) -> list[ScheduleStatus]:
        """The schedules by their next ticks."""
        now = self._now()
        found = [
            ScheduleStatus(
                entry.name,
                entry.schedule.line,
                None if (due := entry.next(now)) == inf else due,
                entry.last,
            )
            for entry in self._entries.values()
        ]
        return sorted(found, key=lambda each: (inf if each.next is None else each.next, each.function))

    def use(self, functions: list[FunctionInfo]) -> None:
        """Run these functions by their schedules from now on."""
        self._wanted = {each.name: each.schedule for each in functions if each.schedule is not None}
        for name in self._entries.keys() - self._wanted.keys():
            del self._entries[name]
        if self._wanted:
            self._read()

    def stop(self) -> None:
        """Have no more tasks stored."""
        self._is_stopped = True

    def clock_moved(self, seconds: float) -> list[str]:
        """Go on after the clock has been set, and return whose last ticks must be moved in the store."""
        moved = [entry for entry in self._entries.values() if entry.schedule.is_interval]
        for entry in moved:
            entry.seen += seconds
            entry.moved += seconds
        self._alarm.set(self._clock.seconds())
        return [entry.name for entry in moved]

    # --- what the store knows ---

    def _read(self) -> None:
        self._execute(self._tasks.store.last_ticks).addCallbacks(self._known, self._broke)

    def _broke(self, reason: TwistedFailure) -> None:
        if reason.check(StoreError) is None:
            _log.failure("a bug in taskd", reason)
        elif (error := reason.getErrorMessage()) != self._fault:
            self._fault = error
            _log.error("nothing is run by a schedule: {error}", error=error)
        if not self._is_stopped:
            self._clock.callLater(RETRY_SECONDS, self._read)

    def _known(self, ticks: dict[str, LastTick]) -> None:
        now, self._fault = self._now(), None
        for name, schedule in self._wanted.items():
            entry, last = self._entries.get(name), ticks.get(name)
            if entry is not None and entry.schedule.line == schedule.line:
                entry.schedule = schedule  # `missed` may be another
            elif last is not None and last.line == schedule.line:
                self._entries[name] = _Entry(name, schedule, last.at, last.at, is_new=True)
            else:
                entry = self._entries[name] = _Entry(name, schedule, now)
                # So that the next start knows which ticks have been missed.
                self._write(entry, now, has_task=False)
        self._look()

    # --- ticks ---

    def _look(self) -> None:
        if self._is_stopped:
            return
        now, soonest = self._now(), inf
        for entry in self._entries.values():
            if not entry.unanswered:
                for at in self._due(entry, now):
                    self._write(entry, at)
            soonest = min(soonest, entry.next(now))
        if soonest < inf:
            self._alarm.set(self._clock.seconds() + soonest - now)

    def _due(self, entry: _Entry, now: float) -> list[float]:
        missed = entry.schedule.missed
        due = entry.schedule.between(entry.seen, now, MAX_MISSED if missed == "all" else 1)
        if entry.is_new and missed == "skip" and due and now - due[-1] > LATE_SECONDS:
            entry.seen, due = now, []
        entry.is_new = False
        if len(due) == MAX_MISSED:
            _log.warn(
                "{function} ({line}) was due at least {most} times: the last {most} times are made up for",
                function=entry.name,
                line=entry.schedule.line,
                most=MAX_MISSED,
            )
        return due

    def _write(self, entry: _Entry, at: float, *, has_task: bool = True) -> None:
        new, moved = None, entry.moved
        if has_task:
            key = None if entry.schedule.missed == "all" else TICK_KEY
            new = self._tasks.new(entry.name, None, SubmitOptions(key=key), self._now())
        entry.unanswered += 1

        def written(accepted: Accepted | StoreError | None) -> None:
            entry.unanswered -= 1
            if isinstance(accepted, StoreError):
                self._alarm.set(self._clock.seconds() + RETRY_SECONDS)
                return
            entry.seen = max(entry.seen, at + entry.moved - moved)
            if has_task:
                entry.last = at
            is_behind = accepted is not None and accepted.joined
            if accepted is not None and not is_behind:
                self._tasks.writer.taken_on(entry.name, 1, None, "")
            if is_behind and not entry.is_behind:
                _log.warn(
                    "{function} is due again ({line}): its last task has not ended, so there is no other",
                    function=entry.name,
                    line=entry.schedule.line,
                )
            entry.is_behind = is_behind

        self._tasks.writer.tick(Tick(entry.name, entry.schedule.line, at, new), written)
        self._tasks.look(entry.name)
