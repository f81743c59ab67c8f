"""The findings of a drill: the counts, and everything that is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["FAULTS", "Findings", "Takeover"]

FAULTS = {
    "lost": "tasks and batches that were accepted, and are not there at the end or never ended",
    "ended_twice": "tasks that have more than one end in their logs",
    "once_twice": "tasks of a function that runs once at most, and that ran more than once",
    "stale": "tasks whose outcome is not that of their last attempt",
    "accepted_twice": "tasks that are stored more than once, although submitted with one token",
    "contradicted": "tasks whose clients were answered something else than what is stored",
    "unexplained": "runs that were begun again although nothing had been done to them",
    "wrong": "wrong logs, results and counts, and failures that nothing explains",
    "node_faults": "nodes that ended by themselves, or logged a bug",
}
"""The kinds of faults, by their names in `Findings`. One of any kind fails the drill."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """The consequences of a kill or the like, `at` seconds after the start of the load, of the node's `life`.

    It lasted `seconds`. `cut` is how many runs it cut off. `again` is how many seconds later the last of
    those that had to run again did so, and `silence` after how many any task was started at all; None if
    none was.
    """

    at: float
    seconds: float
    how: str
    life: str
    cut: int
    again: float | None
    silence: float | None


@dataclass(slots=True)
class Findings:
    """The comparison of what was accepted with what was done and what is stored.

    Each fault is a text. `unsettled` tasks had not ended when the drill was cut short. `repeated` counts the
    runs that were begun again, by the reason. Times are in seconds: `delays` from when each task was accepted
    and due to its first start, sorted; `late` is how many were longer than `late_bound`.
    """

    seconds: float = 0.0
    was_interrupted: bool = False
    asked: int = 0
    accepted: int = 0
    joined_again: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    lost_with_worker: int = 0
    batches: int = 0
    runs: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    late: int = 0
    late_bound: float = 0.0
    delays: list[float] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    takeovers: list[Takeover] = field(default_factory=list)
    unsettled: int = 0
    was_read: bool = True
    is_complete: bool = True
    lost: list[str] = field(default_factory=list)
    ended_twice: list[str] = field(default_factory=list)
    once_twice: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    accepted_twice: list[str] = field(default_factory=list)
    contradicted: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    node_faults: list[str] = field(default_factory=list)

    def faults(self) -> dict[str, list[str]]:
        """Return the faults by their kinds, without the kinds of which there are none."""
        return {kind: found for kind in FAULTS if (found := getattr(self, kind))}

    @property
    def settled(self) -> int:
        """How many of the tasks that were accepted have ended."""
        return sum(self.states.values())
