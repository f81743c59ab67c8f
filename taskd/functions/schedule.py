"""The schedule of a function: when the server runs it by itself, by a line of cron or at an interval."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, takewhile
from math import floor, inf
from typing import Any, Literal, get_args

import msgspec

__all__ = ["Missed", "Schedule"]

Missed = Literal["skip", "last", "all"]

LEAST_EVERY = 1.0
"""Seconds of the shortest interval: each tick is a task, with its place in the store."""

REPEATED = 7200.0
"""Seconds that clocks are put back at most, with one more hour: those in between come twice."""


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """When a function is run by the server itself: each such time is a tick.

    Either `cron`, a line of five fields, which is about the clocks of
    `timezone`, or `every`, in seconds, counted from 1970-01-01T00:00Z. `missed`
    says which of the ticks are made up for that came while the server did not
    run: none, the last one, or all. Times are in seconds since 1970.
    """

    cron: str | None = None
    every: float | None = None
    timezone: str = "UTC"
    missed: Missed = "skip"

    @classmethod
    def of(
        cls,
        cron: str | None = None,
        every: float | None = None,
        timezone: str | None = None,
        missed: str | None = None,
        *,
        durable: bool = True,
    ) -> Schedule | None:
        """Return the schedule that these arguments of `task` mean, None if there is none.

        Raises `ValueError` for values that contradict each other, are out of range, or never come.
        """
        if cron is None and every is None:
            if timezone is not None or missed is not None:
                raise ValueError("timezone and missed need cron or every")
            return None
        if missed is not None and missed not in get_args(Missed):
            raise ValueError(f'missed is "skip", "last" or "all", not {missed!r}')
        policy: Any = "skip" if missed is None else missed
        if policy != "skip" and not durable:
            raise ValueError(
                f"missed={policy!r} needs durable=True, so that it is known after a start what was missed"
            )
        if cron is None:
            if timezone is not None:
                raise ValueError("timezone is for cron: every is the same in all zones")
            return cls(every=_interval(every), missed=policy)
        if every is not None:
            raise ValueError("a function has cron or every: not both")
        zone = "UTC" if timezone is None else timezone
        # Imported only where it is needed: time zones import `threading`, which no worker should have to.
        from taskd.functions import cron_lines

        cron_lines.check_zone(zone)
        cron_lines.check_line(cron)
        return cls(cron=" ".join(cron.split()), timezone=zone, missed=policy)

    @property
    def line(self) -> str:
        """The schedule as a text; another text is another schedule."""
        if self.every is not None:
            return f"every {self.every:g} s"
        return f"{self.cron} ({self.timezone})"

    @property
    def is_interval(self) -> bool:
        """Whether it is about the time that has passed, and not about the clock on the wall.

        As for Debian's cron, a line is if its minute or its hour begins with a star.
        """
        return self.cron is None or any(field.startswith("*") for field in self.cron.split()[:2])

    def after(self, time: float) -> float:
        """Return the first tick after `time`, infinity if there is none for fifty years."""
        if self.every is not None:
            return (floor(time / self.every) + 1) * self.every
        ticks = self._ticks(time)
        # By the clock on the wall, a tick may come before a time that is in a repeated hour.
        return next((tick for tick in ticks if tick > time), inf)

    def between(self, after: float, until: float, limit: int) -> list[float]:
        """Return the ticks after `after` and not after `until`: the last `limit` of them, in their order."""
        if self.every is not None:
            last = floor(until / self.every)
            first = max(floor(after / self.every), last - limit) + 1
            return [number * self.every for number in range(first, last + 1)]
        # Begun later than `until`, since the same tick may come first by the clock on the wall.
        ticks = takewhile(lambda tick: tick > after, self._ticks(until + REPEATED, reverse=True))
        return list(islice((tick for tick in ticks if tick <= until), limit))[::-1]

    def _ticks(self, time: float, *, reverse: bool = False) -> Iterator[float]:
        from taskd.functions import cron_lines

        return cron_lines.ticks(self.cron or "", self.timezone, floor(time), reverse=reverse)


def _interval(every: object) -> float:
    if isinstance(every, bool) or not isinstance(every, int | float) or not LEAST_EVERY <= every < inf:
        raise ValueError(f"every is a number of seconds, {LEAST_EVERY:g} or more, not {every!r}")
    return float(every)
