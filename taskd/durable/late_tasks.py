"""The deadlines of tasks that are held for their limits: neither the scheduler nor the store ends these."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from taskd.durable.run import Run
from taskd.net.timers import Alarm

__all__ = ["LateTasks"]

COMPACT_ABOVE = 1000
"""Watched tasks from which on those that are held no more are dropped, when their number has doubled."""


class LateTasks:
    """Ends tasks that are still held at their deadlines: calls `expire` with each that `is_held` then."""

    def __init__(
        self, clock: IReactorTime, is_held: Callable[[Run], bool], expire: Callable[[Run], object]
    ) -> None:
        self._clock = clock
        self._is_held = is_held
        self._expire = expire
        self._watched: list[tuple[float, int, Run]] = []
        self._numbers = itertools.count()
        self._compact_at = COMPACT_ABOVE
        self._alarm = Alarm(clock, self._rang)

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, run: Run, seconds: float) -> None:
        """End a task in so many seconds, if it is still held then."""
        at = self._clock.seconds() + seconds
        heapq.heappush(self._watched, (at, next(self._numbers), run))
        if len(self._watched) > self._compact_at:
            self._watched = [each for each in self._watched if self._is_held(each[2])]
            heapq.heapify(self._watched)
            self._compact_at = max(2 * len(self._watched), COMPACT_ABOVE)
        self._alarm.set(at)

    def _rang(self) -> None:
        now, watched = self._clock.seconds(), self._watched
        while watched and watched[0][0] <= now:
            run = heapq.heappop(watched)[2]
            if self._is_held(run):
                self._expire(run)
        if watched:
            self._alarm.set(watched[0][0])
