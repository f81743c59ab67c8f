"""The tasks that wait, whose turn it is, and those whose submitter is throttled."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

from taskd.scheduler.states import DONE, THROTTLED, WAITING, check_task
from taskd.scheduler.task import Task

__all__ = ["FAIR_TURN", "PRIORITIES", "TaskQueue"]

PRIORITIES = 10
"""0 is first, 9 is last (docs/protocol.md)."""

FAIR_TURN = 10
"""Every so many starts that passed over an older task, it is the oldest one's
turn. So urgent work keeps nine tenths of the pool whatever else waits, and
nothing waits for ever: before a task starts, fewer than ten times as many others
do as there were before it, itself counted. (Ageing, where a priority grows with the wait,
would let an hour's backlog of unimportant work stand before all that is urgent.)"""


class TaskQueue:
    """Waiting tasks by priority, and within one first in, first out; none of them starves (`FAIR_TURN`).

    `len` and iteration leave out the tasks that are throttled: these are set
    aside until `release`. `count` is `len` without a call, for the fast path.

    A task that is removed from the middle stays there until it comes up, or until
    there are more of these than of the others: `remove` does not search.
    """

    COMPACT_ABOVE = 1000
    """Removed tasks that are kept without asking how many tasks wait: a sweep
    then costs each of them next to nothing."""

    def __init__(self) -> None:
        self._levels: list[deque[Task]] = [deque() for _ in range(PRIORITIES)]
        self._used: list[int] = []
        self.count = 0
        self._removed = 0
        self._passed_over = 0
        self._throttled: deque[Task] = deque()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Task]:
        for level in self._used:
            yield from (task for task in self._levels[level] if task.state is WAITING)

    @property
    def waiting(self) -> int:
        """How many tasks wait, those that are throttled included."""
        return self.count + len(self._throttled)

    @property
    def all_waiting(self) -> list[Task]:
        """Every task that waits; those that are throttled come last."""
        return [*self, *self._throttled]

    @property
    def oldest(self) -> Task | None:
        """The task that has waited for longest, None if none waits."""
        return min(self.all_waiting, key=lambda task: task.number, default=None)

    # --- in and out ---

    def push(self, task: Task) -> None:
        """Let a new task wait behind those of its priority."""
        task.state = check_task(task.state, WAITING)
        level = self._levels[task.priority]
        if not level:
            self._use(task.priority)
        level.append(task)
        self.count += 1

    def push_back(self, task: Task) -> None:
        """Let a task wait ahead of those of its priority: it had left the queue, and was not run."""
        task.state = check_task(task.state, WAITING)
        level = self._levels[task.priority]
        if not level:
            self._use(task.priority)
        level.appendleft(task)
        self.count += 1

    def _use(self, priority: int) -> None:
        self._used.append(priority)
        self._used.sort()

    def first(self) -> Task | None:
        """Return the task whose turn it is, None if there is none; it stays in the queue."""
        used = self._used
        if self._removed:
            self._drop_removed_heads()
        if not used:
            return None
        if len(used) > 1 and self._passed_over >= FAIR_TURN - 1:
            return self._oldest_head()
        return self._levels[used[0]][0]

    def take(self, task: Task) -> None:
        """Take out the task that `first` has returned, whose state the caller sets."""
        if len(self._used) > 1:
            self._passed_over = 0 if self._oldest_head() is task else self._passed_over + 1
        level = self._levels[task.priority]
        level.popleft()
        self.count -= 1
        if not level:
            self._used.remove(task.priority)

    def remove(self, task: Task) -> None:
        """Take out a waiting task, throttled or not, that will not be run."""
        was_throttled = task.state is THROTTLED
        task.state = check_task(task.state, DONE)
        if was_throttled:
            self._throttled.remove(task)
            return
        self.count -= 1
        self._removed += 1
        if self._removed > self.count + self.COMPACT_ABOVE:
            for level in self._used:
                self._levels[level] = deque(task for task in self._levels[level] if task.state is WAITING)
            self._used = [level for level in self._used if self._levels[level]]
            self._removed = 0

    def drop_waiting(self, unless: Collection[str] = ()) -> list[Task]:
        """Take out, and return, the waiting tasks of all functions but those named in `unless`.

        The others wait on, and are no longer throttled.
        """
        self.release()
        dropped = [task for task in self if task.stats.name not in unless]
        for task in dropped:
            self.remove(task)
        return dropped

    def _drop_removed_heads(self) -> None:
        """Make the first task of each level one that waits."""
        for priority in list(self._used):
            level = self._levels[priority]
            while level and level[0].state is not WAITING:
                level.popleft()
                self._removed -= 1
            if not level:
                self._used.remove(priority)

    def _oldest_head(self) -> Task:
        return min((self._levels[level][0] for level in self._used), key=lambda task: task.number)

    # --- throttled tasks ---

    def throttle(self, task: Task) -> None:
        """Set aside the task that `first` has returned, until `release`."""
        self.take(task)
        task.state = check_task(task.state, THROTTLED)
        self._throttled.append(task)

    def release(self) -> None:
        """Let the throttled tasks have their turn again, ahead of the others, in their order."""
        while self._throttled:
            self.push_back(self._throttled.pop())

    def drop_throttled(self) -> list[Task]:
        """Take out, and return, the throttled tasks; they will not be run."""
        dropped = list(self._throttled)
        self._throttled.clear()
        for task in dropped:
            task.state = check_task(task.state, DONE)
        return dropped
