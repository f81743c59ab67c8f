"""Lines of cron and time zones: what is right, and when a line comes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

__all__ = ["check_line", "check_zone", "ticks"]

_FIELDS = "minute, hour, day of the month, month, day of the week"

_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", re.ASCII)


def ticks(line: str, timezone: str, start: int, *, reverse: bool = False) -> Iterator[float]:
    """Return the times after (in `reverse`: before) `start` at which a line comes, in seconds since 1970."""
    began = datetime.fromtimestamp(start, UTC if timezone == "UTC" else ZoneInfo(timezone))
    return (tick.timestamp() for tick in CronSim(line, began, reverse))


def check_zone(zone: object) -> None:
    """Raise `ValueError` unless this is the name of a time zone."""
    try:
        if not isinstance(zone, str) or _ZONE.fullmatch(zone) is None:
            raise ValueError(zone)
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        raise ValueError(
            f"timezone is the name of a zone, such as Europe/Berlin, not {zone!r} (the zones are those of "
            "the system, or of the package tzdata)"
        ) from None


def check_line(line: object) -> None:
    """Raise `ValueError` unless this is a line of cron that comes at some time."""
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
