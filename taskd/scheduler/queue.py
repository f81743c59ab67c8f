"""The tasks that wait, and whose turn it is."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator

from taskd.scheduler.states import WAITING
from taskd.scheduler.task import Task

__all__ = ["FAIR_TURN", "PRIORITIES", "TaskQueue"]

PRIORITIES = 10
"""0 is first, 9 is last (docs/protocol.md)."""

FAIR_TURN = 10
"""Every so many starts that passed over an older task, the oldest one's turn has
come. So urgent work keeps nine tenths of the pool whatever else waits, and
nothing waits for ever: before a task starts, fewer than ten times as many others
do as there were before it, itself counted. (Ageing, where a priority grows with the wait,
would let an hour's backlog of unimportant work stand before all that is urgent.)"""


class TaskQueue:
    """Tasks by priority, and within one first in, first out; none of them starves (`FAIR_TURN`).

    A task that is taken from the middle stays there until it comes up, or until
    there are more of these than of the others: `remove` does not search.
    """

    COMPACT_ABOVE = 1000
    """Tasks that have left and are still there, without asking how many wait."""

    def __init__(self) -> None:
        self._levels: list[deque[Task]] = [deque() for _ in range(PRIORITIES)]
        self._used: list[int] = []
        self._count = 0
        self._left = 0
        self._passed_over = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Task]:
        for level in self._used:
            yield from (task for task in self._levels[level] if task.state is WAITING)

    def push(self, task: Task) -> None:
        """Let a task wait behind those of its priority."""
        level = self._levels[task.priority]
        if not level:
            self._use(task.priority)
        level.append(task)
        self._count += 1

    def push_back(self, task: Task) -> None:
        """Let a task wait ahead of those of its priority: it had left the queue, and was not run."""
        level = self._levels[task.priority]
        if not level:
            self._use(task.priority)
        level.appendleft(task)
        self._count += 1

    def _use(self, priority: int) -> None:
        self._used.append(priority)
        self._used.sort()

    def first(self) -> Task | None:
        """The task whose turn it is; it stays in the queue."""
        used = self._used
        if self._left:
            self._drop_those_that_left()
        if not used:
            return None
        if len(used) > 1 and self._passed_over >= FAIR_TURN - 1:
            return self._oldest()
        return self._levels[used[0]][0]

    def take(self, task: Task) -> None:
        """Take out the task that `first` has told, which is started or put aside."""
        if len(self._used) > 1:
            self._passed_over = 0 if self._oldest() is task else self._passed_over + 1
        level = self._levels[task.priority]
        level.popleft()
        self._count -= 1
        if not level:
            self._used.remove(task.priority)

    def remove(self) -> None:
        """A task in the queue has got another state than waiting, for ever."""
        self._count -= 1
        self._left += 1
        if self._left > self._count + self.COMPACT_ABOVE:
            for level in self._used:
                self._levels[level] = deque(task for task in self._levels[level] if task.state is WAITING)
            self._used = [level for level in self._used if self._levels[level]]
            self._left = 0

    def clear(self) -> list[Task]:
        """Take all tasks out."""
        tasks = list(self)
        for priority in self._used:
            self._levels[priority].clear()
        self._used.clear()
        self._count = self._left = 0
        return tasks

    def _drop_those_that_left(self) -> None:
        """See to it that the first of each level is one that waits."""
        for priority in list(self._used):
            level = self._levels[priority]
            while level and level[0].state is not WAITING:
                level.popleft()
                self._left -= 1
            if not level:
                self._used.remove(priority)

    def _oldest(self) -> Task:
        return min((self._levels[level][0] for level in self._used), key=lambda task: task.number)


class Deadlines:
    """Which tasks must have been started by when.

    Tasks leave the queue without a word to this: what is out of date is thrown
    away when it comes up, or when it outnumbers what is not.
    """

    COMPACT_ABOVE = 1000
    """Entries that are kept without asking how many of them still matter."""

    def __init__(self, is_waiting: Callable[[Task], bool]) -> None:
        self._is_waiting = is_waiting
        self._heap: list[tuple[float, int, Task]] = []
        self._compact_at = self.COMPACT_ABOVE

    def add(self, when: float, task: Task) -> None:
        """`task` is to be started before `when`."""
        heapq.heappush(self._heap, (when, task.number, task))
        if len(self._heap) > self._compact_at:
            self._heap = [entry for entry in self._heap if self._is_waiting(entry[2])]
            heapq.heapify(self._heap)
            self._compact_at = 2 * len(self._heap) + self.COMPACT_ABOVE

    @property
    def next(self) -> float | None:
        """When the next one may be over."""
        return self._heap[0][0] if self._heap else None

    def expired(self, now: float) -> list[Task]:
        """The waiting tasks whose time is over; each is told once."""
        over: list[Task] = []
        while self._heap and self._heap[0][0] <= now:
            task = heapq.heappop(self._heap)[2]
            # One that came back is there twice, and next to itself.
            if self._is_waiting(task) and not (over and over[-1] is task):
                over.append(task)
        return over
