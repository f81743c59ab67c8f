"""The queue of waiting tasks: turns between parties and their connections, priorities, and lanes set aside.

By default the queue takes turns between parties; in a party it goes by
priority, and in a priority it takes turns between lanes. With shared priorities
it goes by priority first, over all parties.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from math import inf

from taskd.scheduler.lane_order import LaneOrder
from taskd.scheduler.parties import TURN_TASKS, Lane, Party
from taskd.scheduler.quotas import Quota
from taskd.scheduler.states import DONE, NEW, WAITING, check_task
from taskd.scheduler.task import Subscriber, Task

__all__ = ["MAX_LOOKED_AT", "PRIORITIES", "TaskQueue"]

PRIORITIES = 10
"""The number of priorities: 0 is first, 9 is last (docs/protocol.md)."""

MAX_LOOKED_AT = 32
"""Lanes that `TaskQueue.find_head` looks at: enough to find work for idle workers while the
turns go round, and cheap (some 10 µs) even if nothing is found at every start."""


class TaskQueue(LaneOrder):
    """The waiting tasks, each in the lane of its connection; none starves.

    `len`, `count` and iteration leave out the tasks of lanes that are set
    aside. With `shared`, priorities hold between parties as well.

    While no other task waits, tasks are *newcomers*, in the order of their
    arrival, until `line_up` puts them into their lanes: at the latest when one
    lane has more of them than in a turn, or when their priorities differ. So
    those that workers can take at once, mostly all, never see a lane.

    `remove` does not search: a task removed from the middle keeps its entry
    until that comes up, or until such entries outnumber the others.
    """

    COMPACT_ABOVE = 1000
    """Removed tasks that may keep their entries however few tasks wait, so that the cost
    of each sweep is spread over many entries."""

    def __init__(self, *, shared: bool = False) -> None:
        super().__init__(shared=shared)
        self.count = 0
        self.newcomers: deque[Task] = deque()
        self._count_aside = 0
        self._aside: dict[Subscriber | Quota, list[Lane]] = {}

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Task]:
        self.line_up()
        for _, _, line in self._lines():
            yield from (task for task in line if task.state is WAITING)

    def _lanes_aside(self) -> Iterator[Lane]:
        for lanes in self._aside.values():
            yield from lanes

    @property
    def waiting(self) -> int:
        """The number of waiting tasks, including those of lanes that are set aside."""
        return self.count + self._count_aside

    @property
    def all_waiting(self) -> list[Task]:
        """Every waiting task; those of lanes that are set aside come last."""
        aside = [task for lane in self._lanes_aside() for line in lane.lines for task in line]
        return [*self, *(task for task in aside if task.state is WAITING)]

    def largest_parties(self, limit: int) -> list[Party]:
        """Return the parties of which most tasks may be started, at most `limit` of them."""
        self.line_up()
        waiting = (party for party in self._parties.members if party.waiting)
        return heapq.nlargest(limit, waiting, key=lambda party: party.waiting)

    def has_share_left(self, lane: Lane, size: int) -> bool:
        """Return whether a lane holds less than its share of a queue of `size` tasks.

        Every party has the same share, and every lane has the same share of its
        party's; those count that have waiting tasks, and this one. A lane may
        use what is left of its party's share.
        """
        self.line_up()
        party = lane.party
        parties = len(self._parties) + (party not in self._parties)
        share = size // parties
        if party.waiting < share:
            return True
        lanes = len(party.lanes) + (lane not in party.lanes)
        return lane.waiting < share // lanes

    # --- in and out ---

    def push(self, task: Task) -> None:
        """Add a new task, behind the others of its priority in its lane."""
        if task.state is not NEW:
            check_task(task.state, WAITING)
        task.state = WAITING
        task.stats.waiting += 1
        if task.quota is not None:
            task.quota.enter(task)
        lane, priority = task.lane, task.priority
        line = lane.line
        if line and lane.priority == priority:  # as in most cases, if others wait
            line.append(task)
            self.count += 1
            lane.party.waiting += 1
        elif lane.aside is not None:
            lane.aside.setdefault(priority, deque()).append(task)
            self._count_aside += 1
        else:
            self.count += 1
            if self._parties.used:
                self._put(task)
            else:
                self.newcomers.append(task)
                lane.newcomers += 1
                if (
                    lane.newcomers > TURN_TASKS
                    or priority != self.newcomers[0].priority
                    or task.quota is not None
                ):
                    self.line_up()

    def _put(self, task: Task) -> None:
        """Put a task into its lane."""
        lane, priority = task.lane, task.priority
        party, line = lane.party, lane.line
        party.waiting += 1
        if line and lane.priority == priority:
            line.append(task)
            return
        lanes = party.lanes
        ring = lanes.levels.get(priority)
        if line is None or lane.priority != priority:
            line = ring.get(lane) if ring else None
            lane.line = line = deque() if line is None else line
            lane.priority = priority
        line.append(task)
        if ring and lanes.order is None:
            ring[lane] = line  # what `_enter` does, without its calls
        else:
            self._enter(lane, priority, line)

    def line_up(self) -> None:
        """Put the newcomers into their lanes: from now on they wait for their turns."""
        if self.newcomers:
            newcomers, self.newcomers = self.newcomers, deque()
            for task in newcomers:
                task.lane.newcomers = 0
                self._put(task)

    def take_newcomer(self) -> None:
        """Take out the first newcomer; the caller sets its state."""
        task = self.newcomers.popleft()
        task.lane.newcomers -= 1
        self.count -= 1
        task.stats.waiting -= 1

    def push_back(self, task: Task) -> None:
        """Put back a task that had left the queue and was not run; its lane has the next turn."""
        self.line_up()
        lane, priority = task.lane, task.priority
        self.push(task)
        self.line_up()
        if lane.aside is not None:
            lane.aside[priority].rotate()
            return
        lanes = lane.party.lanes
        lanes.levels[priority][lane].rotate()
        lanes.to_front(priority, lane)
        self._parties.to_front(self._level(priority), lane.party)
        self._stop_turn()

    def first(self) -> Task | None:
        """Return the task whose turn it is, None if there is none; it stays in the queue."""
        if not self.count:
            return None
        if self.newcomers:
            self.line_up()
        line = self._line
        if line and line[0].state is WAITING:
            return line[0]
        self._choose()
        while (task := self._head()) is None:
            self._choose()
        return task

    def find_head(self, wanted: Callable[[Task], bool]) -> Task | None:
        """Return the first task that is wanted among the heads of some lines (`MAX_LOOKED_AT`).

        It stays in the queue, and may be taken as if it were its turn.
        """
        self.line_up()
        for lane, priority, line in islice(self._lines(), MAX_LOOKED_AT):
            self._drop_removed_heads(lane, line)
            if line and wanted(line[0]):
                self._stop_turn()
                self._begin_turn(lane, priority, line)
                return line[0]
        return None

    def find_oldest(self, lane: Lane) -> Task:
        """Return the oldest task of a lane that has one; it may be taken as if it were its turn."""
        self.line_up()
        task = self._oldest(lane)
        self._stop_turn()
        self._begin_turn(lane, task.priority, lane.party.lanes.levels[task.priority][lane])
        return task

    def take(self, task: Task, *, is_short: bool = False) -> Task | None:
        """Take out the task that is returned by `first`, `find_head` or the like; the caller sets its state.

        A task that is not known to be short is a whole turn. Returns the task
        whose turn is next, None if there is none; it stays in the queue.
        """
        self.count -= 1
        task.stats.waiting -= 1
        line, lane = self._line, self._lane
        assert line is not None
        if self._has_levels:
            self._note_start(task)
        line.popleft()
        if lane.removed:  # a lane without waiting tasks must not stay in the rotation
            self._drop_removed_heads(lane, line)
        lane.party.waiting -= 1
        if not is_short:
            lane.left = lane.party.left = self._allowed = self._left = 0
            self._end_turn(line)
        else:
            self._left -= 1
            if line and self._left > 0 and not self._has_levels:
                return line[0]
            self._end_turn(line)
        return self.first()

    def remove(self, task: Task) -> None:
        """Take out a waiting task that will not be run, whether its lane is set aside or not."""
        self.line_up()
        task.state = check_task(task.state, DONE)
        lane = task.lane
        lane.removed += 1
        self._removed += 1
        task.stats.waiting -= 1
        if task.quota is not None:
            task.quota.leave(task)
        if lane.aside is None:
            self.count -= 1
            lane.party.waiting -= 1
        else:
            self._count_aside -= 1
        if not lane.waiting:
            self._forget(lane)
            if task.quota is not None:
                self.resume_some(task.quota)
        elif self._removed > self.waiting + self.COMPACT_ABOVE:
            self._sweep()

    def _sweep(self) -> None:
        """Drop every removed task."""
        lanes = {lane: None for lane, _, _ in self._lines()} | dict.fromkeys(self._lanes_aside())
        for lane in lanes:
            for line in lane.lines:
                waiting = [task for task in line if task.state is WAITING]
                line.clear()
                line.extend(waiting)
            lane.removed = 0
        self._removed = 0

    def drop_waiting(self, unless: Collection[str] = ()) -> list[Task]:
        """Take out, and return, the waiting tasks of all functions but those named in `unless`.

        The other tasks go on waiting, and no lane is set aside any more.
        """
        for reason in list(self._aside):
            self.resume(reason)
        dropped = [task for task in self if task.stats.name not in unless]
        for task in dropped:
            self.remove(task)
        return dropped

    # --- lanes that are set aside ---

    def set_aside(self, task: Task, reason: Subscriber | Quota | None = None) -> None:
        """Set aside the lane of the task that `first` has returned until `resume`, whatever else it holds.

        The reason is by default the task's subscriber.
        """
        self.line_up()
        reason = reason or task.subscriber
        lane = task.lane
        waiting = lane.waiting
        lanes = lane.party.lanes
        aside = {level: lanes.levels[level][lane] for level in lanes.used if lane in lanes.levels[level]}
        for priority in aside:
            self._leave(lane, priority)
        lane.aside, lane.line = aside, None
        lane.party.waiting -= waiting
        self.count -= waiting
        self._count_aside += waiting
        self._aside.setdefault(reason, []).append(lane)
        if task.quota is not None and reason is not task.quota:
            self.resume_some(task.quota)  # which may start what this lane does not

    def resume(self, reason: Subscriber | Quota) -> None:
        """Put back the lanes that were set aside because of `reason`, behind the others."""
        self.line_up()
        for lane in self._aside.pop(reason, ()):
            self._put_back(lane)

    def resume_some(self, quota: Quota) -> None:
        """Put back as many lanes of an owner as it may start tasks: the most urgent first, then in turns."""
        lanes = self._aside.get(quota)
        if lanes is None or quota.is_full:
            return
        self.line_up()
        room = inf if quota.grant.running is None else quota.grant.running - quota.running
        while lanes and room > 0:
            lane = min(lanes, key=_first_priority)
            lanes.remove(lane)
            room -= bool(lane.waiting)
            self._put_back(lane)
        if not lanes:
            del self._aside[quota]

    def _put_back(self, lane: Lane) -> None:
        waiting, aside = lane.waiting, lane.aside
        assert aside is not None
        lane.aside = None
        for priority, line in aside.items():
            self._enter(lane, priority, line)
        lane.party.waiting += waiting
        self.count += waiting
        self._count_aside -= waiting

    def drop_aside(self) -> list[Task]:
        """Take out, and return, the tasks of the lanes that are set aside, which will not be run."""
        dropped = [task for lane in self._lanes_aside() for line in lane.lines for task in line]
        dropped = [task for task in dropped if task.state is WAITING]
        for task in dropped:
            self.remove(task)
        return dropped


def _first_priority(lane: Lane) -> int:
    """Return the first priority of which a lane that is set aside has tasks; it may have none at all."""
    return min(lane.aside or (PRIORITIES,))
