"""The limits of one function, concurrency and rate: which of its claimed tasks may be started now.

Nothing counts up and down: what runs and what has started is kept as it is, so
that no count can be left behind.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from taskd.durable.run import Run
from taskd.functions.durability import Rate
from taskd.store.records import Record

__all__ = ["Hold", "Limits"]

MAX_STARTS = 1000
"""Starts that are remembered one by one for each key. Of a higher rate, those of a thousandth of its time are
remembered together, so that a rate such as a million a day needs no more memory; they then count for that
thousandth longer."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The reason why a task is held: tasks have its places, or the rate permits no start for so many seconds.

    `before` is the number of tasks of the same key that are held before it.
    """

    key: str
    before: int
    running: list[str]
    seconds: float | None


class _Starts:
    """The starts of one key, as far as its rate counts them."""

    __slots__ = ("_ends", "count")

    def __init__(self) -> None:
        self._ends: deque[tuple[float, int]] = deque()
        self.count = 0

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, now: float, rate: Rate) -> None:
        """Note a start."""
        slot = rate.seconds / MAX_STARTS if rate.count > MAX_STARTS else 0.0
        ends = self._ends
        self.count += 1
        if ends and slot and now + rate.seconds <= ends[-1][0]:
            ends[-1] = (ends[-1][0], ends[-1][1] + 1)
        else:
            ends.append((now + rate.seconds + slot, 1))

    def expire(self, now: float, rate: Rate) -> None:
        """Forget the starts that do not count any more."""
        ends = self._ends
        latest = now + rate.seconds * (1 + 1 / MAX_STARTS)
        if ends and ends[-1][0] > latest:  # the clock was put back
            self._ends = ends = deque((min(end, latest), count) for end, count in ends)
        while ends and ends[0][0] <= now:
            self.count -= ends.popleft()[1]

    @property
    def first_end(self) -> float:
        """When the oldest start counts no more."""
        return self._ends[0][0] if self._ends else inf

    @property
    def last_end(self) -> float:
        """When no start counts any more."""
        return self._ends[-1][0] if self._ends else -inf


class _Key:
    """The tasks with one value of the concurrency key.

    `held` is a heap, from which removed tasks are dropped when they come up;
    `waiting` has those that are really held. `admitted` are those that have been
    let go and have not ended, `unstarted` those of them that no worker has.
    """

    __slots__ = ("admitted", "alarm", "held", "starts", "text", "unstarted", "waiting")

    def __init__(self, text: str) -> None:
        self.text = text
        self.held: list[tuple[tuple[int, float, str], int, Run]] = []
        self.waiting: set[Run] = set()
        self.admitted: dict[Run, None] = {}
        self.unstarted: set[Run] = set()
        self.starts = _Starts()
        self.alarm = inf

    def head(self) -> Run | None:
        """Return the held task whose turn it is, None if there is none."""
        held = self.held
        while held and held[0][2] not in self.waiting:
            heapq.heappop(held)
        return held[0][2] if held else None


class Limits:
    """The claimed tasks of one function, each held until its key has room for it.

    A task is *admitted* when it is given to the task server, which may take its
    time to start it. So admitted tasks count as running, and for the rate, those
    that have not started count as if they did so now: then any time has no more
    starts than the rate permits, whenever the workers become free.

    `key_of` returns the value of the concurrency key in a task's arguments. All
    times are those of one clock, in seconds.
    """

    def __init__(
        self, concurrency: int | None, rate: Rate | None, key_of: Callable[[bytes | None], str]
    ) -> None:
        self._concurrency = concurrency
        self._rate = rate
        self._key_of = key_of
        self._keys: dict[str, _Key] = {}
        self._where: dict[Run, _Key] = {}
        self._changed: dict[_Key, None] = {}
        self._alarms: list[tuple[float, str]] = []
        self._held = 0
        self._serial = itertools.count()

    @property
    def held(self) -> int:
        """The number of tasks that are held."""
        return self._held

    @property
    def admitted(self) -> int:
        """The number of tasks that were admitted and have not ended."""
        return len(self._where) - self._held

    @property
    def is_empty(self) -> bool:
        """Whether nothing is remembered of any key."""
        return not self._keys

    @property
    def remembered(self) -> int:
        """The number of starts that are remembered, those of a slot together."""
        return sum(len(key.starts) for key in self._keys.values())

    # --- in and out ---

    def add(self, run: Run) -> None:
        """Hold a task until `admit` returns it."""
        key = self._place(run)
        heapq.heappush(key.held, (_turn(run), next(self._serial), run))
        key.waiting.add(run)
        self._held += 1
        self._changed[key] = None

    def add_admitted(self, run: Run) -> None:
        """Count a task that was given to the task server before the function had these limits."""
        key = self._place(run)
        key.admitted[run] = None
        if not run.has_started:
            key.unstarted.add(run)

    def _place(self, run: Run) -> _Key:
        text = self._key_of(run.record.new.args)
        key = self._keys.get(text)
        if key is None:
            key = self._keys[text] = _Key(text)
        self._where[run] = key
        return key

    def is_held(self, run: Run) -> bool:
        """Return whether a task has not been admitted yet."""
        key = self._where.get(run)
        return key is not None and run in key.waiting

    def started(self, run: Run, now: float) -> None:
        """Note that a worker has been given an admitted task."""
        key = self._where.get(run)
        if key is not None and run in key.unstarted:
            key.unstarted.remove(run)
            if self._rate is not None:
                key.starts.add(now, self._rate)
                self._changed[key] = None

    def remove(self, run: Run) -> None:
        """Count a task no more: it has ended, or will not be started. Idempotent."""
        key = self._where.pop(run, None)
        if key is None:
            return
        if run in key.waiting:
            key.waiting.remove(run)
            self._held -= 1
        key.admitted.pop(run, None)
        key.unstarted.discard(run)
        self._changed[key] = None

    def keep_starts(self, old: Limits) -> None:
        """Count the starts that other limits of the same function have counted, with the same key."""
        for text, theirs in old._keys.items() if self._rate is not None else ():
            if theirs.starts.count:
                key = self._keys.setdefault(text, _Key(text))
                key.starts = theirs.starts
                self._changed[key] = None

    # --- what may be started ---

    def admit(self, now: float) -> list[Run]:
        """Return the tasks that may be given to the task server now, in their turn."""
        while self._alarms and self._alarms[0][0] <= now:
            key = self._keys.get(heapq.heappop(self._alarms)[1])
            if key is not None:
                key.alarm = inf
                self._changed[key] = None
        admitted: list[Run] = []
        for key in self._changed:
            self._admit(key, now, admitted)
        self._changed.clear()
        admitted.sort(key=_turn)
        return admitted

    def _admit(self, key: _Key, now: float, admitted: list[Run]) -> None:
        if self._rate is not None:
            key.starts.expire(now, self._rate)
        while (run := key.head()) is not None and self._has_room(key):
            heapq.heappop(key.held)
            key.waiting.remove(run)
            self._held -= 1
            key.admitted[run] = None
            key.unstarted.add(run)
            admitted.append(run)
        if key.starts.count:
            self._set_alarm(key)
        elif not key.waiting and not key.admitted:
            del self._keys[key.text]

    def _has_room(self, key: _Key) -> bool:
        if self._concurrency is not None and len(key.admitted) >= self._concurrency:
            return False
        return self._rate is None or key.starts.count + len(key.unstarted) < self._rate.count

    def _set_alarm(self, key: _Key) -> None:
        """See to a key again when the rate permits its next start, or when it can be forgotten."""
        at = key.starts.first_end if key.waiting else key.starts.last_end
        if at < key.alarm:
            key.alarm = at
            heapq.heappush(self._alarms, (at, key.text))

    @property
    def next_time(self) -> float:
        """When `admit` must be called at the latest, if nothing else happens before."""
        return self._alarms[0][0] if self._alarms else inf

    # --- for people ---

    def hold(self, record: Record, now: float) -> Hold | None:
        """Return what holds a task, whether it is claimed or not; None if nothing does here."""
        key = self._keys.get(self._key_of(record.new.args))
        if key is None or any(run.record.new.id == record.new.id for run in key.admitted):
            return None
        if key.head() is None and self._has_room(key):
            return None
        turn = record.turn()
        before = sum(_turn(other) < turn for other in key.waiting)
        is_full = self._concurrency is not None and len(key.admitted) >= self._concurrency
        running = [other.record.new.id for other in key.admitted] if is_full else []
        seconds = None
        if self._rate is not None and key.starts.count + len(key.unstarted) >= self._rate.count:
            seconds = max(key.starts.first_end - now, 0.0) if key.starts.count else 0.0
        return Hold(key.text, before, running, seconds)


def _turn(run: Run) -> tuple[int, float, str]:
    return run.record.turn()
