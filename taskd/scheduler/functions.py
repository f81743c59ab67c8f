"""What has been seen of each function, and what may be concluded from it."""

from __future__ import annotations

from dataclasses import dataclass

from taskd.task import GRACE

__all__ = ["FunctionStats"]

SHORT = 0.0005
"""Seconds: a run that took less was short. "Well under a millisecond", so that
a task which waits behind a few of them does not wait as long as a person could see."""

KNOWN_AFTER = 32
"""Short runs in a row after which a function is known to be short. One long
run, and it has to be seen as often again."""

WEIGHT = 0.125
"""What the last run counts for in the moving estimate: about the last ten matter."""


@dataclass(slots=True)
class FunctionStats:
    """What has been seen of one function. Times are run times, in seconds.

    `timeout` and `grace` are the function's own (None and `GRACE` where it has
    none); `estimate` is what its next run will take, by the last ones.
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
    short_runs: int = 0

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
        if seconds < SHORT and not printed:
            self.short_runs += 1
        else:
            self.short_runs = 0
        self.estimate += (seconds - self.estimate) * WEIGHT

    def surprised(self) -> None:
        """It is not short any more: a run has already taken longer, or was never seen to end."""
        self.short_runs = 0

    @property
    def is_short(self) -> bool:
        """Whether it is known to be short, and may be given to a worker along with others."""
        return self.short_runs >= KNOWN_AFTER

    @property
    def mean(self) -> float:
        """The mean run time, 0 where nothing has run yet."""
        finished = self.done + self.failed
        return self.seconds / finished if finished else 0.0
