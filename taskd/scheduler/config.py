"""The scheduler's bounds: numbers of workers and of waiting tasks, and how long a worker may idle."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["IDLE_SECONDS", "MAX_QUEUE", "SchedulerConfig"]

MAX_QUEUE = 10_000
"""Tasks that may wait: beyond that, a caller is better served by an immediate `Busy`
than by a place at the end of the queue."""

IDLE_SECONDS = 60.0
"""Seconds that a worker above the minimum may be idle: long enough to outlast the gaps
between bursts, and short enough that its memory is soon free."""


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """The bounds of one scheduler.

    `idle_seconds` is how long a worker above `min_workers` may be idle,
    `max_tasks` the number of tasks after which a worker leaves (None: never),
    `processors` the number of workers that can really run at the same time.
    `shared_priorities` says that priorities hold between parties as well.
    """

    min_workers: int
    max_workers: int
    max_queue: int = MAX_QUEUE
    idle_seconds: float = IDLE_SECONDS
    max_tasks: int | None = None
    processors: int = 1
    shared_priorities: bool = False
