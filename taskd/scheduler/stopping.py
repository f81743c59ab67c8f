"""When to stop tasks that workers have: at their time limit, or when they are cancelled."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Literal

from taskd.scheduler.actions import AbandonTask, Action, InterruptTask, KillWorker, TerminateWorker
from taskd.scheduler.batching import Batching
from taskd.scheduler.states import DONE, StopStep, check_task
from taskd.scheduler.stops import Stop
from taskd.scheduler.task import Task
from taskd.scheduler.workers import Fleet, WorkerView

__all__ = ["Stopping"]


class Stopping:
    """Begins stops, and turns the decisions of each `Stop` into actions.

    `wake` is called with the time of the next check.
    """

    def __init__(self, fleet: Fleet, batching: Batching, wake: Callable[[float], None]) -> None:
        self._fleet = fleet
        self._batching = batching
        self._wake = wake

    def stop(
        self,
        worker: WorkerView,
        task: Task,
        reason: Literal["timeout", "cancelled"],
        now: float,
        grace: float = inf,
    ) -> list[Action]:
        """Begin to stop a worker's task, and reclaim those behind it.

        Its process is terminated after the grace of its function, or these seconds if they are fewer.
        A stop that has begun is hastened by that alone.
        """
        if task.stop is not None:
            task.stop.next_at = min(task.stop.next_at, now + grace)
            self._wake(task.stop.next_at)
            return []
        task.stop = Stop(reason, now, now + min(task.stats.grace, grace))
        self._wake(task.stop.next_at)
        return [InterruptTask(worker.number, task), *self._batching.reclaim(worker)]

    def look_at(self, worker: WorkerView, now: float, begun: int) -> list[Action]:
        """Continue the stops of a worker's tasks; stop the first task if it has exceeded its time limit.

        `begun` is the number of the task that the worker began last.
        """
        actions: list[Action] = []
        for task in worker.tasks.values():
            if task.stop is not None:
                actions += self._go_on(worker, task, task.stop, now, begun)
        first = worker.first
        if first is not None and first.limit is not None and first.stop is None:
            if first.number != begun:
                first.started = now  # the task has not begun, so its time has not either
            due = first.started + first.limit
            if due <= now:
                actions += self.stop(worker, first, "timeout", now)
            else:
                self._wake(due)
        return actions

    def _go_on(self, worker: WorkerView, task: Task, stop: Stop, now: float, begun: int) -> list[Action]:
        step = stop.advance(now, is_running=task.number == begun)
        self._wake(stop.next_at)
        if step is None:
            return []
        if step is StopStep.KILLED:
            return [KillWorker(worker.number)]
        task.state = check_task(task.state, DONE)
        if step is StopStep.ABANDONED:
            return [AbandonTask(task)]
        self._fleet.retire(worker.number, now)
        return [TerminateWorker(worker.number, task)]
