"""What runs for too long: jobs over their limit, and workers that are late with short ones.

A job that has to end is stopped in steps: its function is interrupted; after
its grace the worker's process group is sent SIGTERM, and then SIGKILL. Each
step is taken only against a worker that is still running this very job.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, Literal

from taskd.scheduler.actions import Abandon, Action, CallBack, Interrupt, Kill, Terminate
from taskd.scheduler.states import DONE, StopStep, check_job
from taskd.scheduler.workers import Job, Stop, WorkerView

if TYPE_CHECKING:
    from taskd.scheduler.scheduler import Scheduler

__all__ = ["CHECK_SECONDS", "Watch"]

CHECK_SECONDS = 0.005
"""Seconds between two looks at a worker that runs short jobs. One that runs the
same job at two looks is late, and the jobs that it has not begun are called
back: ten times what a batch should take, and with the way to another worker
still below what a person notices. (One that waits for a processor before it
has begun any is not late: another one would have to wait for it as well.)"""


class Watch(Generic[Job]):
    """Looks at the workers of a scheduler that have jobs."""

    def __init__(self, scheduler: Scheduler[Job]) -> None:
        self._scheduler = scheduler

    def look_at(self, worker: WorkerView[Job], now: float, begun: Callable[[int], int]) -> list[Action[Job]]:
        """What has become due with this worker. `begun` tells which job a worker began last."""
        actions: list[Action[Job]] = []
        running = begun(worker.number)
        for job in list(worker.jobs.values()):
            if job.stop is not None:
                actions += self._climb(worker, job, job.stop, now, is_running=job.number == running)
        if self._scheduler.runs_short(worker):
            actions += self._check_short(worker, now, running)
        first = worker.first
        if first is not None and first.limit is not None and first.stop is None:
            if first.number != running:
                first.started = now  # it has not begun, and so its time has not
            due = first.started + first.limit
            if due <= now:
                actions += self.stop(first, "timeout", now)
            else:
                self._scheduler.wake(due)
        return actions

    def stop(self, job: Job, reason: Literal["timeout", "cancelled"], now: float) -> list[Action[Job]]:
        """Begin to stop a job that a worker has."""
        worker = self._scheduler.workers[job.worker]
        job.stop = Stop(reason, now, now + job.stats.grace)
        self._scheduler.wake(job.stop.next_at)
        actions: list[Action[Job]] = [Interrupt(worker.number, job)]
        if len(worker.jobs) > 1:
            actions += self._call_back(worker)
        return actions

    def _call_back(self, worker: WorkerView[Job]) -> list[Action[Job]]:
        self._scheduler.not_short(worker)
        if worker.called_back:
            return []
        worker.called_back = True
        return [CallBack(worker.number)]

    def _check_short(self, worker: WorkerView[Job], now: float, begun: int) -> list[Action[Job]]:
        """Where a worker is late that runs short jobs, call back what it has not begun."""
        if now < worker.checked + CHECK_SECONDS:
            self._scheduler.wake(worker.checked + CHECK_SECONDS)
            return []
        running = worker.jobs.get(begun)
        if running is None or begun != worker.watched:
            worker.watched = begun
            worker.checked = now
            self._scheduler.wake(now + CHECK_SECONDS)
            return []
        running.stats.surprised()
        self._scheduler.not_short(worker)
        return self._call_back(worker) if len(worker.jobs) > 1 else []

    def _climb(
        self, worker: WorkerView[Job], job: Job, stop: Stop, now: float, *, is_running: bool
    ) -> list[Action[Job]]:
        """The next step towards the end of a job that is being stopped."""
        if stop.next_at > now:
            self._scheduler.wake(stop.next_at)
            return []
        if stop.step is StopStep.RAISED:
            stop.terminate(now)
            self._scheduler.wake(stop.next_at)
            job.state = check_job(job.state, DONE)
            self._scheduler.running -= 1
            if not is_running:
                return [Abandon(job)]
            self._scheduler.retire(worker.number, now)
            return [Terminate(worker.number, job)]
        if stop.step is StopStep.TERMINATED and is_running:
            stop.kill()
            return [Kill(worker.number)]
        return []
