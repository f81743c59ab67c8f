"""Histograms: how often a value was in which range, as plain counters."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["TASK_BOUNDS", "Histogram"]

TASK_BOUNDS = (0.0005, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0)
"""The upper bounds of the ranges for the times of tasks, in seconds: from a short function to a long report.
They are few, since each function has two histograms."""


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
