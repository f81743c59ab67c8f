"""The figures of a soak, and whether the memory stayed flat."""

from __future__ import annotations

import statistics
from collections import Counter

from tests.soak.ledger import RESULT, Ledger

__all__ = ["SHORT_RUN", "Memory", "figures_of"]

WARM_UP = 0.25
"""The part of the run, at most `WARM_UP_SECONDS`, after which the memory must no longer grow."""

WARM_UP_SECONDS = 60.0

GROWTH_BYTES = 2 * 1024 * 1024
GROWTH_PART = 0.02
"""Allowed growth of the daemon's memory, the greater of the two: ordinary fluctuations are smaller."""

SHORT_RUN = 60.0
"""Seconds: in a shorter run the memory may still be growing to its usual size."""

SHORT_GROWTH_BYTES = 16 * 1024 * 1024

MIB = 1024 * 1024


class Memory:
    """The daemon's memory over a run of so many `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._samples: list[tuple[float, int]] = []

    def add(self, when: float, used: int) -> None:
        """Record how many bytes it has now."""
        self._samples.append((when, used))

    def judge(self, ledger: Ledger) -> str:
        """Describe the first and the last quarter of the time after the warm-up."""
        if not self._samples:
            return "never seen"
        began, ended = self._samples[0][0], self._samples[-1][0]
        warm = began + min(WARM_UP * self._seconds, WARM_UP_SECONDS)
        quarter = (ended - warm) / 4
        first = [used for when, used in self._samples if warm <= when <= warm + quarter]
        last = [used for when, used in self._samples if when >= ended - quarter]
        if not first:
            return "not seen for long enough"
        before, after = statistics.median(first), statistics.median(last)
        text = (
            f"{before / MIB:.1f} MiB at first (after {warm - began:.0f} s), {after / MIB:.1f} MiB at last, "
            f"{max(used for _, used in self._samples) / MIB:.1f} MiB at most"
        )
        allowed = max(GROWTH_BYTES, GROWTH_PART * before)
        if self._seconds < SHORT_RUN:
            allowed = SHORT_GROWTH_BYTES
        if after - before > allowed:
            ledger.violate(f"the daemon's memory has grown: {text}")
        return text


def figures_of(ledger: Ledger, happened: Counter[str]) -> dict[str, str]:
    """Describe the requests and replies, and the accidents meanwhile."""
    latencies = sorted(ledger.latencies)
    outcomes = sorted(ledger.outcomes.items(), reverse=True)

    def at(part: float) -> float:
        """Return the milliseconds that this share of the short tasks took at most."""
        return latencies[int(part * (len(latencies) - 1))] * 1000 if latencies else 0.0

    return {
        "short tasks": f"p50 {at(0.5):.1f} ms, p99 {at(0.99):.1f} ms, {at(1):.0f} ms at most; "
        f"{ledger.worst_in_reload * 1000:.0f} ms at most during a reload",
        "outcomes": ", ".join(
            f"{'result' if code == RESULT else code} {count:,}" for code, count in outcomes
        ),
        "asked": ", ".join(f"{what} {count:,}" for what, count in ledger.sent.most_common()),
        "happened": ", ".join(f"{what} {count:,}" for what, count in sorted(happened.items())),
        "lost": f"{ledger.lost} tasks with a process that we had killed (of {ledger.may_be_lost} processes); "
        f"{ledger.dropped:,} requests with their connection",
        "cancelled": f"{ledger.unexplained_cancels} by the number of their task",
        "checked": f"{len(ledger.marks):,} tasks by the trace that they leave; "
        f"{ledger.progress:,} reports of progress",
    }
