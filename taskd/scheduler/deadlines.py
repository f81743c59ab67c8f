"""The deadlines of waiting tasks: which tasks have not been started in time."""

from __future__ import annotations

import heapq
from math import inf

from taskd.scheduler.states import WAITING
from taskd.scheduler.task import Task

__all__ = ["Deadlines"]


class Deadlines:
    """The tasks that have a deadline, the earliest first.

    A task that stops waiting keeps its entry: obsolete entries are dropped when
    they come up, or when they outnumber the others.
    """

    COMPACT_ABOVE = 1000
    """Entries that are kept without checking how many are obsolete: about 100 KiB,
    so that the cost of each sweep is spread over many entries."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Task]] = []
        self._compact_at = self.COMPACT_ABOVE

    def add(self, when: float, task: Task) -> None:
        """Expect `task` to be started before `when`."""
        heapq.heappush(self._heap, (when, task.number, task))
        if len(self._heap) > self._compact_at:
            self._heap = [entry for entry in self._heap if _waits(entry[2])]
            heapq.heapify(self._heap)
            self._compact_at = 2 * len(self._heap) + self.COMPACT_ABOVE

    @property
    def next_at(self) -> float:
        """The time of the next deadline, which may be obsolete; infinity if there is none."""
        return self._heap[0][0] if self._heap else inf

    def expired(self, now: float) -> list[Task]:
        """Return the waiting tasks whose deadline has passed, each of them once."""
        over: list[Task] = []
        while self._heap and self._heap[0][0] <= now:
            task = heapq.heappop(self._heap)[2]
            # A task that a worker had and returned has two entries, next to each other.
            if _waits(task) and not (over and over[-1] is task):
                over.append(task)
        return over


def _waits(task: Task) -> bool:
    return task.state is WAITING
