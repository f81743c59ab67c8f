"""Statistics of functions: how their runs went, and whether the next will be short."""

from __future__ import annotations

from dataclasses import dataclass

from taskd.functions.stops import GRACE

__all__ = ["FunctionStats"]

SHORT_SECONDS = 0.0005
"""Seconds: a run that took less was short. "Well under a millisecond", so that
a task which waits behind a few of them does not wait as long as a person could see."""

KNOWN_SHORT = 32
"""Points from which a function is known to be short. A short run is one point,
and there are never more than twice as many as this."""

LONG_RUN = 16
"""Points that a run costs which was not short. It may have been, and have waited for a
processor: one in sixteen may do that before the function is no longer known to be short."""

SURPRISE = 32
"""Points that a run costs that made a worker late with a batch: after the second
in a row the function is not known to be short any more."""

WEIGHT = 0.125
"""Share of the last run in the moving estimate: about the last ten runs matter."""


@dataclass(slots=True)
class FunctionStats:
    """Statistics of one function. Times are run times, in seconds.

    `timeout` and `grace` are the function's own (None and `GRACE` if it has
    none). `estimate` is what its next run will take, by the last ones, and at
    most `SHORT_SECONDS`. `is_short` says whether the function is known to be
    short, so that a worker may be given several of its tasks; `points` is how
    sure that is.
    """

    name: str
    timeout: float | None = None
    grace: float = GRACE
    done: int = 0
    failed: int = 0
    lost: int = 0
    timed_out: int = 0
    cancelled: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    estimate: float = 0.0
    points: int = 0
    is_short: bool = False

    def add(self, seconds: float, *, failed: bool, printed: bool) -> None:
        """Count a run that has come to its end.

        A run that `printed` is not short: what it wrote could not be told from
        what its neighbours in a batch write.
        """
        self.seconds += seconds
        if seconds > self.longest:
            self.longest = seconds
        if failed:
            self.failed += 1
        else:
            self.done += 1
        if printed:
            self.points = 0
            seconds = min(seconds, SHORT_SECONDS)
        elif seconds < SHORT_SECONDS:
            if self.points < 2 * KNOWN_SHORT:
                self.points += 1
        else:
            self.points = max(self.points - LONG_RUN, 0)
            seconds = SHORT_SECONDS  # for the estimate: how much longer is of no interest there
        self.is_short = self.points >= KNOWN_SHORT
        self.estimate += (seconds - self.estimate) * WEIGHT

    def surprised(self) -> None:
        """Count a run that took so long that the tasks behind it had to be reclaimed."""
        self.points = max(self.points - SURPRISE, 0)
        self.is_short = self.points >= KNOWN_SHORT

    def forget(self) -> None:
        """Let the function prove anew that it is short: its code is new, or has ended its process."""
        self.points = 0
        self.is_short = False

    @property
    def mean(self) -> float:
        """The mean run time, 0 if nothing has run yet."""
        finished = self.done + self.failed
        return self.seconds / finished if finished else 0.0
