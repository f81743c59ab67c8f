"""The pace of a node: how many tasks it claims ahead, if others could run them."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

__all__ = ["AHEAD_SECONDS", "LEAST", "Pace"]

AHEAD_SECONDS = 0.1
"""Seconds for which a node claims tasks ahead, at the pace at which it ends them. A claim takes some ms;
what is claimed longer ahead would wait here while other nodes have nothing to do."""

LEAST = 32
"""Tasks that are claimed ahead of each function, however slow they are."""


class Pace:
    """Counts the tasks that end, and makes of that how many may be claimed: twice those of `AHEAD_SECONDS`.

    So there is a doubling in that time at most, while there are more to be had.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._since = clock.seconds()
        self._count = 0
        self._size = LEAST

    def ended(self) -> None:
        """Count the end of a task."""
        self._count += 1

    @property
    def size(self) -> int:
        """The number of tasks of a function that may be claimed."""
        now = self._clock.seconds()
        elapsed = now - self._since
        if elapsed >= AHEAD_SECONDS:
            self._size = max(int(2 * self._count * AHEAD_SECONDS / elapsed), LEAST)
            self._since, self._count = now, 0
        return self._size
