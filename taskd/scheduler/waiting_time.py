"""How long a refused caller should wait: an estimate from what runs and what waits."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from taskd.scheduler.states import IDLE
from taskd.scheduler.stats import FunctionStats

if TYPE_CHECKING:
    from taskd.scheduler.workers import WorkerView

__all__ = ["MAX_RETRY_AFTER", "MIN_RETRY_AFTER", "RETRY_AFTER", "retry_after"]

RETRY_AFTER = 1.0
"""Seconds after which a refused caller should try again, while the queue's speed is unknown."""

MIN_RETRY_AFTER = 0.1
"""Seconds: a caller that tries again sooner only makes a busy server busier."""

MAX_RETRY_AFTER = 600.0
"""Seconds. Whoever has to wait for longer may just as well ask again every ten minutes: much may
change meanwhile, since a queue can be emptied by cancels and deadlines too."""

FREED = 0.1
"""The part of the queue that should have been worked off when a refused caller tries again:
others were refused too, and there should be room for several of them."""


def retry_after(functions: Iterable[FunctionStats], workers: Collection[WorkerView], now: float) -> float:
    """Estimate the seconds until a worker is free and `FREED` of the waiting tasks have been started.

    The expected run time of a function is the mean of its runs; or, if that is
    longer, of the times for which its tasks have been running now: so a task
    counts that never ended.
    """
    busy = [
        (worker.first.stats.name, max(now - worker.first.started, 0.0)) for worker in workers if worker.first
    ]
    so_far: dict[str, list[float]] = {}
    for name, seconds in busy:
        so_far.setdefault(name, []).append(seconds)
    expected: dict[str, float] = {}
    work = 0.0
    for stats in functions:
        running = so_far.get(stats.name)
        seconds = max(stats.mean, sum(running) / len(running) if running else 0.0)
        if seconds:
            expected[stats.name] = seconds
            work += stats.waiting * seconds
    if not expected or not workers:
        return RETRY_AFTER
    free_in = 0.0
    if busy and not any(worker.state is IDLE for worker in workers):
        free_in = min(_left(expected.get(name, RETRY_AFTER), seconds) for name, seconds in busy)
    estimate = free_in + work * FREED / len(workers)
    return round(min(max(estimate, MIN_RETRY_AFTER), MAX_RETRY_AFTER), 1)


def _left(expected: float, so_far: float) -> float:
    """Return how many seconds a task goes on; one that is over its time is expected to take as long again."""
    return expected - so_far if expected > so_far else so_far
