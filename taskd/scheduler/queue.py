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

from taskd.scheduler.parties import TURN_TASKS, Lane, Line, Party, Rotation
from taskd.scheduler.states import DONE, NEW, WAITING, check_task
from taskd.scheduler.task import Subscriber, Task

__all__ = ["FAIR_TURN", "MAX_LOOKED_AT", "PRIORITIES", "TaskQueue"]

PRIORITIES = 10
"""The number of priorities: 0 is first, 9 is last (docs/protocol.md)."""

FAIR_TURN = 10
"""Of this many starts that would pass over an older task of a party, the last goes to what
was passed over for longest. So urgent work keeps nine tenths of the party's starts whatever
else waits, and nothing waits for ever: if never more than P parties and L lanes of its own
party have tasks that wait, a task that is the n-th of its lane has its start within
10·P·L·n turns; within P·L·n if all have the same priority. (Ageing, by which a priority
grows with the wait, would put an hour's backlog of unimportant work ahead of everything
urgent.)"""

MAX_LOOKED_AT = 32
"""Lanes that `TaskQueue.find_head` looks at: enough to find work for idle workers while the
turns go round, and cheap (some 10 µs) even if nothing is found at every start."""


class TaskQueue:
    """The waiting tasks, each in the lane of its connection; none starves (`FAIR_TURN`).

    `len`, `count` and iteration leave out the tasks of lanes that are set
    aside. With `shared`, priorities hold between parties as well.

    `remove` does not search: a task removed from the middle keeps its entry
    until that comes up, or until such entries outnumber the others.
    """

    COMPACT_ABOVE = 1000
    """Removed tasks that may keep their entries however few tasks wait, so that the cost
    of each sweep is spread over many entries."""

    def __init__(self, *, shared: bool = False) -> None:
        self.count = 0
        self._is_shared = shared
        self._parties: Rotation[Party, None] = Rotation()  # all at level 0, unless priorities are shared
        self._removed = 0
        self._count_aside = 0
        self._aside: dict[Subscriber, list[Lane]] = {}
        # The line whose turn it is, None if that has to be looked up, and where it is; how many
        # short tasks it may start in this turn, and how many of those are left.
        self._line: Line | None = None
        self._lane: Lane
        self._priority = 0
        self._allowed = self._left = 0
        # If nothing waits: the lane that had the last task, and its place. It stays in the rotation,
        # with an empty line, until the next task comes, so that an idle server does less.
        self._emptied: tuple[Lane, int] | None = None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Task]:
        for _, _, line in self._lines():
            yield from (task for task in line if task.state is WAITING)

    def _lines(self) -> Iterator[tuple[Lane, int, Line]]:
        """Iterate over the lines that may be started from, in about the order of their turns."""
        for level in self._parties.used:
            for party in self._parties.levels[level]:
                lanes = party.lanes
                for priority in [level] if self._is_shared else lanes.used:
                    for lane, line in lanes.levels[priority].items():
                        yield lane, priority, line

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
        waiting = (party for party in self._parties.members if party.waiting)
        return heapq.nlargest(limit, waiting, key=lambda party: party.waiting)

    def has_share_left(self, lane: Lane, size: int) -> bool:
        """Return whether a lane holds less than its share of a queue of `size` tasks.

        Every party has the same share, and every lane has the same share of its
        party's; those count that have waiting tasks, and this one. A lane may
        use what is left of its party's share.
        """
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
        lane, priority = task.lane, task.priority
        if lane.aside is not None:
            lane.aside.setdefault(priority, deque()).append(task)
            self._count_aside += 1
            return
        party, line = lane.party, lane.line
        self.count += 1
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
            if self._emptied is not None:
                emptied, self._emptied = self._emptied[0], None
                if emptied is not lane:
                    del ring[emptied]
            ring[lane] = line  # what `_enter` does, without its calls
        else:
            self._enter(lane, priority, line)

    def push_back(self, task: Task) -> None:
        """Put back a task that had left the queue and was not run; its lane has the next turn."""
        lane, priority = task.lane, task.priority
        self.push(task)
        if lane.aside is not None:
            lane.aside[priority].rotate()
            return
        lanes = lane.party.lanes
        lanes.levels[priority][lane].rotate()
        lanes.to_front(priority, lane)
        self._parties.to_front(self._level(priority), lane.party)
        self._stop_turn()

    def _level(self, priority: int) -> int:
        return priority if self._is_shared else 0

    def _enter(self, lane: Lane, priority: int, line: Line) -> None:
        """Add a line to the rotation, at its end."""
        self._stop_turn()
        if self._emptied is not None:
            (emptied, level), self._emptied = self._emptied, None
            self._leave(emptied, level)
        lane.party.lanes.enter(priority, lane, line)
        self._parties.enter(self._level(priority), lane.party, None)

    def _leave(self, lane: Lane, priority: int) -> None:
        """Remove a line from the rotation: it is empty, or set aside."""
        self._stop_turn()
        party = lane.party
        lanes = party.lanes
        lanes.leave(priority, lane)
        if not lanes.used or (self._is_shared and not lanes.levels[priority]):
            self._parties.leave(self._level(priority), party)

    def first(self) -> Task | None:
        """Return the task whose turn it is, None if there is none; it stays in the queue."""
        if not self.count:
            return None
        line = self._line
        if line and line[0].state is WAITING:
            return line[0]
        parties = self._parties
        if line is None and len(parties.used) == 1:
            # What `_choose` does if only one priority is in use, without its calls.
            party = next(iter(parties.levels[parties.used[0]]))
            lanes = party.lanes
            if len(lanes.used) == 1:
                self._priority = priority = lanes.used[0]
                self._lane, self._line = lane, line = next(iter(lanes.levels[priority].items()))
                self._allowed = self._left = lane.left if lane.left < party.left else party.left
                if line and line[0].state is WAITING:
                    return line[0]
        while self.count:
            self._choose()
            if (task := self._head()) is not None:
                return task
        return None

    def _choose(self) -> None:
        """Look up the line whose turn it is."""
        if self._line is not None:
            self._stop_turn()
        parties = self._parties
        is_fair = len(parties.used) > 1 and parties.passed_over >= FAIR_TURN - 1
        party = parties.longest_passed_over if is_fair else parties.next
        lanes = party.lanes
        if not is_fair and not self._is_shared:
            is_fair = len(lanes.used) > 1 and lanes.passed_over >= FAIR_TURN - 1
        # The lane that was passed over for longest may turn out to have only removed tasks.
        oldest = self._oldest(lanes.longest_passed_over) if is_fair else None
        if oldest is not None:
            lane, priority = oldest.lane, oldest.priority
        else:
            lane, priority = lanes.next, lanes.used[0]
        self._begin_turn(lane, priority, lanes.levels[priority][lane])

    def _begin_turn(self, lane: Lane, priority: int, line: Line) -> None:
        """Let a line begin or continue its turn."""
        self._lane, self._priority, self._line = lane, priority, line
        self._allowed = self._left = min(lane.left, lane.party.left)

    def _stop_turn(self) -> None:
        """Interrupt the present turn: it continues when the line comes first again."""
        if self._line is not None:
            used = self._allowed - self._left
            self._lane.left -= used
            self._lane.party.left -= used
            self._line = None

    def _head(self) -> Task | None:
        """Return the first task of the present line, None if it turns out to be empty; it leaves then."""
        line, lane = self._line, self._lane
        assert line is not None
        if line and line[0].state is WAITING:
            return line[0]
        self._drop_removed_heads(lane, line)
        if line:
            return line[0]
        self._leave(lane, self._priority)
        return None

    def _drop_removed_heads(self, lane: Lane, line: Line) -> None:
        while line and line[0].state is not WAITING:
            line.popleft()
            lane.removed -= 1
            self._removed -= 1

    def _oldest(self, lane: Lane) -> Task | None:
        """Return the oldest waiting task of a lane, None if there is none."""
        lines = lane.lines
        for line in lines:
            self._drop_removed_heads(lane, line)
        return min((line[0] for line in lines if line), key=lambda task: task.number, default=None)

    def find_head(self, wanted: Callable[[Task], bool]) -> Task | None:
        """Return the first task that is wanted among the heads of some lines (`MAX_LOOKED_AT`).

        It stays in the queue, and may be taken as if it were its turn.
        """
        for lane, priority, line in islice(self._lines(), MAX_LOOKED_AT):
            self._drop_removed_heads(lane, line)
            if line and wanted(line[0]):
                self._stop_turn()
                self._begin_turn(lane, priority, line)
                return line[0]
        return None

    def find_oldest(self, lane: Lane) -> Task:
        """Return the oldest task of a lane that has one; it may be taken as if it were its turn."""
        task = self._oldest(lane)
        assert task is not None
        self._stop_turn()
        self._begin_turn(lane, task.priority, lane.party.lanes.levels[task.priority][lane])
        return task

    def take(self, task: Task, *, is_short: bool = False) -> None:
        """Take out the task that `first` or `find_head` has returned; the caller sets its state.

        A task that is not known to be short is a whole turn.
        """
        line, lane = self._line, self._lane
        assert line is not None
        party = lane.party
        lanes = party.lanes
        has_levels = len(lanes.used) > 1 or len(self._parties.used) > 1
        if has_levels:
            self._note_start(task)
        line.popleft()
        self.count -= 1
        party.waiting -= 1
        task.stats.waiting -= 1
        if not is_short:
            lane.left = party.left = self._allowed = self._left = 0
            self._end_turn(line)
            return
        self._left = left = self._left - 1
        if has_levels or left <= 0:
            self._end_turn(line)
        elif not line:
            if lanes.order is None and len(ring := lanes.levels[self._priority]) > 1:
                # What `_end_turn` does, without its calls.
                party.left -= self._allowed - left
                lane.left = TURN_TASKS
                self._line = None
                del ring[lane]
            elif not self.count and lanes.order is None:
                party.left = lane.left = TURN_TASKS
                self._line = None
                self._emptied = lane, self._priority
            else:
                self._end_turn(line)

    def _end_turn(self, line: Line) -> None:
        """Look up whose turn it is now: the line's turn may be over, or that of its party."""
        lane, priority = self._lane, self._priority
        party = lane.party
        lanes = party.lanes
        self._stop_turn()
        if not line:
            lane.left = TURN_TASKS
            self._leave(lane, priority)
        elif lane.left <= 0:
            lane.left = TURN_TASKS
            lanes.to_back(priority, lane)
        if party.left <= 0:
            party.left = TURN_TASKS
            ring_of_parties = self._parties.levels[self._level(priority)]
            if len(ring_of_parties) > 1 and party in ring_of_parties:
                self._parties.to_back(self._level(priority), party)

    def _note_start(self, task: Task) -> None:
        """Note whether a start passes over an older task that could have been started."""
        parties, lane = self._parties, self._lane
        party = lane.party
        lanes = party.lanes
        is_oldest = task is self._oldest(lane)
        is_party_next = is_oldest and lanes.longest_passed_over is lane
        is_next = is_party_next and (not self._is_shared or parties.longest_passed_over is party)
        if is_oldest and len(lanes.used) > 1:
            lanes.was_served(lane)
        if is_party_next and len(parties.used) > 1:
            parties.was_served(party)
        counting = parties if self._is_shared else lanes
        if len(counting.used) > 1:
            counting.passed_over = 0 if is_next else counting.passed_over + 1

    def remove(self, task: Task) -> None:
        """Take out a waiting task that will not be run, whether its lane is set aside or not."""
        task.state = check_task(task.state, DONE)
        lane = task.lane
        lane.removed += 1
        self._removed += 1
        task.stats.waiting -= 1
        if lane.aside is None:
            self.count -= 1
            lane.party.waiting -= 1
        else:
            self._count_aside -= 1
        if not lane.waiting:
            self._forget(lane)
        elif self._removed > self.waiting + self.COMPACT_ABOVE:
            self._sweep()

    def _forget(self, lane: Lane) -> None:
        """Drop the lines of a lane that has only removed tasks."""
        self._removed -= lane.removed
        lane.removed = 0
        lane.line = None
        if lane.aside is not None:
            lane.aside.clear()
            return
        lanes = lane.party.lanes
        for priority in [level for level in lanes.used if lane in lanes.levels[level]]:
            self._leave(lane, priority)

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
        for subscriber in list(self._aside):
            self.resume(subscriber)
        dropped = [task for task in self if task.stats.name not in unless]
        for task in dropped:
            self.remove(task)
        return dropped

    # --- lanes that are set aside ---

    def set_aside(self, task: Task) -> None:
        """Set aside the lane of the task that `first` has returned until `resume`, whatever else it holds."""
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
        self._aside.setdefault(task.subscriber, []).append(lane)

    def resume(self, subscriber: Subscriber) -> None:
        """Put back the lanes that were set aside because of `subscriber`, behind the others."""
        for lane in self._aside.pop(subscriber, ()):
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
