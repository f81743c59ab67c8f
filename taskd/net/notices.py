"""Log lines about what may happen a thousand times a second: one at once, then one a second with a count."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

__all__ = ["NOTICE_INTERVAL", "Notices"]

NOTICE_INTERVAL = 1.0
"""Seconds between two lines: an operator sees that it goes on, and the log stays readable."""


class Notices:
    """Lines about one kind of event, at most one in each `NOTICE_INTERVAL`.

    `write` gets the number of events since the last line, and what was given with the
    latest of them.
    """

    def __init__(self, clock: IReactorTime, write: Callable[[int, str], object]) -> None:
        self._clock = clock
        self._write = write
        self._count = 0
        self._latest = ""
        self._is_resting = False

    def note(self, what: str = "") -> None:
        """Count an event, and have it logged now or together with others."""
        self._count += 1
        self._latest = what
        if not self._is_resting:
            self._log()

    def _log(self) -> None:
        self._is_resting = bool(self._count)
        if self._is_resting:
            count, self._count = self._count, 0
            self._clock.callLater(NOTICE_INTERVAL, self._log)
            self._write(count, self._latest)
