"""A bounded number of connections, shared between parties, none of which gets the last one. Pure."""

from __future__ import annotations

__all__ = ["Admission"]

SHARE = 3
"""A party may have so many times more connections than are free. So one alone gets at most three
quarters, two get three sevenths each, and however many there are, a newcomer finds room."""


class Admission:
    """The connections of a process by party; at most `most` of them, and `most_each` of one party.

    A party is whoever is at the other end: an address, or a user of this machine.
    How many one may have follows from how many are free (dynamic thresholds, as switches have
    them for the packets of their ports): while nobody else comes, it gets most of them.
    """

    def __init__(self, most: int, most_each: int | None = None) -> None:
        self.most = most
        self.most_each = most_each
        self._held: dict[str, int] = {}
        self.used = 0

    def has_room(self, party: str) -> bool:
        """Return whether `party` may have one more connection."""
        return self._held.get(party, 0) < SHARE * (self.most - self.used)

    def has_its_most(self, party: str) -> bool:
        """Return whether `party` has as many connections as one may have, however many are free."""
        return self.most_each is not None and self._held.get(party, 0) >= self.most_each

    def enter(self, party: str, *, over: bool = False) -> bool:
        """Take a connection for `party`; return whether there is one. With `over` there is always one."""
        held = self._held.get(party, 0)
        if not over and held >= SHARE * (self.most - self.used):
            return False
        self._held[party] = held + 1
        self.used += 1
        return True

    def leave(self, party: str) -> None:
        """Give back a connection of `party`."""
        self.used -= 1
        held = self._held.pop(party) - 1
        if held:
            self._held[party] = held

    @property
    def largest(self) -> tuple[str, int]:
        """The party with the most connections, and how many."""
        return max(self._held.items(), key=lambda held: held[1], default=("", 0))
