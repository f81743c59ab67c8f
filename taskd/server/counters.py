"""What has happened on a server since it began, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """How many tasks ended in which way, and how many workers were started and replaced.

    `expired` tasks were not started before their deadline; `refused` ones found
    the queue full; `reclaimed` counts how often a worker had to return tasks.
    """

    done: int = 0
    failed: int = 0
    timed_out: int = 0
    expired: int = 0
    cancelled: int = 0
    lost: int = 0
    refused: int = 0
    reclaimed: int = 0
    workers_started: int = 0
    workers_replaced: int = 0
