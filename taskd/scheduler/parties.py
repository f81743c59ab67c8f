"""Parties and lanes: whose tasks wait. The queue takes turns between parties, and in each between lanes.

A party is whoever connections belong to: the owner of their tasks, if they have shown a token; else
an IP address, or the user of a unix socket (`taskd.net.party_keys` finds out). A lane holds the
waiting tasks of one connection, or of one websocket that a gateway has named in its calls.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakValueDictionary

import msgspec

from taskd.model import Grant
from taskd.scheduler.quotas import Quota

if TYPE_CHECKING:
    from taskd.scheduler.task import Task

__all__ = ["TURN_TASKS", "Lane", "Line", "Parties", "Party", "Rotation"]

Member = TypeVar("Member")
Value = TypeVar("Value")


class Rotation(Generic[Member, Value]):
    """Members with waiting tasks, at one level or several; in each, those whose turn is longest ago first.

    `levels` has the members of each level, with what they have there; a level
    may be empty. `used` are the levels that have members, in ascending order.
    `passed_over` counts the starts, one after the other, that passed over the
    oldest task of `longest_passed_over`. `order` has all members, first the one
    whose oldest task has been passed over for longest; it is None while that is
    the order of the only level in use, as it nearly always is.
    """

    __slots__ = ("levels", "order", "passed_over", "used")

    def __init__(self) -> None:
        self.levels: dict[int, OrderedDict[Member, Value]] = {}
        self.used: list[int] = []
        self.passed_over = 0
        self.order: OrderedDict[Member, None] | None = None

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.members)

    def __contains__(self, member: Member) -> bool:
        return member in self.members

    @property
    def members(self) -> Collection[Member]:
        """All members, whatever their levels."""
        if self.order is not None:
            return self.order
        return self.levels[self.used[0]] if self.used else ()

    def enter(self, level: int, member: Member, value: Value) -> None:
        """Add a member to a level, behind the others; does nothing if it is there already."""
        ring = self.levels.get(level)
        if ring is None:
            ring = self.levels[level] = OrderedDict()
        elif member in ring:
            return
        if not ring:
            used = self.used
            if used and self.order is None:
                # Built once, until all members have left: so nobody can have it built again and again.
                self.order = OrderedDict.fromkeys(self.levels[used[0]])
            used.append(level)
            if len(used) > 1:
                used.sort()
        ring[member] = value
        if self.order is not None:
            self.order.setdefault(member)

    def leave(self, level: int, member: Member) -> None:
        """Remove a member from a level, which has nothing left there."""
        ring = self.levels[level]
        del ring[member]
        if not ring:
            self.used.remove(level)
        if self.order is not None:
            if not any(member in self.levels[other] for other in self.used):
                del self.order[member]
            if not self.order:
                self.order = None

    def to_front(self, level: int, member: Member) -> None:
        """Let a member of a level have the next turn there."""
        self.levels[level].move_to_end(member, last=False)

    def to_back(self, level: int, member: Member) -> None:
        """End a member's turn at a level."""
        self.levels[level].move_to_end(member)
        if self.order is not None and len(self.used) == 1:
            self.order.move_to_end(member)

    def was_served(self, member: Member) -> None:
        """Note that a member's oldest task is started, while several levels are in use."""
        assert self.order is not None
        self.order.move_to_end(member)

    @property
    def next(self) -> Member:
        """The member whose turn it is at the first level in use; there must be one."""
        return next(iter(self.levels[self.used[0]]))

    @property
    def longest_passed_over(self) -> Member:
        """The member whose oldest task has been passed over for longest; there must be one."""
        return next(iter(self.members))


_OWNER = "owner "
"""The beginning of the key of an owner's party: no address is like that."""

REMEMBERED = 1000
"""Named lanes that are remembered though nothing waits in them: their callers mostly call again soon."""

TURN_TASKS = 32
"""Short tasks in one turn of a lane or of a party: as many as a worker may have at once. Of
other tasks, a turn is a single one. If the turn changed with each short task, the replies to
one connection would come from many batches, and each would cost a system call."""


