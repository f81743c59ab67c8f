"""Batches: which workers run short tasks, may be given several at once, and are late with them.

Waking another process costs more than running a few tasks of a function that is
known to be short (`FunctionStats.is_short`), so that a worker gets several of
them at once. If the first takes longer than expected, the others are reclaimed.
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
"""Tasks that one worker may have at once: by then waking it costs each of them next to nothing."""

BATCH_SECONDS = 0.0005
"""Seconds of work, by the estimates, above which a worker gets no more tasks at once."""

FRESH_SECONDS = 0.001
"""Seconds without progress after which a worker gets no more tasks: it may
have come upon one that takes long, and those that it has already wait for that."""

SHORT_WORKERS = 4
"""Workers for each processor that may run batches at once. More could not run
at the same time, and would be taken for late while they wait for a processor."""

BATCHED_LIMIT = 1.0
"""Seconds: a task with a shorter time limit is never batched, so that its limit is kept exactly."""

LATE_SECONDS = 0.005
"""Seconds between two looks at a worker that runs a batch. One that runs the
same task at two looks is late, and the tasks that it has not begun are
reclaimed: ten times what a batch should take, and with the way to another worker
still below what a person notices. (One that waits for a processor before it
has begun any is not late: another one would have to wait for it as well.)"""


def may_batch(task: Task) -> bool:
    """Return whether a task may share a worker with others of its kind."""
    return task.stats.is_short and (task.limit is None or task.limit >= BATCHED_LIMIT)


class Batching:
    """The workers that run batches, and are not late with them.

    `wake` is called with the time when the next look at a worker is due.
    """

    def __init__(self, config: SchedulerConfig, wake: Callable[[float], None]) -> None:
        self.workers: dict[int, WorkerView] = {}
        self.worker_limit = SHORT_WORKERS * config.processors
        """Workers that may run batches at once."""
        self._open: WorkerView | None = None
        """The worker that was given a task last: it is filled up before another is."""
        self._max_tasks = config.max_tasks
        self._wake = wake

    def add(self, worker: WorkerView, now: float) -> None:
        """Let a worker that was idle run a batch."""
        self.workers[worker.number] = self._open = worker
        worker.progress_at = worker.checked_at = now
        self._wake(now + LATE_SECONDS)

    def discard(self, worker: WorkerView) -> None:
        """Give a worker no more tasks besides those that it has; does nothing if it runs no batch."""
        self.workers.pop(worker.number, None)
        if self._open is worker:
            self._open = None

    def with_room(self, now: float) -> WorkerView | None:
        """Return a worker that can take one more task, None if another worker has to begin a batch."""
        worker = self._open
        if worker is not None and self._has_room(worker, now):
            return worker
        if len(self.workers) < self.worker_limit:
            return None
        self._open = next((each for each in self.workers.values() if self._has_room(each, now)), None)
        return self._open

    def _has_room(self, worker: WorkerView, now: float) -> bool:
        tasks = len(worker.tasks)
        return (
            tasks < MAX_TASKS_PER_WORKER
            and worker.load < BATCH_SECONDS
            and now - worker.progress_at < FRESH_SECONDS
            and worker.state is BUSY
            and (self._max_tasks is None or worker.done + tasks < self._max_tasks)
        )

    def look_at(self, worker: WorkerView, now: float, begun: int) -> list[Action]:
        """Look at a worker that has tasks: if it is late with a batch, reclaim those that it has not begun.

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
        """Return the action that takes back what a worker has not begun, if anything and not asked yet."""
        if len(worker.tasks) < 2 or worker.reclaimed:
            return []
        self.discard(worker)
        worker.reclaimed = True
        return [ReclaimTasks(worker.number)]
