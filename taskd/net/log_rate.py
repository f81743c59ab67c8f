"""Log lines that a client can cause as often as it likes, written at a bounded rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.net.timers import Alarm

__all__ = ["LINES_AT_ONCE", "LINES_PER_SECOND", "REST_INTERVAL", "RatedLog"]

LINES_AT_ONCE = 50
"""Lines of one kind that are written whatever the rate: a batch of tasks that all fail is seen in full."""

LINES_PER_SECOND = 5.0
"""Lines of one kind a second after that: more than anybody reads, and little enough to keep for days."""

REST_INTERVAL = 10.0
"""Seconds between two lines that say how many were left out."""


@dataclass(slots=True)
class _Kind:
    """What has been written of one kind: `saved` lines may be written now, `at` is when that was so."""

    at: float
    saved: float = LINES_AT_ONCE
    left_out: int = 0
    last: tuple[str, dict[str, Any]] = ("", {})


class RatedLog:
    """A log whose lines have kinds, each of which is written at a bounded rate.

    What is too much is counted. Every `REST_INTERVAL` seconds the last such line of
    each kind is written, with how many came before it.
    """

    def __init__(self, clock: IReactorTime, log: Logger) -> None:
        self._clock = clock
        self._log = log
        self._alarm = Alarm(clock, self._write_rest)
        self._kinds: dict[str, _Kind] = {}

    def warn(self, kind: str, line: str, /, **values: Any) -> None:
        """Write a line, whose format is that of Twisted's loggers, or count it."""
        now = self._clock.seconds()
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = _Kind(now)
            self._alarm.set(now + REST_INTERVAL)
        else:
            known.saved = min(known.saved + (now - known.at) * LINES_PER_SECOND, LINES_AT_ONCE)
            known.at = now
        if known.saved >= 1:
            known.saved -= 1
            self._log.warn(line, **values)
        else:
            known.left_out += 1
            known.last = line, values

    def close(self) -> None:
        """Write how many lines have been left out."""
        for kind in self._kinds.values():
            self._write(kind)

    def _write_rest(self) -> None:
        for name, kind in list(self._kinds.items()):
            if not kind.left_out:
                del self._kinds[name]  # written at any rate for this long, so that nothing is owed
            self._write(kind)
        if self._kinds:
            self._alarm.set(self._clock.seconds() + REST_INTERVAL)

    def _write(self, kind: _Kind) -> None:
        if kind.left_out:
            line, values = kind.last
            self._log.warn(
                "{left_out} lines like the next one were left out\n" + line, left_out=kind.left_out, **values
            )
            kind.left_out, kind.last = 0, ("", {})
