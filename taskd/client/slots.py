"""A bounded number of connections: calls past it wait, and their callers take turns. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from taskd.errors import Busy
from taskd.net.admission import Admission

__all__ = ["ConnectionSlots", "Waiting"]

MAX_WAITING = 10_000
"""Calls that may wait for a connection: as many as the queue of a task server has by default."""

RETRY_AFTER = 1.0
"""Seconds after which a caller should try again that found so many."""


class Waiting(Protocol):
    """A call that waits for a connection."""

    def begin(self) -> None:
        """Connect: there is a slot now, which `ConnectionSlots.give_back` returns."""


class ConnectionSlots:
    """At most `most` connections, which calls take and give back.

    A call keeps its slot for as long as its task waits or runs. So neither a
    party nor one of its callers gets the last ones (`taskd.net.admission`), and
    there are turns among those that wait: first between parties, and in each
    between its callers. Callers are named as in `taskd.model.Options`: the key
    of the party, a space, and a name.
    """

    def __init__(self, most: int, max_waiting: int = MAX_WAITING) -> None:
        self.most = most
        self.waiting = 0
        self._max_waiting = max_waiting
        self._of_parties = Admission(most)
        self._of_callers = Admission(most)
        self._parties: dict[str, dict[str, dict[Waiting, None]]] = {}
        self._is_serving = False

    @property
    def used(self) -> int:
        """The number of slots that are taken."""
        return self._of_callers.used

    def take(self, call: Waiting, caller: str | None) -> bool:
        """Take a slot for `call`, or have it wait: then its `begin` follows. Returns whether it has one.

        Raises `Busy` if too many wait already, and as many of the caller's party as may.
        """
        key, name = _split(caller)
        if not self._waits(key, name) and self._may_enter(key, name):
            self._enter(key, name)
            return True
        if self.waiting >= self._max_waiting and not self._has_share_left(key):
            raise Busy(
                f"{self.waiting} calls wait for one of {self.most} connections to task servers",
                retry_after=RETRY_AFTER,
            )
        self._parties.setdefault(key, {}).setdefault(name, {})[call] = None
        self.waiting += 1
        return False

    def _waits(self, key: str, name: str) -> bool:
        return key in self._parties and name in self._parties[key]

    def _may_enter(self, key: str, name: str) -> bool:
        return self._of_parties.has_room(key) and self._of_callers.has_room(f"{key} {name}")

    def _enter(self, key: str, name: str) -> None:
        self._of_parties.enter(key)
        self._of_callers.enter(f"{key} {name}")

    def _has_share_left(self, key: str) -> bool:
        """Return whether less of a party waits than its share, if all parties had the same."""
        parties = len(self._parties) + (key not in self._parties)
        return sum(map(len, self._parties.get(key, {}).values())) < self._max_waiting // parties

    def forget(self, call: Waiting, caller: str | None) -> None:
        """Drop a call that waits no more."""
        self._remove(call, *_split(caller))

    def _remove(self, call: Waiting, key: str, name: str) -> None:
        callers = self._parties[key]
        calls = callers[name]
        del calls[call]
        if not calls:
            del callers[name]
        if not callers:
            del self._parties[key]
        self.waiting -= 1

    def give_back(self, caller: str | None) -> None:
        """Return the slot of a call, and let the next call have it."""
        key, name = _split(caller)
        self._of_parties.leave(key)
        self._of_callers.leave(f"{key} {name}")
        if self._is_serving:
            return  # a call has ended as soon as it had begun: the loop below goes on
        self._is_serving = True
        try:
            while (call := self._next()) is not None:
                call.begin()
        finally:
            self._is_serving = False

    def _next(self) -> Waiting | None:
        """Take out the call whose turn it is among those that may have a slot; it has one then."""
        found = next(self._who_may_enter(), None)
        if found is None:
            return None
        key, name = found
        self._enter(key, name)
        call = next(iter(self._parties[key][name]))
        self._remove(call, key, name)
        if key in self._parties:  # both go behind the others
            callers = self._parties[key] = self._parties.pop(key)
            if name in callers:
                callers[name] = callers.pop(name)
        return call

    def _who_may_enter(self) -> Iterator[tuple[str, str]]:
        for key, callers in self._parties.items():
            if self._of_parties.has_room(key):
                yield from ((key, name) for name in callers if self._of_callers.has_room(f"{key} {name}"))


def _split(caller: str | None) -> tuple[str, str]:
    """Return the party and the name of a caller."""
    key, _, name = (caller or "").rpartition(" ")
    return key, name
