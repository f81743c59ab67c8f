"""The deadlines of waiting tasks: which of them must have been started by when."""

from __future__ import annotations

import heapq
from math import inf

from taskd.scheduler.states import THROTTLED, WAITING
from taskd.scheduler.task import Task

__all__ = ["Deadlines"]


class Deadlines:
    """The tasks that have a deadline, the next one first.

    A task that stops waiting stays here: what is out of date is thrown away
    when it comes up, or when there is more of it than of what is not.
    """

    COMPACT_ABOVE = 1000
    """Entries that are kept without asking how many of them still matter: about
    100 KiB, and the sweep that throws out the others costs next to nothing for each."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Task]] = []
        self._compact_at = self.COMPACT_ABOVE

    def add(self, when: float, task: Task) -> None:
        """Expect `task` to have been started before `when`."""
        heapq.heappush(self._heap, (when, task.number, task))
        if len(self._heap) > self._compact_at:
            self._heap = [entry for entry in self._heap if _waits(entry[2])]
            heapq.heapify(self._heap)
            self._compact_at = 2 * len(self._heap) + self.COMPACT_ABOVE

    @property
    def next_at(self) -> float:
        """When the next deadline may be over, infinity if there is none."""
        return self._heap[0][0] if self._heap else inf

    def expired(self, now: float) -> list[Task]:
        """Return the waiting tasks whose deadline is over, each of them once."""
        over: list[Task] = []
        while self._heap and self._heap[0][0] <= now:
            task = heapq.heappop(self._heap)[2]
            # A task that was started and came back is there twice, and next to itself.
            if _waits(task) and not (over and over[-1] is task):
                over.append(task)
        return over


def _waits(task: Task) -> bool:
    return task.state is WAITING or task.state is THROTTLED
