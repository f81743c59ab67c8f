"""The figures of a soak, and whether the memory stayed flat."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tests.soak.ledger import RESULT, Ledger

__all__ = ["SHORT_RUN", "Allocated", "Memory", "figures_of", "latency_at"]

WARM_UP = 0.25
"""The part of the run, at most `WARM_UP_SECONDS`, after which the memory must no longer grow."""

WARM_UP_SECONDS = 60.0

GROWTH_BLOCKS = 12_000
GROWTH_BYTES = 1024 * 1024
"""Allowed growth of the least that the daemon had allocated in some time: of the blocks of Python's allocator
(one for each small object), and of the bytes of malloc. At rest, in an hour of the soak, they fluctuated by
1 100 blocks and 70 000 bytes around what they were at first; the rest is what is in flight at any time.
"""

SHORT_RUN = 60.0
"""Seconds: in a shorter run caches may still be filling."""

SHORT_GROWTH = 4
"""How much more may be allowed then."""

MIB = 1024 * 1024

ATTACKED_BYTES = (256 + 96) * MIB
"""Bytes by which the daemon may grow under attack: its budget, and what the allocators keep and copy."""


@dataclass(frozen=True)
class Allocated:
    """What the daemon has allocated at one moment, after a collection, and its resident bytes."""

    when: float
    blocks: int
    malloc: int
    resident: int


class Memory:
    """The daemon's memory over a run of so many `seconds`; attackers have it change all the time."""

    def __init__(self, seconds: float, *, is_attacked: bool) -> None:
        self._seconds = seconds
        self._is_attacked = is_attacked
        self._samples: list[Allocated] = []

    def add(self, sample: Allocated) -> None:
        """Record how much it has now."""
        self._samples.append(sample)

    def judge(self, ledger: Ledger) -> str:
        """Compare the first and the last quarter of the time after the warm-up."""
        if not self._samples:
            return "never seen"
        began, ended = self._samples[0].when, self._samples[-1].when
        warm = began + min(WARM_UP * self._seconds, WARM_UP_SECONDS)
        quarter = (ended - warm) / 4
        first = [each for each in self._samples if warm <= each.when <= warm + quarter]
        last = [each for each in self._samples if each.when >= ended - quarter]
        if not first:
            return "not seen for long enough"
        blocks = _growth([each.blocks for each in first], [each.blocks for each in last])
        malloc = _growth([each.malloc for each in first], [each.malloc for each in last])
        text = (
            f"{blocks:+,.0f} blocks, {malloc / 1024:+,.0f} KiB of malloc since {warm - began:.0f} s; "
            f"resident {first[0].resident / MIB:.1f} MiB then, {last[-1].resident / MIB:.1f} MiB at last, "
            f"{max(each.resident for each in self._samples) / MIB:.1f} MiB at most"
        )
        if self._is_attacked:
            most, least = (f(each.resident for each in self._samples) for f in (max, min))
            if most - least > ATTACKED_BYTES:
                ledger.violate(f"the daemon keeps too much for attackers: {text}")
            return text
        allowed = SHORT_GROWTH if self._seconds < SHORT_RUN else 1
        if blocks > GROWTH_BLOCKS * allowed or malloc > GROWTH_BYTES * allowed:
            ledger.violate(f"the daemon leaks: {text}")
        return text


def _growth(first: list[int], last: list[int]) -> int:
    """Return by how much the least has grown: what is in flight comes and goes, a leak stays."""
    return min(last) - min(first)


def latency_at(ledger: Ledger, part: float) -> float:
    """Return the seconds that this share of the short tasks took at most."""
    latencies = sorted(ledger.latencies)
    return latencies[int(part * (len(latencies) - 1))] if latencies else 0.0


def figures_of(ledger: Ledger, happened: Counter[str]) -> dict[str, str]:
    """Describe the requests and replies, and the accidents meanwhile."""
    outcomes = sorted(ledger.outcomes.items(), reverse=True)

    def at(part: float) -> float:
        return latency_at(ledger, part) * 1000

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
