"""A bounded number of connections: calls past it wait, and their callers take turns. Pure."""

from __future__ import annotations

from typing import Protocol

from taskd.errors import Busy

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

    When none is left, calls wait, and there are turns: first between parties, and in each between its
    callers. So whoever has a hundred waiting calls does not keep others waiting for all of them. Callers
    are named as in `taskd.model.Options`: the key of the party, a space, and a name.
    """

    def __init__(self, most: int, max_waiting: int = MAX_WAITING) -> None:
        self.most = most
        self.used = 0
        self.waiting = 0
        self._max_waiting = max_waiting
        self._parties: dict[str, dict[str, dict[Waiting, None]]] = {}
        self._is_serving = False

    def take(self, call: Waiting, caller: str | None) -> bool:
        """Take a slot for `call`, or have it wait: then its `begin` follows. Returns whether it has one.

        Raises `Busy` if too many wait already.
        """
        if self.used < self.most and not self.waiting:
            self.used += 1
            return True
        if self.waiting >= self._max_waiting:
            raise Busy(
                f"{self.waiting} calls wait for one of {self.most} connections to task servers",
                retry_after=RETRY_AFTER,
            )
        key, _, name = (caller or "").rpartition(" ")
        self._parties.setdefault(key, {}).setdefault(name, {})[call] = None
        self.waiting += 1
        return False

    def forget(self, call: Waiting, caller: str | None) -> None:
        """Drop a call that waits no more."""
        key, _, name = (caller or "").rpartition(" ")
        callers = self._parties[key]
        calls = callers[name]
        del calls[call]
        if not calls:
            del callers[name]
        if not callers:
            del self._parties[key]
        self.waiting -= 1

    def give_back(self) -> None:
        """Return a slot, and let the next call have it."""
        self.used -= 1
        if self._is_serving:
            return  # a call has ended as soon as it had begun: the loop below goes on
        self._is_serving = True
        try:
            while self.waiting and self.used < self.most:
                self.used += 1
                self._next().begin()
        finally:
            self._is_serving = False

    def _next(self) -> Waiting:
        key = next(iter(self._parties))
        callers = self._parties.pop(key)
        name = next(iter(callers))
        calls = callers.pop(name)
        call = next(iter(calls))
        del calls[call]
        if calls:
            callers[name] = calls  # behind the others
        if callers:
            self._parties[key] = callers
        self.waiting -= 1
        return call
