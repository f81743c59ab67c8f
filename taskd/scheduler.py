"""Who works on what: pure, and without a clock (time is an argument, in seconds).

A job waits here, never behind another one in a worker: it is bound to a
worker when that worker is idle (late binding). Jobs are taken first in,
first out; idle workers last in, first out, so that caches stay warm and the
surplus can be seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Protocol, TypeVar

from taskd.errors import Busy, StateError

__all__ = ["FunctionStats", "JobState", "Scheduler", "WorkerState", "WorkerView"]

MAX_QUEUE = 10_000
"""Jobs that may wait: past it, a caller is better served by a `Busy` at once
than by a place at the end of the queue."""

RETRY_AFTER = 1.0
"""Seconds that a refused caller is told to wait, where nothing is known of how fast the queue moves."""

MAX_RETRY_AFTER = 60.0
"""Seconds: longer than this no estimate is worth trusting."""


class WorkerState(Enum):
    """What a worker is doing."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    GONE = "gone"


class JobState(Enum):
    """What has become of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


WORKER_STEPS = {
    WorkerState.STARTING: {WorkerState.IDLE, WorkerState.GONE},
    WorkerState.IDLE: {WorkerState.BUSY, WorkerState.GONE},
    WorkerState.BUSY: {WorkerState.IDLE, WorkerState.GONE},
    WorkerState.GONE: frozenset[WorkerState](),
}
"""Every step that a worker can take."""

JOB_STEPS = {
    JobState.WAITING: {JobState.RUNNING, JobState.DONE},
    # Back to waiting: the worker died before it had read the job.
    JobState.RUNNING: {JobState.DONE, JobState.WAITING},
    JobState.DONE: frozenset[JobState](),
}
"""Every step that a job can take."""


class SchedulableJob(Protocol):
    """What the scheduler needs of a job; `state` is the scheduler's to set."""

    state: JobState

    @property
    def function(self) -> str:
        """The name of the function that it runs."""

    @property
    def is_held(self) -> bool:
        """Whether it is not to be started now: its caller does not take what it has been sent."""


Job = TypeVar("Job", bound=SchedulableJob)


@dataclass(slots=True)
class FunctionStats:
    """What has been seen of one function. Times are run times, in seconds."""

    done: int = 0
    failed: int = 0
    lost: int = 0
    seconds: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float, *, failed: bool) -> None:
        """Count one call that has run."""
        self.seconds += seconds
        if seconds > self.longest:
            self.longest = seconds
        if failed:
            self.failed += 1
        else:
            self.done += 1

    @property
    def mean(self) -> float:
        """The mean run time, 0 where nothing has run yet."""
        finished = self.done + self.failed
        return self.seconds / finished if finished else 0.0


@dataclass(slots=True)
class WorkerView(Generic[Job]):
    """One worker, as the scheduler sees it: what it does, and since when."""

    since: float
    state: WorkerState = WorkerState.STARTING
    job: Job | None = None
    jobs_done: int = 0


