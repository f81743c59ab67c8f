"""The readiness of a task server: why it would not take a task now, for health checks."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from taskd.errors import ShuttingDown
from taskd.pool.pool import Pool
from taskd.scheduler import Scheduler
from taskd.scheduler.budget import Budget
from taskd.scheduler.states import BUSY, IDLE

__all__ = ["DRAINED", "DRAINING", "Reason", "Unready", "no_new_tasks", "unready"]

Reason: TypeAlias = Literal[
    "starting", "draining", "queue_full", "memory_full", "no_worker", "no_task_server", "store_down"
]
"""The reasons not to be ready, for programs."""


class Unready(msgspec.Struct, frozen=True):
    """Why a server is not ready: the `reason` for programs, and the `detail` for people."""

    reason: Reason
    detail: str


DRAINING = Unready("draining", "the server is about to stop")

DRAINED = Unready(
    "draining", "the server is drained: it takes no new tasks until that is undone (taskd drain --undo)"
)


def no_new_tasks() -> ShuttingDown:
    """Return the error for a task that a drained server does not take."""
    return ShuttingDown(
        "the server is drained, and takes no new tasks until that is undone (taskd drain --undo)"
    )


def unready(scheduler: Scheduler, pool: Pool, budget: Budget, fault: str | None) -> Unready | None:
    """Return why a task server would not run a new task; None if it would.

    `fault` is what is wrong with its store, None if nothing is.
    """
    code = pool.code_status()
    if code.state == "importing":
        return Unready("starting", "the app is being imported")
    if not any(worker.state in (IDLE, BUSY) for worker in scheduler.fleet.workers.values()):
        if code.state != "ready":
            return Unready("no_worker", code.reason or "the app cannot be imported")
        if not pool.can_start:
            return Unready("no_worker", "the workers end before they are ready: see the log")
    if fault is not None:
        return Unready("store_down", f"the store has failed: {fault}")
    if budget.is_spent:
        return Unready("memory_full", f"{budget.held} bytes are held for clients (--max-buffered)")
    queue, config = scheduler.queue, scheduler.config
    if queue.count >= config.max_queue + len(scheduler.fleet.idle):
        return Unready("queue_full", f"{queue.count} tasks are waiting (--max-queue)")
    return None
