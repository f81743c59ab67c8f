"""Actions: the scheduler's decisions, which the dispatcher (`taskd.server`) carries out."""

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
    """Complete a task that has left the queue because its deadline has passed."""

    task: Task


@dataclass(frozen=True, slots=True)
class ReclaimTasks:
    """Have a worker return the tasks that it has not begun, because the one before them takes too long."""

    worker: int


@dataclass(frozen=True, slots=True)
class InterruptTask:
    """Have a worker interrupt the function of a task, or return the task if it has not begun."""

    worker: int
    task: Task


@dataclass(frozen=True, slots=True)
class TerminateWorker:
    """Send SIGTERM to a worker's process group, and complete the task."""

    worker: int
    task: Task


@dataclass(frozen=True, slots=True)
class AbandonTask:
    """Complete a task that waits in a worker behind one that does not end, and will never begin."""

    task: Task


@dataclass(frozen=True, slots=True)
class KillWorker:
    """Send SIGKILL to a worker's process group."""

    worker: int


Action: TypeAlias = ExpireTask | ReclaimTasks | InterruptTask | TerminateWorker | AbandonTask | KillWorker
