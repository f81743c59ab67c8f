"""The clock of a byte budget: ticks while anybody waits for room, and gives back what was freed."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from taskd.net.malloc import give_back_free_memory
from taskd.scheduler.budget import TICK, Budget

__all__ = ["GIVE_BACK_SECONDS", "watch_budget"]

GIVE_BACK_SECONDS = 2.0
"""Seconds between two times that freed memory is given back, which may take some 50 ms."""


def watch_budget(
    clock: IReactorTime, budget: Budget, give_back: Callable[[], None] = give_back_free_memory
) -> None:
    """Have `budget.tick` called every `TICK` seconds while it `needs_ticks`.

    `give_back` is called when much has been freed.
    """
    is_ticking = False
    next_time = 0.0

    def begin() -> None:
        nonlocal is_ticking
        if not is_ticking:
            is_ticking = True
            clock.callLater(TICK, tick)

    def tick() -> None:
        nonlocal is_ticking, next_time
        is_ticking = False
        now = clock.seconds()
        budget.tick(now)
        if budget.has_freed_much and now >= next_time:
            next_time = now + GIVE_BACK_SECONDS
            budget.peak = budget.held
            give_back()
        if budget.needs_ticks:
            begin()

    budget.begin_to_tick = begin
