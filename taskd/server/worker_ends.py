"""Why workers end, in a few words that can be counted."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from taskd.pool.exits import WorkerExit
from taskd.scheduler.workers import WorkerView

__all__ = ["CAUSES", "Cause", "cause_of"]

Cause: TypeAlias = Literal[
    "dismissed",
    "recycled",
    "task_stopped",
    "out_of_memory",
    "crashed",
    "exited",
    "not_started",
    "fork_server",
]
"""Why a worker has ended: there were too many, or new code (`dismissed`); it had run enough tasks or had
grown (`recycled`); its task did not end when it was stopped; the kernel had no memory; a signal (`crashed`),
or an exit status of its own; it failed before it was ready; the fork server ended."""

CAUSES: tuple[Cause, ...] = get_args(Cause)


def cause_of(ending: WorkerExit, worker: WorkerView) -> Cause:
    """Return why a worker has ended; its view still has the tasks that it had."""
    if ending.out_of_memory:
        return "out_of_memory"
    if any(task.stop is not None for task in worker.tasks.values()):
        return "task_stopped"
    if ending.code is None:
        return "fork_server"
    if ending.code == 0:
        return "dismissed" if worker.dismissed else "recycled"
    if not ending.was_ready:
        return "not_started"
    return "crashed" if ending.code < 0 else "exited"
