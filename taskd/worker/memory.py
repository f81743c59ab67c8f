"""The check after a task whether its worker keeps too much memory, and must be replaced."""

from __future__ import annotations

import os
from resource import RUSAGE_SELF, getrusage

__all__ = ["MemoryWatch", "peak_kib"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


def peak_kib() -> int:
    """Return the memory, in KiB, of which this process has had most resident."""
    return getrusage(RUSAGE_SELF).ru_maxrss


class MemoryWatch:
    """The watch on this process's resident memory, of which it may keep `limit` bytes.

    The peak of a process never falls, and costs one system call that reads no
    file. So it shows cheaply that there is nothing to see; only a process that has
    once had more than the limit is looked at more closely after each task.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def excess(self) -> int | None:
        """Return the resident memory, in KiB, if it exceeds the limit; otherwise None."""
        if peak_kib() * 1024 <= self._limit:
            return None
        try:
            with open("/proc/self/statm", "rb") as statm:
                resident = int(statm.read().split()[1]) * _PAGE
        except (OSError, IndexError, ValueError):
            return None
        return resident // 1024 if resident > self._limit else None
