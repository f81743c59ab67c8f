"""Histograms: how often a value was in which range, as plain counters."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["FINE_BOUNDS", "TASK_BOUNDS", "Histogram", "coarse", "quantile"]

TASK_BOUNDS = (0.0005, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0)
"""The upper bounds of the ranges for the times of tasks, in seconds, as they are shown to those who collect
them: from a short function to a long report. They are few, since each function has two histograms."""

FINE_BOUNDS = (
    *(0.0005, 0.001, 0.0015, 0.0025, 0.0035, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.035, 0.05, 0.07),
    *(0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0, 15.0, 25.0, 40.0, 60.0),
    *(100.0, 200.0, 350.0, 600.0, 1800.0, 3600.0),
)
"""The ranges in which they are counted: percentiles that are estimated from these are off by a fifth or so.
All of `TASK_BOUNDS` are among them. Counts by these ranges are stored: others would be misread."""

_COARSE_ENDS = (*(FINE_BOUNDS.index(bound) + 1 for bound in TASK_BOUNDS), len(FINE_BOUNDS) + 1)


def coarse(counts: Sequence[int]) -> list[int]:
    """Return counts by the ranges of `FINE_BOUNDS` as counts by those of `TASK_BOUNDS`."""
    return [sum(counts[start:end]) for start, end in pairwise((0, *_COARSE_ENDS))]


def quantile(counts: Sequence[int], part: float, longest: float) -> float | None:
    """Estimate the time, in seconds, that `part` of the values do not exceed; None if there are no values.

    `counts` are by the ranges of `FINE_BOUNDS`; within a range, values are taken to be
    spread evenly. None of them exceeds `longest`.
    """
    total = sum(counts)
    if not total:
        return None
    left = part * total
    for number, count in enumerate(counts):
        if count and left <= count:
            lower = FINE_BOUNDS[number - 1] if number else 0.0
            upper = min(FINE_BOUNDS[number], longest) if number < len(FINE_BOUNDS) else longest
            return min(lower + (upper - lower) * left / count, longest)
        left -= count
    return longest


class Histogram:
    """The number of values in each range, and their sum.

    `bounds` are the upper bounds of the ranges, ascending and inclusive; `counts` has
    one more element, for what is above all of them.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
