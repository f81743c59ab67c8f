"""Statistics of each function: counts, run times, and whether it is known to be short."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from taskd.functions.stops import GRACE
from taskd.scheduler.histograms import FINE_BOUNDS

__all__ = ["SHORT_SECONDS", "FunctionStats"]

SHORT_SECONDS = 0.0005
"""Seconds below which a run is short: so little that a task behind a few short ones
does not wait noticeably."""

KNOWN_SHORT = 32
"""Points from which a function is known to be short. A short run adds one point, up to
twice this number."""

LONG_RUN = 16
"""Points that a run costs if it was not short. It may only have waited for a processor:
one in sixteen runs may do so before the function is no longer known to be short."""

SURPRISE = 32
"""Points that a run costs if it made a worker late with a batch: after the second such run
in a row, the function is no longer known to be short."""

WEIGHT = 0.125
"""Weight of the latest run in the moving estimate: about the last ten runs matter."""


@dataclass(slots=True)
class FunctionStats:
    """Statistics of one function. Times are run times, in seconds.

    `timeout` and `grace` are the function's own (None and `GRACE` if it has
    none), `limit` is the run time that it has if a call asks for nothing.
    `estimate` is the expected time of its next run, from the latest ones, and
    at most `SHORT_SECONDS`. `is_short` says whether the function is known to be
    short, so that a worker may be given several of its tasks; `points` says how
    certain that is. `waiting` counts its tasks in the queue; `invalid` those whose
    arguments did not fit, and `expired` those that missed their deadline. `waited` is the sum of
    the times from the acceptance of a task to each of its starts; `short_waits` counts those below
    `SHORT_SECONDS`, `long_waits` the others, in the ranges of `FINE_BOUNDS`. `peak` and
    `peak_wait` are the longest run and wait since the last `take_peaks`; short waits do not count.
    """

    name: str
    timeout: float | None = None
    grace: float = GRACE
    limit: float | None = None
    done: int = 0
    failed: int = 0
    lost: int = 0
    timed_out: int = 0
    cancelled: int = 0
    expired: int = 0
    invalid: int = 0
    seconds: float = 0.0
    peak: float = 0.0
    peak_wait: float = 0.0
    estimate: float = 0.0
    points: int = 0
    is_short: bool = False
    waiting: int = 0
    waited: float = 0.0
    short_waits: int = 0
    long_waits: list[int] = field(default_factory=lambda: [0] * (len(FINE_BOUNDS) + 1))
    _longest: float = 0.0
    _longest_wait: float = 0.0
    _long_runs: list[int] = field(default_factory=lambda: [0] * (len(FINE_BOUNDS) + 1))

    def limit_for(self, asked: float | None) -> float | None:
        """Return the seconds that a call may run for: the function's, or less if it asked for that."""
        limit = self.limit
        return limit if asked is None or (limit is not None and limit <= asked) else asked

    def add(self, seconds: float, *, failed: bool, printed: bool) -> None:
        """Count a run that has ended.

        A run that `printed` is not short: its output could not be distinguished
        from that of its neighbours in a batch.
        """
        self.seconds += seconds
        if seconds > self.peak:
            self.peak = seconds
        if failed:
            self.failed += 1
        else:
            self.done += 1
        if printed:
            self._count_long(seconds)
            self.points = 0
            seconds = min(seconds, SHORT_SECONDS)
        elif seconds < SHORT_SECONDS:
            if self.points < 2 * KNOWN_SHORT:
                self.points += 1
        else:
            self._count_long(seconds)
            self.points = max(self.points - LONG_RUN, 0)
            seconds = SHORT_SECONDS  # the estimate needs no more: the function is not short
        self.is_short = self.points >= KNOWN_SHORT
        self.estimate += (seconds - self.estimate) * WEIGHT

    def _count_long(self, seconds: float) -> None:
        self._long_runs[bisect_left(FINE_BOUNDS, seconds)] += 1

    @property
    def longest(self) -> float:
        """The longest run, in seconds."""
        return max(self.peak, self._longest)

    @property
    def longest_wait(self) -> float:
        """The longest wait, in seconds; one of `SHORT_SECONDS` stands for all that were shorter."""
        return max(self.peak_wait, self._longest_wait, SHORT_SECONDS)

    def take_peaks(self) -> tuple[float, float]:
        """Return the longest wait and the longest run since the last call."""
        peaks = (self.peak_wait, self.peak)
        self._longest_wait, self._longest = max(self._longest_wait, self.peak_wait), self.longest
        self.peak_wait = self.peak = 0.0
        return peaks

    @property
    def waits(self) -> list[int]:
        """The numbers of waits by their time, in the ranges of `FINE_BOUNDS`."""
        return [self.short_waits + self.long_waits[0], *self.long_waits[1:]]

    @property
    def runs(self) -> list[int]:
        """The numbers of runs by their time, in the ranges of `FINE_BOUNDS`.

        Short runs, of which there may be many thousands a second, are not counted one by one.
        """
        longer = self._long_runs[1:]
        return [self.done + self.failed - sum(longer), *longer]

    def surprised(self) -> None:
        """Count a run that took so long that the tasks behind it had to be reclaimed."""
        self.points = max(self.points - SURPRISE, 0)
        self.is_short = self.points >= KNOWN_SHORT

    def forget(self) -> None:
        """Make the function prove anew that it is short: its code is new, or has ended its process."""
        self.points = 0
        self.is_short = False

    @property
    def mean(self) -> float:
        """The mean run time in seconds, 0 if nothing has run yet."""
        finished = self.done + self.failed
        return self.seconds / finished if finished else 0.0
