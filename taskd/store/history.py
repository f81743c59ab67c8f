"""The history of a server: what was done of each function in each minute and hour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

__all__ = ["ALL", "HOUR", "KEPT_SECONDS", "MINUTE", "Figures", "HistoryRow", "HistoryStore"]

MINUTE, HOUR = 60, 3600
"""The lengths of the periods, in seconds."""

KEPT_SECONDS = {MINUTE: 86400, HOUR: 90 * 86400}
"""The seconds for which the rows of each period are kept."""

ALL = ""
"""Stands for all functions together."""


class Figures(msgspec.Struct, omit_defaults=True):
    """The work done in a period: numbers of tasks, and times in seconds.

    `waited` and `ran` are sums. `waits` and `runs` are counts by the ranges of
    `taskd.scheduler.histograms.FINE_BOUNDS`; empty stands for none.
    """

    submitted: int = 0
    succeeded: int = 0
    failed: int = 0
    lost: int = 0
    timed_out: int = 0
    cancelled: int = 0
    expired: int = 0
    waited: float = 0.0
    longest_wait: float = 0.0
    ran: float = 0.0
    longest_run: float = 0.0
    waits: list[int] = []
    runs: list[int] = []

    def __add__(self, other: Figures) -> Figures:
        """Return what was done in both."""
        return Figures(
            self.submitted + other.submitted,
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.lost + other.lost,
            self.timed_out + other.timed_out,
            self.cancelled + other.cancelled,
            self.expired + other.expired,
            self.waited + other.waited,
            max(self.longest_wait, other.longest_wait),
            self.ran + other.ran,
            max(self.longest_run, other.longest_run),
            _sums(self.waits, other.waits),
            _sums(self.runs, other.runs),
        )


def _sums(some: list[int], others: list[int]) -> list[int]:
    if not some or not others:
        return some or others
    return [one + other for one, other in zip(some, others, strict=True)]


class HistoryRow(msgspec.Struct, frozen=True):
    """The figures of a function in the period of so many `seconds` that begins `at` (seconds since 1970)."""

    seconds: int
    at: int
    function: str
    figures: Figures


class HistoryStore(Protocol):
    """The history, in a store. Not thread-safe but for reading."""

    def add(self, rows: Sequence[HistoryRow], now: float) -> None:
        """Add figures to those that are there of the same functions and periods; forget what is too old."""

    def read(self, seconds: int, function: str | None, since: float, limit: int) -> list[HistoryRow]:
        """Return the newest `limit` rows of a period's length since then, the oldest first.

        Of a function, or of `ALL` together; None stands for each function.
        """
