"""Batching: several short tasks for one worker at once, reclaimed if the worker is late with them.

Waking a process costs more than running a few tasks of a function that is
known to be short (`FunctionStats.is_short`), so a worker gets several of them at
once. If one takes longer than expected, those behind it are reclaimed.
"""

from __future__ import annotations

from collections.abc import Callable

from taskd.scheduler.actions import Action, ReclaimTasks
from taskd.scheduler.config import SchedulerConfig
from taskd.scheduler.states import BUSY
from taskd.scheduler.task import Task
from taskd.scheduler.workers import WorkerView

__all__ = [
    "BATCHED_LIMIT",
    "BATCH_SECONDS",
    "FRESH_SECONDS",
    "LATE_SECONDS",
    "MAX_TASKS_PER_WORKER",
    "SHORT_WORKERS",
    "Batching",
    "may_batch",
]

MAX_TASKS_PER_WORKER = 32
"""Tasks that one worker may have at once: shared by so many, the cost of waking it is negligible."""

BATCH_SECONDS = 0.0005
"""Seconds of estimated work above which a worker gets no more tasks."""

FRESH_SECONDS = 0.001
"""Seconds without progress after which a worker gets no more tasks: it may be
running one that takes long, and further ones would have to wait for it."""

SHORT_WORKERS = 4
"""Workers for each processor that may run batches at once. More could not run
at the same time, and would seem late while they wait for a processor."""

BATCHED_LIMIT = 1.0
"""Seconds: a task with a shorter time limit is never batched, so that its limit is kept exactly."""

LATE_SECONDS = 0.005
"""Seconds between two checks of a worker that runs a batch. A worker that runs the
same task at two checks is late, and the tasks that it has not begun are
reclaimed. This is ten times what a batch should take, and the detour to another
worker is still too short for a person to notice. (A worker that has begun no task
because it waits for a processor is not late: another worker would wait as well.)"""


def may_batch(task: Task) -> bool:
    """Return whether a task may share a worker with others of its kind."""
    return task.stats.is_short and (task.limit is None or task.limit >= BATCHED_LIMIT)


class Batching:
    """The workers that run batches and are not late.

    `wake` is called with the time of the next check.
    """

    def __init__(self, config: SchedulerConfig, wake: Callable[[float], None]) -> None:
        self.workers: dict[int, WorkerView] = {}
        self.worker_limit = SHORT_WORKERS * config.processors
        """Workers that may run batches at once."""
        self._open: WorkerView | None = None
        """The worker that was given a task last: it is filled before another one is used."""
        self._max_tasks = config.max_tasks
        self._wake = wake

    def add(self, worker: WorkerView, now: float) -> None:
        """Let a worker that was idle begin a batch."""
        self.workers[worker.number] = self._open = worker
        worker.progress_at = worker.checked_at = now
        self._wake(now + LATE_SECONDS)

    def discard(self, worker: WorkerView) -> None:
        """Add no more tasks to a worker's batch; does nothing if it runs no batch."""
        self.workers.pop(worker.number, None)
        if self._open is worker:
            self._open = None

    def with_room(self, now: float) -> WorkerView | None:
        """Return a worker whose batch can take one more task, None if another worker must begin one."""
        worker = self._open
        if worker is not None and self._has_room(worker, now):
            return worker
        if len(self.workers) < self.worker_limit:
            return None
        self._open = next((each for each in self.workers.values() if self._has_room(each, now)), None)
        return self._open

    def _has_room(self, worker: WorkerView, now: float) -> bool:
        return (
            worker.load < BATCH_SECONDS
            and now - worker.progress_at < FRESH_SECONDS
            and worker.state is BUSY
            and self.room_of(worker) > 0
        )

    def room_of(self, worker: WorkerView) -> int:
        """Return how many more tasks a worker may have, however short they are."""
        most = MAX_TASKS_PER_WORKER
        if self._max_tasks is not None:
            most = min(most, self._max_tasks - worker.done)
        return most - len(worker.tasks)

    def look_at(self, worker: WorkerView, now: float, begun: int) -> list[Action]:
        """Check a worker that has tasks; if it is late with a batch, reclaim what it has not begun.

        `begun` is the number of the task that the worker began last.
        """
        if worker.number not in self.workers:
            return []
        if now >= worker.checked_at + LATE_SECONDS:
            running = worker.tasks.get(begun)
            if running is not None and begun == worker.checked_task:
                running.stats.surprised()
                self.discard(worker)
                return self.reclaim(worker)
            worker.checked_task = begun
            worker.checked_at = now
        self._wake(worker.checked_at + LATE_SECONDS)
        return []

    def reclaim(self, worker: WorkerView) -> list[Action]:
        """Reclaim what a worker has not begun, unless that is nothing or has been reclaimed already."""
        if len(worker.tasks) < 2 or worker.reclaimed:
            return []
        self.discard(worker)
        worker.reclaimed = True
        return [ReclaimTasks(worker.number)]