@dataclass(slots=True)
class Scheduler(Generic[Job]):
    """The queue, the idle workers, and what each function costs.

    Workers are named by integers that the pool gives, and never gives twice.
    """

    max_queue: int = MAX_QUEUE
    workers: dict[int, WorkerView[Job]] = field(default_factory=dict)
    functions: dict[str, FunctionStats] = field(default_factory=dict)
    _waiting: deque[Job] = field(default_factory=deque)
    _held: deque[Job] = field(default_factory=deque)
    _idle: list[int] = field(default_factory=list)
    running: int = 0

    @property
    def waiting(self) -> int:
        """How many jobs wait for a worker, or for their caller."""
        return len(self._waiting) + len(self._held)

    @property
    def is_empty(self) -> bool:
        """Whether no job waits and none runs."""
        return not self.waiting and not self.running

    def submit(self, job: Job) -> None:
        """Let a job wait. Raises `Busy` where the queue is full.

        The queue holds what idle workers cannot take at once: as long as one
        is idle it is not full. Jobs that are held do not count: a caller that
        reads nothing is not to make the server busy for the others.
        """
        if len(self._waiting) >= self.max_queue + len(self._idle):
            raise Busy(
                f"the queue is full: {self.max_queue} tasks are waiting", retry_after=self._estimated_wait()
            )
        self._waiting.append(job)

    def _estimated_wait(self) -> float:
        """Seconds until about a tenth of the queue will have been worked off."""
        finished = sum(stats.done + stats.failed for stats in self.functions.values())
        if not finished or not self.workers:
            return RETRY_AFTER
        mean = sum(stats.seconds for stats in self.functions.values()) / finished
        estimate = mean * self.waiting / len(self.workers) / 10
        return round(min(max(estimate, 0.1), MAX_RETRY_AFTER), 1)

    def assign(self, now: float) -> list[tuple[int, Job]]:
        """Bind waiting jobs to idle workers; the pairs are to be sent.

        One that is held is put aside, until `release`.
        """
        pairs: list[tuple[int, Job]] = []
        while self._waiting and self._idle:
            job = self._waiting.popleft()
            if job.is_held:
                self._held.append(job)
                continue
            number = self._idle.pop()
            worker = self.workers[number]
            self._step_worker(number, WorkerState.BUSY, now)
            self._step_job(job, JobState.RUNNING)
            worker.job = job
            self.running += 1
            pairs.append((number, job))
        return pairs

    def release(self) -> None:
        """Let the jobs that were held wait again, ahead of the others, as they came."""
        self._waiting.extendleft(reversed(self._held))
        self._held.clear()

    def drop_held(self) -> list[Job]:
        """Take the jobs that are held out of the queue; they will not be run."""
        dropped = list(self._held)
        self._held.clear()
        for job in dropped:
            self._step_job(job, JobState.DONE)
        return dropped

    def drop_waiting(self, unless: Container[str] = ()) -> list[Job]:
        """Take the waiting jobs out of the queue; they will not be run.

        Those of the functions in `unless` stay.
        """
        self.release()
        dropped = [job for job in self._waiting if job.function not in unless]
        self._waiting = deque(job for job in self._waiting if job.function in unless)
        for job in dropped:
            self._step_job(job, JobState.DONE)
        return dropped

    # --- workers ---

    def worker_started(self, number: int, now: float) -> None:
        """A worker is being started."""
        if number in self.workers:
            raise StateError(f"worker {number} is there already")
        self.workers[number] = WorkerView(now)

    def worker_ready(self, number: int, now: float) -> None:
        """A worker can take its first job."""
        if self._view(number).state is not WorkerState.STARTING:
            raise StateError(f"worker {number} is ready for the second time")
        self._step_worker(number, WorkerState.IDLE, now)
        self._idle.append(number)

    def finished(self, number: int, seconds: float | None, now: float, *, failed: bool) -> Job:
        """The worker's job has ended after `seconds`; the worker is idle again.

        None for a job whose arguments did not fit: it says nothing of its function.
        """
        worker = self._view(number)
        job = worker.job
        if job is None:
            raise StateError(f"worker {number} finished a job that it did not have")
        self._step_worker(number, WorkerState.IDLE, now)
        self._step_job(job, JobState.DONE)
        worker.job = None
        worker.jobs_done += 1
        self.running -= 1
        self._idle.append(number)
        if seconds is not None:
            self._stats(job).add(seconds, failed=failed)
        return job

    def worker_lost(self, number: int, now: float, *, started: bool = True) -> Job | None:
        """A worker is gone; the job that is lost with it, if any.

        Where the worker had not `started` the job that it was given, that one
        is the first to be assigned again, and nothing is lost.
        """
        worker = self._view(number)
        if worker.state is WorkerState.IDLE:
            self._idle.remove(number)
        self._step_worker(number, WorkerState.GONE, now)
        del self.workers[number]
        job = worker.job
        if job is None:
            return None
        self.running -= 1
        if not started:
            self._step_job(job, JobState.WAITING)
            self._waiting.appendleft(job)
            return None
        self._step_job(job, JobState.DONE)
        self._stats(job).lost += 1
        return job

    # --- inside ---

    def _view(self, number: int) -> WorkerView[Job]:
        try:
            return self.workers[number]
        except KeyError:
            raise StateError(f"there is no worker {number}") from None

    def _stats(self, job: Job) -> FunctionStats:
        stats = self.functions.get(job.function)
        if stats is None:
            stats = self.functions[job.function] = FunctionStats()
        return stats

    def _step_worker(self, number: int, state: WorkerState, now: float) -> None:
        worker = self._view(number)
        if state not in WORKER_STEPS[worker.state]:
            raise StateError(f"worker {number} cannot go from {worker.state.value} to {state.value}")
        worker.state = state
        worker.since = now

    @staticmethod
    def _step_job(job: SchedulableJob, state: JobState) -> None:
        if state not in JOB_STEPS[job.state]:
            raise StateError(f"a job cannot go from {job.state.value} to {state.value}")
        job.state = state