class Party:
    """One party: its lanes with waiting tasks.

    `key` is for people: "192.0.2.7", "2001:db8::/64", "uid 1000", "owner alice". `waiting`
    counts its tasks that may be started, `left` what is left of its present
    turn, in short tasks. `quota` has the limits of an owner that has any.
    """

    __slots__ = ("__weakref__", "key", "lanes", "left", "quota", "waiting")

    def __init__(self, key: str) -> None:
        self.key = key
        self.quota: Quota | None = None
        self.waiting = 0
        self.left = TURN_TASKS
        self.lanes: Rotation[Lane, Line] = Rotation()

    @property
    def owner(self) -> str:
        """Whom its tasks belong to, "" if to nobody in particular."""
        return self.key.removeprefix(_OWNER) if self.key.startswith(_OWNER) else ""


class Lane(msgspec.Struct, eq=False, weakref=True):
    """The place where the tasks of one connection wait.

    `name` is the connection's name among those of its party, as a gateway gives
    it to a task server. `line` has the tasks of one priority, the one used
    last. `aside` is None unless the lane is set aside, because its connection
    leaves too much unread: then its lines are there, by priority, and not in
    its party's rotation. `removed` counts the tasks in its lines that do not
    wait any more. `newcomers` counts its tasks that are not in its lines yet.
    `left` is as for `Party`.

    Every connection has one: hence a struct, which is created fast.
    """

    party: Party
    name: str = ""
    priority: int = -1
    line: Line | None = None
    left: int = TURN_TASKS
    removed: int = 0
    newcomers: int = 0
    aside: dict[int, Line] | None = None

    @property
    def lines(self) -> list[Line]:
        """The lane's tasks of each priority, the first priority first."""
        if self.aside is not None:
            return [line for _, line in sorted(self.aside.items())]
        lanes = self.party.lanes
        return [lanes.levels[level][self] for level in lanes.used if self in lanes.levels[level]]

    @property
    def waiting(self) -> int:
        """The number of tasks that wait in the lane."""
        return sum(map(len, self.lines)) - self.removed


class Parties:
    """The parties and named lanes that exist; each is forgotten some time after nothing belongs to it.

    This is the one place that decides who shares a turn with whom.
    """

    def __init__(self) -> None:
        self._parties: WeakValueDictionary[str, Party] = WeakValueDictionary()
        self._named: WeakValueDictionary[str, Lane] = WeakValueDictionary()
        self._recent: dict[str, Lane] = {}
        self._latest = self._parties[""] = Party("")

    def __len__(self) -> int:
        """Return how many parties and named lanes are remembered."""
        return len(self._parties) + len(self._named)

    def party(self, key: str) -> Party:
        """Return the party with this key."""
        party = self._latest
        if party.key == key:  # often several connections in a row are of the same party
            return party
        known = self._parties.get(key)
        if known is None:
            known = self._parties[key] = Party(key)
        self._latest = known
        return known

    def of_owner(self, grant: Grant) -> Party:
        """Return the party of an owner, with its limits as they are by now."""
        party = self.party(f"{_OWNER}{grant.owner}")
        if party.quota is not None:
            party.quota.grant = grant
        elif grant.has_limits:
            party.quota = Quota(grant)
        return party

    def limit(self, grant: Grant) -> Quota:
        """Return the limits of an owner of stored tasks, which are those of this grant from now on."""
        party = self.of_owner(grant)
        if party.quota is None:
            party.quota = Quota(grant)
        self.stored_lane(grant.owner, None)  # which is remembered, and the party with it
        return party.quota

    def owned_lane(self, grant: Grant, caller: str | None) -> Lane:
        """Return the lane of a connection of an owner, which a gateway has named as in `named_lane`."""
        party = self.of_owner(grant)
        return self.named_lane(f"{party.key} {(caller or '').rpartition(' ')[2]}")

    def stored_lane(self, owner: str, running: int | None) -> Lane:
        """Return the lane of an owner's stored tasks; `running` may run, unless more is known of that."""
        lane = self.named_lane(f"{_OWNER}{owner} store")
        if running is not None and lane.party.quota is None:
            lane.party.quota = Quota(Grant(owner, running=running))
        return lane

    def named_lane(self, caller: str) -> Lane:
        """Return the lane of a caller that a gateway has named: party, a space, and connection."""
        lane = self._recent.get(caller)
        if lane is not None:
            return lane
        lane = self._named.get(caller)
        if lane is None:
            key, _, name = caller.rpartition(" ")
            lane = self._named[caller] = Lane(self.party(key), name)
        if len(self._recent) >= REMEMBERED:
            self._recent.clear()
        self._recent[caller] = lane
        return lane


Line = deque["Task"]
"""The tasks of one lane and one priority, in the order of their arrival; some may have been removed."""
