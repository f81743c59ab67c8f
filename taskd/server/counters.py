"""The counters of a server since its start, as `taskd.status` shows them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """The numbers of tasks by the way in which they ended, and of workers started and replaced.

    `expired` tasks were not started before their deadline; `refused` ones found
    the queue full. `reclaimed` counts how often a worker had to return tasks.
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
