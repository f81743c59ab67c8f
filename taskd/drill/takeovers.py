"""The times of a drill: how late tasks were started, and how long it took after each kill."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from math import inf

from taskd.drill.evidence import Evidence
from taskd.drill.findings import Takeover
from taskd.drill.plan import How, Kill
from taskd.drill.runs import Run

__all__ = ["Hits", "delays", "reason_of", "takeovers"]

REASONS = {
    How.WORKER: "its worker was killed",
    How.KILL: "its node was killed",
    How.STOP: "its node was stopped",
    How.FREEZE: "its node was frozen",
    How.CUT: "the link to the store was cut",
    How.HOLD: "the link to the store was silent",
}
"""Why a run was begun again."""

LATE_RUN = "a node that had been out of touch began it late"

_OUT_OF_TOUCH = frozenset({How.FREEZE, How.CUT, How.HOLD})

NOTICE_SECONDS = 10.0
"""Seconds after which a node that is back, or cannot renew its lease, has ended what is no longer its own."""


def delays(evidence: Evidence) -> list[float]:
    """Return the seconds from when each task was accepted and due to its first start, sorted."""
    found = []
    for asked in evidence.asked:
        if asked.task is None or asked.accepted is None:
            continue
        if runs := evidence.runs.get(asked.task):
            # Its start may be noted before the answer has reached the client.
            found.append(max(runs[0].begun - asked.accepted - asked.delay, 0.0))
    return sorted(found)


class Hits:
    """Finds what was done to the worker, the node or the link of a run, in the order of the times."""

    def __init__(self, kills: Iterable[Kill]) -> None:
        self.kills = sorted(kills, key=lambda kill: kill.at)
        self._by_place: dict[tuple[str, int], list[Kill]] = {}
        for kill in self.kills:
            self._by_place.setdefault((kill.life, kill.pid), []).append(kill)

    def on(self, run: Run) -> list[Kill]:
        """Return what hit the run's worker or its node, whenever that was."""
        places = ((run.life, run.pid), (run.life, 0))
        found = [kill for place in places for kill in self._by_place.get(place, ())]
        return sorted(found, key=lambda kill: kill.at)

    def was_out_of_touch(self, run: Run) -> bool:
        """Return whether a run was begun by a node that may have been taken for dead, and not know it yet.

        It may begin what it had claimed, although that is another's by now; only the end is not stored.
        """
        return any(
            kill.how in _OUT_OF_TOUCH and kill.at <= run.begun <= kill.until + NOTICE_SECONDS
            for kill in self.on(run)
        )


def reason_of(run: Run, following: Run, hits: Hits) -> str | None:
    """Return why a run was followed by another of the same task, None if nothing explains it.

    Whatever was done must be over no sooner than the run began, and have begun before the other run. A node
    that was out of touch may still end what it runs when it is back.
    """
    for kill in hits.on(run):
        over = kill.until + NOTICE_SECONDS if kill.how in _OUT_OF_TOUCH else max(kill.at, kill.until)
        if over >= run.begun and kill.at <= following.begun:
            return REASONS[kill.how]
    return LATE_RUN if hits.was_out_of_touch(following) else None


def takeovers(evidence: Evidence, hits: Hits) -> list[Takeover]:
    """Return what followed each thing that was done, in the order of the times."""
    begun = sorted(run.begun for runs in evidence.runs.values() for run in runs)
    start = min((asked.accepted for asked in evidence.asked if asked.accepted is not None), default=0.0)
    cut: dict[Kill, list[Run | None]] = {kill: [] for kill in hits.kills}
    for task, runs in evidence.runs.items():
        stored = evidence.stored.get(task)
        ended = inf if stored is None or stored.ended is None else stored.ended
        for run, following in zip_longest(runs, runs[1:]):
            if following is None and stored is not None and stored.state == "cancelled":
                continue  # that is what has ended it
            over = ended if following is None else following.begun
            kill = next((kill for kill in hits.on(run) if _cuts(kill, run, over)), None)
            if kill is not None:
                cut[kill].append(following)
    return [_takeover(kill, cut[kill], begun, start) for kill in hits.kills]


def _cuts(kill: Kill, run: Run, over: float) -> bool:
    """Return whether a run was cut off by this: `over` is when its task had ended or was begun again.

    A frozen node cuts off what others have begun again meanwhile, although it may go on with it later.
    """
    if not run.begun <= kill.at <= over:
        return False
    if run.ended is None:
        return True
    return kill.how is How.FREEZE and over <= kill.until <= run.ended


def _takeover(kill: Kill, followers: Sequence[Run | None], begun: Sequence[float], start: float) -> Takeover:
    again = [run.begun - kill.at for run in followers if run is not None]
    position = bisect_right(begun, kill.at)
    silence = begun[position] - kill.at if position < len(begun) else None
    return Takeover(
        at=kill.at - start,
        seconds=max(kill.until - kill.at, 0.0),
        how=str(kill.how),
        life=kill.life,
        cut=len(followers),
        again=max(again, default=None),
        silence=silence,
    )
