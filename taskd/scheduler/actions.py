"""What the scheduler wants done, now that time has passed or somebody has asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from taskd.scheduler.task import Task

__all__ = [
    "AbandonTask",
    "Action",
    "ExpireTask",
    "InterruptTask",
    "KillWorker",
    "ReclaimTasks",
    "TerminateWorker",
]


@dataclass(frozen=True, slots=True)
class ExpireTask:
    """The deadline of a waiting task is over: answer it. It has left the queue."""

    task: Task


@dataclass(frozen=True, slots=True)
class ReclaimTasks:
    """Have a worker return the tasks that it has not begun: the one before them takes too long."""

    worker: int


@dataclass(frozen=True, slots=True)
class InterruptTask:
    """Have a worker interrupt the function of this task, or return the task where it has not begun."""

    worker: int
    task: Task


@dataclass(frozen=True, slots=True)
class TerminateWorker:
    """Send SIGTERM to a worker's process group, and answer the task."""

    worker: int
    task: Task


@dataclass(frozen=True, slots=True)
class AbandonTask:
    """Answer a task that stands in a worker behind one that does not end: it will not begin any more."""

    task: Task


@dataclass(frozen=True, slots=True)
class KillWorker:
    """Send SIGKILL to a worker's process group."""

    worker: int


Action: TypeAlias = ExpireTask | ReclaimTasks | InterruptTask | TerminateWorker | AbandonTask | KillWorker
