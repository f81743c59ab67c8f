"""How late the reactor calls its timers: for as long nobody was served."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from taskd.scheduler.histograms import Histogram

__all__ = ["LAG_BOUNDS", "LAG_SECONDS", "LagMeter"]

LAG_SECONDS = 1.0
"""Seconds between two measurements: an idle daemon should sleep, and one that is often late is found."""

LAG_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""In seconds: from what a turn of the reactor takes at most to what clients notice."""


class LagMeter:
    """Measures, each second for as long as the reactor runs, how late a timer is."""

    def __init__(self, clock: IReactorTime) -> None:
        self.lag = Histogram(LAG_BOUNDS)
        self._clock = clock
        self._due = 0.0
        self._set()

    def _set(self) -> None:
        self._due = self._clock.seconds() + LAG_SECONDS
        self._clock.callLater(LAG_SECONDS, self._measure)

    def _measure(self) -> None:
        self.lag.add(max(self._clock.seconds() - self._due, 0.0))
        self._set()
