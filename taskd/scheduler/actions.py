"""What the scheduler wants done, now that time has passed or somebody has asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

__all__ = [
    "AbandonTask",
    "Action",
    "ExpireTask",
    "InterruptTask",
    "KillWorker",
    "ReclaimTasks",
    "TerminateWorker",
]

Task = TypeVar("Task")


@dataclass(frozen=True, slots=True)
class ExpireTask(Generic[Task]):
    """The deadline of a waiting task is over: answer it. It has left the queue."""

    task: Task


@dataclass(frozen=True, slots=True)
class ReclaimTasks:
    """Have a worker return the tasks that it has not begun: the one before them takes too long."""

    worker: int


@dataclass(frozen=True, slots=True)
class InterruptTask(Generic[Task]):
    """Have a worker interrupt the function of this task, or return the task where it has not begun."""

    worker: int
    task: Task


@dataclass(frozen=True, slots=True)
class TerminateWorker(Generic[Task]):
    """Send SIGTERM to a worker's process group, and answer the task."""

    worker: int
    task: Task


@dataclass(frozen=True, slots=True)
class AbandonTask(Generic[Task]):
    """Answer a task that stands in a worker behind one that does not end: it will not begin any more."""

    task: Task


@dataclass(frozen=True, slots=True)
class KillWorker:
    """Send SIGKILL to a worker's process group."""

    worker: int


Action: TypeAlias = (
    ExpireTask[Task]
    | ReclaimTasks
    | InterruptTask[Task]
    | TerminateWorker[Task]
    | AbandonTask[Task]
    | KillWorker
)
