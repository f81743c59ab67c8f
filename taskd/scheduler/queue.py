"""The queue of waiting tasks: priorities, fairness, and the tasks whose submitter is throttled."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

from taskd.scheduler.states import DONE, THROTTLED, WAITING, check_task
from taskd.scheduler.task import Task

__all__ = ["FAIR_TURN", "PRIORITIES", "TaskQueue"]

PRIORITIES = 10
"""The number of priorities: 0 is first, 9 is last (docs/protocol.md)."""

FAIR_TURN = 10
"""Of this many starts that would pass over an older task, the last goes to the oldest
task instead. So urgent work keeps nine tenths of the pool whatever else waits, and
nothing waits for ever: if n tasks wait when one arrives, itself included, fewer than 10n
others start before it. (Ageing, by which a priority grows with the wait, would put an
hour's backlog of unimportant work ahead of everything urgent.)"""


class TaskQueue:
    """The waiting tasks by priority, first in, first out within each; none starves (`FAIR_TURN`).

    `len` and iteration leave out throttled tasks, which are set aside until
    `release`. `count` is `len` without a call, for the fast path.

    `remove` does not search: a task removed from the middle keeps its entry
    until that comes up, or until such entries outnumber the others.
    """

    COMPACT_ABOVE = 1000
    """Removed tasks that may keep their entries however few tasks wait, so that the cost
    of each sweep is spread over many entries."""

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
        """The number of waiting tasks, throttled ones included."""
        return self.count + len(self._throttled)

    @property
    def all_waiting(self) -> list[Task]:
        """Every waiting task; throttled ones come last."""
        return [*self, *self._throttled]

    @property
    def oldest(self) -> Task | None:
        """The task that has waited for longest, None if none waits."""
        return min(self.all_waiting, key=lambda task: task.number, default=None)

    # --- in and out ---

    def push(self, task: Task) -> None:
        """Add a new task, behind the others of its priority."""
        task.state = check_task(task.state, WAITING)
        level = self._levels[task.priority]
        if not level:
            self._use(task.priority)
        level.append(task)
        self.count += 1

    def push_back(self, task: Task) -> None:
        """Put back a task that had left the queue and was not run, ahead of the others of its priority."""
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
        """Take out the task that `first` has returned; the caller sets its state."""
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

        The other tasks go on waiting, and are no longer throttled.
        """
        self.release()
        dropped = [task for task in self if task.stats.name not in unless]
        for task in dropped:
            self.remove(task)
        return dropped

    def _drop_removed_heads(self) -> None:
        """Drop removed tasks from the front of each priority."""
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
        """Put the throttled tasks back, in order, ahead of the others of their priority."""
        while self._throttled:
            self.push_back(self._throttled.pop())

    def drop_throttled(self) -> list[Task]:
        """Take out, and return, the throttled tasks, which will not be run."""
        dropped = list(self._throttled)
        self._throttled.clear()
        for task in dropped:
            task.state = check_task(task.state, DONE)
        return dropped
