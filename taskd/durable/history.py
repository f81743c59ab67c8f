"""The history of a server: written to its store once a minute, and read from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import floor
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.writer import Execute
from taskd.net.timers import Alarm
from taskd.store.history import ALL, HOUR, MINUTE, Figures, HistoryRow, HistoryStore

__all__ = ["MAX_FUNCTIONS", "MAX_ROWS", "History"]

_log = Logger(namespace="taskd.store")

MAX_FUNCTIONS = 50
"""Functions of which a minute is kept one by one: those with most tasks. All together are kept, too."""

MAX_ROWS = 5000
"""Rows in one answer: a day of minutes of three functions, or an hour of all."""

MAX_UNWRITTEN = 60
"""Minutes that are kept until a store works again."""


class Samples(Protocol):
    """The work done since the last time: `taskd.server.sampling.Sampler`."""

    def take(self) -> Mapping[str, Figures]:
        """Return what was done since the last time, by function."""

    def look(self) -> Mapping[str, Figures]:
        """Return the same, but let the next call have it too."""


class History:
    """Keeps the history in a store; `now` returns the seconds since 1970."""

    def __init__(
        self,
        clock: IReactorTime,
        samples: Samples,
        store: Callable[[], HistoryStore],
        execute: Execute,
        read: Execute,
        now: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._samples = samples
        self._store = store
        self._execute = execute
        self._read = read
        self._now = now
        self._alarm = Alarm(clock, self._minute_over)
        self._minute = self._minute_of(now())
        self._unwritten: list[HistoryRow] = []
        self._is_stopped = False
        self._set_alarm()

    @staticmethod
    def _minute_of(now: float) -> int:
        return floor(now / MINUTE) * MINUTE

    def _set_alarm(self) -> None:
        now = self._now()
        self._alarm.set(self._clock.seconds() + self._minute_of(now) + MINUTE - now)

    def _minute_over(self) -> None:
        if self._is_stopped:
            return
        if self._minute_of(self._now()) != self._minute:
            self._write()
        self._set_alarm()

    def _write(self) -> Deferred[None]:
        """Write what was done since the last time; what cannot be written comes with the next minute."""
        rows = [*self._unwritten, *_rows(self._samples.take(), self._minute)]
        now = self._now()
        self._minute = self._minute_of(now)
        self._unwritten = []
        if not rows:
            return succeed(None)

        def failed(reason: TwistedFailure) -> None:
            oldest = now - MAX_UNWRITTEN * MINUTE
            self._unwritten = [row for row in rows if row.at >= oldest] + self._unwritten
            _log.debug("the history is not written: {error}", error=reason.getErrorMessage())

        return self._execute(lambda: self._store().add(rows, now)).addErrback(failed)

    def close(self) -> Deferred[None]:
        """Write the last minute, as far as it has gone."""
        self._is_stopped = True
        return self._write()

    def rows(self, seconds: int, function: str | None, since: float) -> Deferred[list[HistoryRow]]:
        """Return the rows of a period's length since then, with what is not written yet; the oldest first.

        Of a function, or of `ALL`; None stands for each function.
        """
        recent = [*self._unwritten, *_rows(self._samples.look(), self._minute)]

        def with_recent(rows: list[HistoryRow]) -> list[HistoryRow]:
            found = {(row.at, row.function): row for row in rows}
            for row in recent:
                key = (row.at, row.function)
                is_wanted = row.function == function if function is not None else row.function != ALL
                if row.seconds == seconds and is_wanted and row.at >= since:
                    known = found.get(key)
                    figures = row.figures if known is None else known.figures + row.figures
                    found[key] = HistoryRow(seconds, row.at, row.function, figures)
            return [row for _, row in sorted(found.items())][-MAX_ROWS:]

        reading = self._read(lambda: self._store().read(seconds, function, since, MAX_ROWS))
        return reading.addCallback(with_recent)


def _rows(done: Mapping[str, Figures], minute: int) -> list[HistoryRow]:
    """Return the rows to be written of what was done in a minute."""
    if not done:
        return []
    busiest = sorted(done.items(), key=lambda each: (-_ended(each[1]), each[0]))[:MAX_FUNCTIONS]
    total = Figures()
    for figures in done.values():
        total = total + figures
    hour = minute - minute % HOUR
    return [
        HistoryRow(seconds, at, name, figures)
        for seconds, at in ((MINUTE, minute), (HOUR, hour))
        for name, figures in [*busiest, (ALL, total)]
    ]


def _ended(figures: Figures) -> int:
    return figures.succeeded + figures.failed + figures.lost + figures.submitted
