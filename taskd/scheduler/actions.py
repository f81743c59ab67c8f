"""What the scheduler wants done, now that time has passed or somebody has asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

__all__ = ["Abandon", "Action", "CallBack", "Expire", "Interrupt", "Kill", "Terminate"]

Task = TypeVar("Task")


@dataclass(frozen=True, slots=True)
class Expire(Generic[Task]):
    """The deadline of a waiting task is over: answer it. It has left the queue."""

    task: Task


@dataclass(frozen=True, slots=True)
class CallBack:
    """Have a worker return the tasks that it has not begun: the one before them takes too long."""

    worker: int


@dataclass(frozen=True, slots=True)
class Interrupt(Generic[Task]):
    """Have a worker interrupt the function of this task, or return the task where it has not begun."""

    worker: int
    task: Task


@dataclass(frozen=True, slots=True)
class Terminate(Generic[Task]):
    """Send SIGTERM to a worker's process group, and answer the task."""

    worker: int
    task: Task


@dataclass(frozen=True, slots=True)
class Abandon(Generic[Task]):
    """Answer a task that stands in a worker behind one that does not end: it will not begin any more."""

    task: Task


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL to a worker's process group."""

    worker: int


Action: TypeAlias = Expire[Task] | CallBack | Interrupt[Task] | Terminate[Task] | Abandon[Task] | Kill
