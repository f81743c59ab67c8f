"""What the scheduler wants done, now that time has passed or somebody has asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

__all__ = ["Abandon", "Action", "CallBack", "Expire", "Interrupt", "Kill", "Terminate"]

Job = TypeVar("Job")


@dataclass(frozen=True, slots=True)
class Expire(Generic[Job]):
    """The deadline of a waiting job is over: answer it. It has left the queue."""

    job: Job


@dataclass(frozen=True, slots=True)
class CallBack:
    """Have a worker return the jobs that it has not begun: the one before them takes too long."""

    worker: int


@dataclass(frozen=True, slots=True)
class Interrupt(Generic[Job]):
    """Have a worker interrupt the function of this job, or return the job where it has not begun."""

    worker: int
    job: Job


@dataclass(frozen=True, slots=True)
class Terminate(Generic[Job]):
    """Send SIGTERM to a worker's process group, and answer the job."""

    worker: int
    job: Job


@dataclass(frozen=True, slots=True)
class Abandon(Generic[Job]):
    """Answer a job that stands in a worker behind one that does not end: it will not begin any more."""

    job: Job


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL to a worker's process group."""

    worker: int


Action: TypeAlias = Expire[Job] | CallBack | Interrupt[Job] | Terminate[Job] | Abandon[Job] | Kill
