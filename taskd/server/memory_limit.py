"""The check after a task whether its worker has grown too large, and must be replaced."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

__all__ = ["MemoryLimit"]

LOOK_INTERVAL = 0.1
"""Seconds between two checks of a worker's memory while it runs short tasks: a check
(which reads a file in /proc) costs as much as some of them."""


class MemoryLimit:
    """Finds workers with more than `limit` KiB of resident memory after a task; None for no limit.

    `memory_kib` returns a worker's resident memory, in KiB, None if unknown.
    """

    def __init__(self, limit: int | None, memory_kib: Callable[[int], int | None]) -> None:
        self._limit = inf if limit is None else limit
        self._memory_kib = memory_kib
        self._looked: dict[int, float] = {}

    def excess(self, worker: int, seconds: float, now: float) -> int | None:
        """Return the KiB that a worker uses if they exceed the limit, otherwise None.

        `seconds` is the run time of the task that has just ended.
        """
        if self._limit == inf:
            return None
        if seconds < LOOK_INTERVAL and now - self._looked.get(worker, -LOOK_INTERVAL) < LOOK_INTERVAL:
            return None
        self._looked[worker] = now
        used = self._memory_kib(worker)
        return used if used is not None and used > self._limit else None

    def forget(self, worker: int) -> None:
        """Forget a worker that has ended."""
        self._looked.pop(worker, None)
