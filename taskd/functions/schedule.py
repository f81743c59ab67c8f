"""The schedule of a function: when the server runs it by itself, by a line of cron or at an interval."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import islice, takewhile
from math import floor, inf
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

__all__ = ["Missed", "Schedule"]

Missed = Literal["skip", "last", "all"]

LEAST_EVERY = 1.0
"""Seconds of the shortest interval: each tick is a task, with its place in the store."""

REPEATED = 7200.0
"""Seconds that clocks are put back at most, with one more hour: those in between come twice."""

_FIELDS = "minute, hour, day of the month, month, day of the week"

_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", re.ASCII)


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
        _check_zone(zone)
        _check_line(cron)
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

    def _ticks(self, time: float, *, reverse: bool = False) -> Any:
        start = datetime.fromtimestamp(
            floor(time), UTC if self.timezone == "UTC" else ZoneInfo(self.timezone)
        )
        return (tick.timestamp() for tick in CronSim(self.cron or "", start, reverse))


def _interval(every: object) -> float:
    if isinstance(every, bool) or not isinstance(every, int | float) or not LEAST_EVERY <= every < inf:
        raise ValueError(f"every is a number of seconds, {LEAST_EVERY:g} or more, not {every!r}")
    return float(every)


def _check_zone(zone: object) -> None:
    try:
        if not isinstance(zone, str) or _ZONE.fullmatch(zone) is None:
            raise ValueError(zone)
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        raise ValueError(
            f"timezone is the name of a zone, such as Europe/Berlin, not {zone!r} (the zones are those of "
            "the system, or of the package tzdata)"
        ) from None


def _check_line(line: object) -> None:
    if not isinstance(line, str) or len(line.split()) != 5:
        raise ValueError(f'cron is a line of five fields ({_FIELDS}), such as "30 2 * * 1-5", not {line!r}')
    try:
        next(CronSim(line, datetime.fromtimestamp(0, UTC)))
    except (CronSimError, StopIteration) as error:
        reason = "it never comes, since none of its months has such a day"
        if not _never_comes(line):
            reason = str(error)
        raise ValueError(f"cron {line!r}: {reason} (the fields are {_FIELDS})") from None


def _never_comes(line: str) -> bool:
    """Return whether a line that is refused has a day and months that are right by themselves."""
    minute, hour, day, month, weekday = line.split()
    try:
        CronSim(f"{minute} {hour} {day} * {weekday}", datetime.fromtimestamp(0, UTC))
        CronSim(f"{minute} {hour} 1 {month} {weekday}", datetime.fromtimestamp(0, UTC))
    except CronSimError:
        return False
    return True
