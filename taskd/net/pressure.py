"""The clock of a byte budget: ticks while anybody waits for room."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from taskd.scheduler.budget import TICK, Budget

__all__ = ["watch_budget"]


def watch_budget(clock: IReactorTime, budget: Budget) -> None:
    """Have `budget.tick` called every `TICK` seconds while anybody waits for room."""
    is_ticking = False

    def begin() -> None:
        nonlocal is_ticking
        if not is_ticking:
            is_ticking = True
            clock.callLater(TICK, tick)

    def tick() -> None:
        nonlocal is_ticking
        is_ticking = False
        budget.tick(clock.seconds())
        if budget.is_waited_for:
            begin()

    budget.begin_to_tick = begin
