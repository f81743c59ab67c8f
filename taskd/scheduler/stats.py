"""What has been seen of each function, and what may be concluded from it."""

from __future__ import annotations

from dataclasses import dataclass

from taskd.functions.stops import GRACE

__all__ = ["FunctionStats"]

SHORT = 0.0005
"""Seconds: a run that took less was short. "Well under a millisecond", so that
a task which waits behind a few of them does not wait as long as a person could see."""

KNOWN_SHORT = 32
"""Points from which a function is known to be short: a short run is one point,
up to twice as many as that."""

LONG_RUN = 16
"""Points that a run costs which was not short. It may have been, and have waited for
a processor: one in sixteen may, before the function is taken for long."""

SURPRISE = 32
"""Points that a run costs for which others had to be reclaimed: at the second
in a row the function is not short any more."""

WEIGHT = 0.125
"""What the last run counts for in the moving estimate: about the last ten matter."""


@dataclass(slots=True)
class FunctionStats:
    """What has been seen of one function. Times are run times, in seconds.

    `timeout` and `grace` are the function's own (None and `GRACE` where it has
    none); `estimate` is what its next run will take, by the last ones, and at
    most `SHORT`; `points` is how sure it is that it will be short.
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

    def add(self, seconds: float, *, failed: bool, printed: bool) -> None:
        """Count one call that has run to its end.

        One that `printed` is not short: what it wrote could not be told from
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
            seconds = min(seconds, SHORT)
        elif seconds < SHORT:
            if self.points < 2 * KNOWN_SHORT:
                self.points += 1
        else:
            self.points = max(self.points - LONG_RUN, 0)
            seconds = SHORT  # for the estimate: how much longer is of no interest there
        self.estimate += (seconds - self.estimate) * WEIGHT

    def surprised(self) -> None:
        """Others had to be reclaimed because a run took too long."""
        self.points = max(self.points - SURPRISE, 0)

    def forget(self) -> None:
        """It is other code now, or has killed its process: it has to be seen anew."""
        self.points = 0

    @property
    def is_short(self) -> bool:
        """Whether it is known to be short, and may be given to a worker along with others."""
        return self.points >= KNOWN_SHORT

    @property
    def mean(self) -> float:
        """The mean run time, 0 where nothing has run yet."""
        finished = self.done + self.failed
        return self.seconds / finished if finished else 0.0
