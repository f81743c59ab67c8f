"""The move of the times of stored tasks when the machine's clock has been set."""

from __future__ import annotations

from collections.abc import Callable

from taskd.durable.deadlines import Deadlines
from taskd.durable.schedules import Schedules
from taskd.durable.upkeep import Upkeep
from taskd.durable.writer import StoreWriter

__all__ = ["move_clock"]


def move_clock(
    seconds: float,
    follow: Callable[[float], object],
    schedules: Schedules,
    upkeep: Upkeep,
    deadlines: Deadlines,
    writer: StoreWriter,
) -> None:
    """Let the clock that was set count, by `follow`, and move what is not due by the calendar with it."""

    def moving() -> None:
        names = schedules.clock_moved(seconds)
        follow(seconds)
        upkeep.clock_moved(seconds)
        deadlines.hold()
        writer.move(seconds, names)

    def shifted() -> None:
        upkeep.release()
        deadlines.release()

    writer.shifted = shifted
    writer.between(moving)
