"""The figures of a task server for those who measure it: its own counters, which go on counting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskd.pool.pool import Pool
from taskd.scheduler import FunctionStats, Scheduler
from taskd.scheduler.histograms import Histogram
from taskd.scheduler.states import GONE, WorkerState
from taskd.server.counters import Counters
from taskd.server.status import StoreStatus
from taskd.server.worker_ends import Cause

__all__ = ["Commits", "ServerFigures", "Workers", "workers_of"]


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers: how many are in which state, how many have ended for which cause, what they have resident.

    `memory` is in bytes, and has pages that they share as often as they do.
    """

    states: Mapping[str, int]
    ends: Mapping[Cause, int]
    most: int
    memory: int


@dataclass(frozen=True, slots=True)
class Commits:
    """The transactions of a store: how long they took, in seconds, and how many have failed."""

    seconds: Histogram
    failed: int


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """The figures of a task server. `oldest_waiting` is in seconds, `held` and `held_limit` in bytes."""

    name: str
    functions: Sequence[FunctionStats]
    counters: Counters
    workers: Workers
    running: int
    max_queue: int
    oldest_waiting: float
    connections: int
    log_lines_lost: int
    generation: int
    store: StoreStatus | None
    commits: Commits | None


def workers_of(scheduler: Scheduler, pool: Pool, ends: Mapping[Cause, int]) -> Workers:
    """Return the workers of a scheduler and its pool."""
    states = {state.name.lower(): 0 for state in WorkerState if state is not GONE}
    states.update(Counter(worker.state.name.lower() for worker in scheduler.fleet.workers.values()))
    memory = sum(pool.memory_kib(number) or 0 for number in scheduler.fleet.workers) * 1024
    return Workers(states, ends, scheduler.config.max_workers, memory)
