"""What runs for too long: tasks over their limit, and workers that are late with short ones.

A task that has to end is stopped in steps: its function is interrupted; after
its grace the worker's process group is sent SIGTERM, and then SIGKILL. Each
step is taken only against a worker that is still running this very task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from taskd.scheduler.actions import (
    AbandonTask,
    Action,
    InterruptTask,
    KillWorker,
    ReclaimTasks,
    TerminateWorker,
)
from taskd.scheduler.states import DONE, StopStep, check_task
from taskd.scheduler.stops import Stop
from taskd.scheduler.task import Task
from taskd.scheduler.workers import WorkerView

if TYPE_CHECKING:
    from taskd.scheduler.scheduler import Scheduler

__all__ = ["LATE_SECONDS", "Watch"]

LATE_SECONDS = 0.005
"""Seconds between two looks at a worker that runs short tasks. One that runs the
same task at two looks is late, and the tasks that it has not begun are called
back: ten times what a batch should take, and with the way to another worker
still below what a person notices. (One that waits for a processor before it
has begun any is not late: another one would have to wait for it as well.)"""


class Watch:
    """Looks at the workers of a scheduler that have tasks."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def look_at(self, worker: WorkerView, now: float, begun: Callable[[int], int]) -> list[Action]:
        """What has become due with this worker. `begun` tells which task a worker began last."""
        actions: list[Action] = []
        running = begun(worker.number)
        for task in list(worker.tasks.values()):
            if task.stop is not None:
                actions += self._climb(worker, task, task.stop, now, is_running=task.number == running)
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

    def stop(self, task: Task, reason: Literal["timeout", "cancelled"], now: float) -> list[Action]:
        """Begin to stop a task that a worker has."""
        worker = self._scheduler.workers[task.worker]
        task.stop = Stop(reason, now, now + task.stats.grace)
        self._scheduler.wake(task.stop.next_at)
        actions: list[Action] = [InterruptTask(worker.number, task)]
        if len(worker.tasks) > 1:
            actions += self._reclaim(worker)
        return actions

    def _reclaim(self, worker: WorkerView) -> list[Action]:
        self._scheduler.not_short(worker)
        if worker.reclaimed:
            return []
        worker.reclaimed = True
        return [ReclaimTasks(worker.number)]

    def _check_short(self, worker: WorkerView, now: float, begun: int) -> list[Action]:
        """Where a worker is late that runs short tasks, reclaim what it has not begun."""
        if now < worker.checked + LATE_SECONDS:
            self._scheduler.wake(worker.checked + LATE_SECONDS)
            return []
        running = worker.tasks.get(begun)
        if running is None or begun != worker.watched:
            worker.watched = begun
            worker.checked = now
            self._scheduler.wake(now + LATE_SECONDS)
            return []
        running.stats.surprised()
        self._scheduler.not_short(worker)
        return self._reclaim(worker) if len(worker.tasks) > 1 else []

    def _climb(
        self, worker: WorkerView, task: Task, stop: Stop, now: float, *, is_running: bool
    ) -> list[Action]:
        """The next step towards the end of a task that is being stopped."""
        if stop.next_at > now:
            self._scheduler.wake(stop.next_at)
            return []
        if stop.step is StopStep.RAISED:
            stop.terminate(now)
            self._scheduler.wake(stop.next_at)
            task.state = check_task(task.state, DONE)
            self._scheduler.running -= 1
            if not is_running:
                return [AbandonTask(task)]
            self._scheduler.retire(worker.number, now)
            return [TerminateWorker(worker.number, task)]
        if stop.step is StopStep.TERMINATED and is_running:
            stop.kill()
            return [KillWorker(worker.number)]
        return []
