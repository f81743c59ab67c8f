"""The pace of a node: how many tasks it claims ahead, if others could run them."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

__all__ = ["AHEAD_SECONDS", "Pace"]

AHEAD_SECONDS = 0.1
"""Seconds for which a node claims tasks ahead, at the pace at which it ends them. A claim takes some ms;
what is claimed longer ahead would wait here while other nodes have nothing to do."""


class Pace:
    """Counts the tasks that end, and makes of that how many may be claimed: twice those of `AHEAD_SECONDS`.

    So there is a doubling in that time at most, while there are more to be had. However slow the tasks
    are, there may be one for each of the workers, whose number `workers` returns.
    """

    def __init__(self, clock: IReactorTime, workers: Callable[[], int]) -> None:
        self._clock = clock
        self._workers = workers
        self._since = clock.seconds()
        self._count = self._quick = 0

    def ended(self) -> None:
        """Count the end of a task."""
        self._count += 1

    @property
    def is_slow(self) -> bool:
        """Whether there are no more than one for each worker, so that every end leaves room."""
        return self.size <= self._least

    @property
    def size(self) -> int:
        """The number of tasks that may be claimed."""
        now = self._clock.seconds()
        elapsed = now - self._since
        if elapsed >= AHEAD_SECONDS:
            self._quick = int(2 * self._count * AHEAD_SECONDS / elapsed)
            self._since, self._count = now, 0
        return max(self._quick, self._least)

    @property
    def _least(self) -> int:
        return max(self._workers(), 1)
