"""The rates of owners: how many calls each has made lately, and how long to wait for the next. Pure."""

from __future__ import annotations

from collections import deque

from taskd.auth.caller import Rate
from taskd.errors import Busy, NotAllowed

__all__ = ["Rates"]

SLICES = 1000
"""The most entries of one owner: what comes in the same thousandth of its time is one entry."""

SWEEP = 1000
"""Owners that are remembered before those are looked for whose calls are all too old to count."""


class Rates:
    """The calls that owners have made. Times are in seconds, on any one clock."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._sweep_at = SWEEP

    def __len__(self) -> int:
        """Return how many owners are remembered."""
        return len(self._windows)

    def take(self, owner: str, rate: Rate, count: int, now: float) -> None:
        """Count so many calls of an owner. Raises `Busy`, with the time to wait, if they are too many.

        Raises `NotAllowed` if they are more than there may ever be at once.
        """
        if count > rate.count:
            raise NotAllowed(
                f"{count} tasks at once are over the rate of the token, {rate.count} in {rate.seconds:g} s: "
                "send fewer at once",
                reason="rate",
                limit=rate.count,
            )
        window = self._windows.get(owner)
        if window is None:
            self._make_room(now)
            window = self._windows[owner] = _Window()
        wait = window.take(rate, count, now)
        if wait > 0:
            raise Busy(
                f"over the rate of the token: {rate.count} in {rate.seconds:g} s; "
                f"there is room again in {wait:.3f} s",
                retry_after=wait,
                limit="rate",
            )

    def _make_room(self, now: float) -> None:
        if len(self._windows) < self._sweep_at:
            return
        for owner in [owner for owner, window in self._windows.items() if window.is_over(now)]:
            del self._windows[owner]
        self._sweep_at = max(2 * len(self._windows), SWEEP)


class _Window:
    """The calls of one owner: how many have come until when, the oldest first."""

    __slots__ = ("_seconds", "_taken", "_total")

    def __init__(self) -> None:
        self._taken: deque[tuple[float, float, int]] = deque()  # first, last, count
        self._total = 0
        self._seconds = 0.0

    def is_over(self, now: float) -> bool:
        """Return whether nothing counts any more."""
        return not self._taken or now - self._taken[-1][1] >= self._seconds

    def take(self, rate: Rate, count: int, now: float) -> float:
        """Count calls, and return 0; or else the seconds after which there is room for them."""
        taken, self._seconds = self._taken, rate.seconds
        while taken and not 0 <= now - taken[0][1] < rate.seconds:  # of the future, if the clock was set back
            self._total -= taken.popleft()[2]
        over = self._total + count - rate.count
        if over > 0:
            for _, last, number in taken:
                over -= number
                if over <= 0:
                    return last + rate.seconds - now
        first = now
        if taken and now - taken[-1][0] < rate.seconds / SLICES:
            first, _, number = taken.pop()
            self._total -= number
            count += number
        taken.append((first, now, count))
        self._total += count
        return 0.0
