"""The plan of a drill: what is killed, and when. All of it follows from the seed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from random import Random

__all__ = ["LINK", "NODES", "TARGETS", "WORKERS", "How", "Kill", "Planned", "planned"]

WORKERS, NODES, LINK = TARGETS = ("workers", "nodes", "store-link")
"""What may be killed."""

FIRST = 1.0
"""Seconds of load before the first kill."""

WORKER_MEAN, NODE_MEAN, LINK_MEAN = 1.5, 5.0, 5.0
"""Seconds between two kills of workers, from the return of a node to the end of the next, and likewise for
the link: exponentially distributed."""

DOWN_SECONDS = 0.0, 2.0
"""Seconds for which a node that was killed or stopped is away before it is started again."""

FROZEN_SECONDS = 15.0, 30.0
"""Seconds for which one of several nodes is frozen: the others take it for dead after ten, so that it wakes
up with tasks that are no longer its own."""

FROZEN_ALONE_SECONDS = 1.0, 3.0
"""Seconds for which the only node is frozen: there is no other to take over."""

CUT_SECONDS = 0.0, 3.0
"""Seconds for which the link to the store is reset again and again."""

HELD_SECONDS = 2.0, 12.0
"""Seconds for which the link to the store forwards nothing, as behind a firewall that drops: in some of
these a node may be taken for dead."""

START_SECONDS = 2.0
"""Seconds that a node takes to start, about."""


class How(StrEnum):
    """A way to disturb a node, a worker or a link."""

    WORKER = "worker killed"
    KILL = "node killed"
    STOP = "node stopped"
    FREEZE = "node frozen"
    CUT = "link cut"
    HOLD = "link silent"


@dataclass(frozen=True, slots=True)
class Planned:
    """Something that is done `at` so many seconds after the start of the load, for so many `seconds`."""

    at: float
    how: How
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Kill:
    """Something that was done. Times are in seconds since 1970; `until` is when it was over.

    `life` is that of the node that was hit, and `pid` the process of the worker; "" and 0 otherwise.
    """

    at: float
    how: How
    life: str = ""
    pid: int = 0
    until: float = 0.0


def planned(rng: Random, seconds: float, nodes: int, targets: Collection[str]) -> list[Planned]:
    """Return what is done to so many nodes in so many seconds of load, in the order of the times."""
    plan: list[Planned] = []
    if WORKERS in targets:
        at = FIRST
        while at < seconds:
            plan.append(Planned(at, How.WORKER))
            at += rng.expovariate(1 / WORKER_MEAN)
    if NODES in targets:
        plan += _one_by_one(rng, seconds, NODE_MEAN, (How.KILL, How.FREEZE, How.STOP), nodes)
    if LINK in targets:
        plan += _one_by_one(rng, seconds, LINK_MEAN, (How.CUT, How.HOLD), nodes)
    return sorted(plan, key=lambda each: each.at)


def _one_by_one(rng: Random, seconds: float, mean: float, hows: tuple[How, ...], nodes: int) -> list[Planned]:
    """Return things that follow each other, the kinds in turn: each begins when the last one is over."""
    plan: list[Planned] = []
    at = FIRST + rng.uniform(0.0, 1.0)
    turn = 0
    while at < seconds:
        how = hows[turn % len(hows)]
        lasts = _lasts(rng, how, nodes)
        if plan and at + lasts > seconds:
            how, lasts = hows[0], 0.0  # there is no time left for a long one
        plan.append(Planned(at, how, min(lasts, max(seconds - at, 0.0))))
        at += lasts + (START_SECONDS if how in (How.KILL, How.STOP) else 0.0)
        at += rng.expovariate(1 / mean)
        turn += 1
    return plan


def _lasts(rng: Random, how: How, nodes: int) -> float:
    if how is How.FREEZE:
        return rng.uniform(*(FROZEN_SECONDS if nodes > 1 else FROZEN_ALONE_SECONDS))
    if how is How.CUT:
        return rng.uniform(*CUT_SECONDS)
    if how is How.HOLD:
        return rng.uniform(*HELD_SECONDS)
    return rng.uniform(*DOWN_SECONDS)
