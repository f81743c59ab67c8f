"""The order of turns: between parties, by priority, and between lanes."""

from __future__ import annotations

from collections.abc import Iterator

from taskd.scheduler.parties import TURN_TASKS, Lane, Line, Party, Rotation
from taskd.scheduler.states import WAITING
from taskd.scheduler.task import Task

__all__ = ["FAIR_TURN", "LaneOrder"]

FAIR_TURN = 10
"""Of this many starts that would pass over an older task of a party, the last goes to what
was passed over for longest. So urgent work keeps nine tenths of the party's starts whatever
else waits, and nothing waits for ever: if never more than P parties and L lanes of its own
party have tasks that wait, a task that is the n-th of its lane has its start within
10·P·L·n turns; within P·L·n if all have the same priority. (Ageing, by which a priority
grows with the wait, would put an hour's backlog of unimportant work ahead of everything
urgent.)"""


class LaneOrder:
    """The lines of all lanes that may be started from, and the one whose turn it is.

    This is the part of `taskd.scheduler.queue.TaskQueue`, its subclass, that
    knows no tasks but those at the heads. With `shared`, priorities hold
    between parties as well.
    """

    def __init__(self, *, shared: bool) -> None:
        self._is_shared = shared
        self._parties: Rotation[Party, None] = Rotation()  # all at level 0, unless priorities are shared
        self._removed = 0
        # The line whose turn it is, None if that has to be looked up, and where it is; how many
        # short tasks it may start in this turn, and how many of those are left.
        self._line: Line | None = None
        self._lane: Lane
        self._priority = 0
        self._allowed = self._left = 0
        self._has_levels = False  # whether it competes with lines of other priorities

    def _lines(self) -> Iterator[tuple[Lane, int, Line]]:
        """Iterate over the lines that may be started from, in about the order of their turns."""
        for level in self._parties.used:
            for party in self._parties.levels[level]:
                lanes = party.lanes
                for priority in [level] if self._is_shared else lanes.used:
                    for lane, line in lanes.levels[priority].items():
                        yield lane, priority, line

    # --- lines come and go ---

    def _level(self, priority: int) -> int:
        return priority if self._is_shared else 0

    def _enter(self, lane: Lane, priority: int, line: Line) -> None:
        """Add a line to the rotation, at its end."""
        self._stop_turn()
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

    # --- whose turn it is ---

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
        if is_fair:
            lane = lanes.longest_passed_over
            priority = self._oldest(lane).priority
        else:
            lane, priority = lanes.next, lanes.used[0]
        self._begin_turn(lane, priority, lanes.levels[priority][lane])

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

    def _oldest(self, lane: Lane) -> Task:
        """Return the oldest waiting task of a lane in the rotation, which always has one."""
        lines = lane.lines
        for line in lines:
            self._drop_removed_heads(lane, line)
        return min((line[0] for line in lines if line), key=lambda task: task.number)

    def _begin_turn(self, lane: Lane, priority: int, line: Line) -> None:
        """Let a line begin or continue its turn."""
        self._lane, self._priority, self._line = lane, priority, line
        self._allowed = self._left = min(lane.left, lane.party.left)
        self._has_levels = len(lane.party.lanes.used) > 1 or len(self._parties.used) > 1

    def _stop_turn(self) -> None:
        """Interrupt the present turn: it continues when the line comes first again."""
        if self._line is not None:
            used = self._allowed - self._left
            self._lane.left -= used
            self._lane.party.left -= used
            self._line = None

    def _end_turn(self, line: Line) -> None:
        """Look up whose turn it is now: the line's turn may be over, or that of its party."""
        lane, priority = self._lane, self._priority
        party = lane.party
        lanes = party.lanes
        self._stop_turn()
        if not line:
            lane.left = TURN_TASKS
            self._leave(lane, priority)
            if lanes.order is not None and not lane.waiting:  # what it has at other priorities was removed
                self._forget(lane)
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
        counting.passed_over = 0 if is_next else counting.passed_over + 1
