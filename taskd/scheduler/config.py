"""The bounds of the scheduler: how many workers and tasks there may be."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["IDLE_SECONDS", "MAX_QUEUE", "SchedulerConfig"]

MAX_QUEUE = 10_000
"""Tasks that may wait: past it, a caller is better served by a `Busy` at once
than by a place at the end of the queue."""

IDLE_SECONDS = 60.0
"""Seconds that a worker above the minimum may be idle: short bursts do not
make it come and go, and by the next hour its memory is free."""


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """The bounds of one scheduler.

    `idle_seconds` is how long a worker above `min_workers` may be idle,
    `max_tasks` after how many tasks a worker leaves (None for never),
    `processors` how many workers can run at the same time.
    """

    min_workers: int
    max_workers: int
    max_queue: int = MAX_QUEUE
    idle_seconds: float = IDLE_SECONDS
    max_tasks: int | None = None
    processors: int = 1
