"""The unfinished tasks of a store, counted by function and owner."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

__all__ = ["Queued", "largest"]


class Queued(msgspec.Struct, frozen=True):
    """The unfinished tasks of a function and an owner; both are None for the rest of a list.

    `oldest` is when the oldest waiting one could have started, in seconds since 1970; None if none
    waits, and for the rest.
    """

    function: str | None
    owner: str | None
    scheduled: int = 0
    waiting: int = 0
    running: int = 0
    oldest: float | None = None

    def __add__(self, other: Queued) -> Queued:
        """Return both together, with the names of the first."""
        times = [each for each in (self.oldest, other.oldest) if each is not None]
        return Queued(
            self.function,
            self.owner,
            self.scheduled + other.scheduled,
            self.waiting + other.waiting,
            self.running + other.running,
            min(times, default=None),
        )

    @property
    def total(self) -> int:
        """The number of tasks."""
        return self.scheduled + self.waiting + self.running


def largest(rows: Iterable[Queued], limit: int) -> list[Queued]:
    """Return the `limit` rows with most tasks, the largest first; all others as one row more."""
    named: list[Queued] = []
    rest = Queued(None, None)
    for row in rows:
        if row.function is None:
            rest += row
        else:
            named.append(row)
    named.sort(key=lambda row: (-row.total, row.function, row.owner))
    for row in named[limit:]:
        rest += row
    return [*named[:limit], *([replace(rest, oldest=None)] if rest.total else [])]
