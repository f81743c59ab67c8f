"""Workers that have grown too large."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MemoryBound"]

LOOK_INTERVAL = 0.1
"""Seconds between two looks at a worker's memory while it runs short tasks: a look
(it reads a file of /proc) costs as much as some of them."""


class MemoryBound:
    """Tells which workers have more than `limit` KiB resident after a task."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[int, float] = {}

    def excess(
        self, number: int, seconds: float, now: float, memory_kib: Callable[[int], int | None]
    ) -> int | None:
        """The KiB that a worker has, where they are too many after a task of so many `seconds`."""
        if seconds < LOOK_INTERVAL and now - self._seen.get(number, -LOOK_INTERVAL) < LOOK_INTERVAL:
            return None
        self._seen[number] = now
        used = memory_kib(number)
        return used if used is not None and used > self._limit else None

    def forget(self, number: int) -> None:
        """The worker is gone."""
        self._seen.pop(number, None)
