"""Which waiting task gets which worker, and when a running one has to end.

A task waits here, never behind another one in a worker: it is bound to a
worker when that worker is idle (late binding). The exception are functions
that are known to be short (`FunctionStats.is_short`): a worker may be given
several of their tasks at once, since waking another process costs more than
running them. When the first of them takes longer than expected, the others
are reclaimed, and given to others.

Idle workers are taken last in, first out, so that caches stay warm and the
surplus can be seen and ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from math import inf

from taskd.errors import Busy, StateError
from taskd.scheduler.actions import Action, ExpireTask
from taskd.scheduler.config import SchedulerConfig
from taskd.scheduler.queue import Deadlines, TaskQueue
from taskd.scheduler.states import (
    BUSY,
    DONE,
    GIVEN,
    GONE,
    IDLE,
    LEAVING,
    STANDBY,
    STARTING,
    THROTTLED,
    WAITING,
    check_task,
)
from taskd.scheduler.stats import FunctionStats
from taskd.scheduler.task import Task
from taskd.scheduler.watch import LATE_SECONDS, Watch
from taskd.scheduler.workers import MAX_TASKS_PER_WORKER, OVERHEAD, WorkerView

__all__ = ["Scheduler"]

RETRY_AFTER = 1.0
"""Seconds that a refused caller is told to wait, where nothing is known of how fast the queue moves."""

MAX_RETRY_AFTER = 60.0
"""Seconds: longer than this no estimate is worth trusting."""

MAX_LOSSES = 9
"""Workers that may end before they have begun a task that they were given. With one more
it is likely that the task ends them (its arguments are too large for them, say)."""

BATCHED_LIMIT = 1.0
"""Seconds: a task with a shorter time limit is never batched, so that its limit is kept exactly."""

SHORT_WORKERS = 4
"""Workers for each processor that may run batches at once. More could not run
at the same time, and would be taken for late while they wait for a processor."""


class Scheduler:
    """The queue, the workers, and what each function costs.

    Workers are named by integers that the pool gives, and never gives twice.
    After any call, `wake_at` is when `tick` is due, and `departures` may tell
    of workers that are to end.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.workers: dict[int, WorkerView] = {}
        self.functions: dict[str, FunctionStats] = {}
        self.generation = 1
        self.running = 0
        """Tasks that workers have, and that are not answered."""
        self.wake_at = inf
        self._queue: TaskQueue = TaskQueue()
        self._deadlines: Deadlines = Deadlines(lambda task: task.state in (WAITING, THROTTLED))
        self._throttled: deque[Task] = deque()
        self._idle: list[int] = []
        self._short: dict[int, WorkerView] = {}
        self._open: WorkerView | None = None
        self._incoming: set[int] = set()
        self._leaving = 0
        self._departures: list[int] = []
        self._watch: Watch = Watch(self)

    # --- the queue ---

    @property
    def waiting(self) -> int:
        """How many tasks wait for a worker, or for their caller."""
        return len(self._queue) + len(self._throttled)

    @property
    def is_empty(self) -> bool:
        """Whether no task waits and none runs."""
        return not self.waiting and not self.running

    @property
    def oldest(self) -> Task | None:
        """The task that waits for longest."""
        return min(self.all_waiting, key=lambda task: task.number, default=None)

    def submit(self, task: Task) -> None:
        """Let a task wait until a worker is free. Raises `Busy` if the queue is full.

        The queue holds what idle workers cannot take at once: as long as one
        is idle it is not full. Tasks that are held do not count: a caller that
        reads nothing is not to make the server busy for the others.
        """
        if len(self._queue) >= self.config.max_queue + len(self._idle):
            raise Busy(
                f"the queue is full: {self.config.max_queue} tasks are waiting",
                retry_after=self._estimated_wait(),
            )
        task.state = check_task(task.state, WAITING)
        self._queue.push(task)
        if task.deadline is not None:
            self._deadlines.add(task.deadline, task)
            self.wake(task.deadline)

    def _estimated_wait(self) -> float:
        """Seconds until about a tenth of the queue will have been worked off."""
        finished = sum(stats.done + stats.failed for stats in self.functions.values())
        if not finished or not self.workers:
            return RETRY_AFTER
        mean = sum(stats.seconds for stats in self.functions.values()) / finished
        estimate = mean * self.waiting / len(self.workers) / 10
        return round(min(max(estimate, 0.1), MAX_RETRY_AFTER), 1)

    def release(self) -> None:
        """Let the tasks that were held wait again, ahead of the others, as they came."""
        while self._throttled:
            task = self._throttled.pop()
            task.state = check_task(task.state, WAITING)
            self._queue.push_back(task)

    def drop_throttled(self) -> list[Task]:
        """Take the tasks that are held out of the queue; they will not be run."""
        dropped = list(self._throttled)
        self._throttled.clear()
        for task in dropped:
            task.state = check_task(task.state, DONE)
        return dropped

    def drop_waiting(self, unless: Collection[str] = ()) -> list[Task]:
        """Take the waiting tasks out of the queue; they will not be run.

        Those of the functions named in `unless` stay.
        """
        self.release()
        dropped: list[Task] = []
        for task in self._queue.clear():
            if task.stats.name in unless:
                self._queue.push(task)
            else:
                task.state = check_task(task.state, DONE)
                dropped.append(task)
        return dropped

    def find(self, number: int) -> Task | None:
        """The task of this number, where it has not been answered yet."""
        for worker in self.workers.values():
            task = worker.tasks.get(number)
            if task is not None and task.state is GIVEN:
                return task
        return next((task for task in self.all_waiting if task.number == number), None)

    @property
    def all_waiting(self) -> list[Task]:
        """Every task that waits."""
        return [*self._queue, *self._throttled]

    # --- tasks and workers ---

    def assign(self, now: float) -> list[tuple[int, list[Task]]]:
        """Bind waiting tasks to workers; each worker's are to be sent to it in this order.

        A task that is held is put aside, until `release`.
        """
        given: dict[int, list[Task]] = {}
        queue = self._queue
        while (task := queue.first()) is not None:
            if task.is_throttled:
                queue.take(task)
                task.state = check_task(task.state, THROTTLED)
                self._throttled.append(task)
                continue
            worker = self._worker_for(task, now)
            if worker is None:
                break
            queue.take(task)
            self._give(worker, task, now)
            if worker.number in given:
                given[worker.number].append(task)
            else:
                given[worker.number] = [task]
        return list(given.items())

    def _worker_for(self, task: Task, now: float) -> WorkerView | None:
        """The worker that is to run the task now, None where it has to wait."""
        max_tasks = self.config.max_tasks
        is_short = self._may_batch(task)
        if is_short:
            if self._open is not None and self._open.has_room(max_tasks, now):
                return self._open
            if len(self._short) >= SHORT_WORKERS * self.config.processors:
                self._open = next(
                    (view for view in self._short.values() if view.has_room(max_tasks, now)), None
                )
                return self._open
        if not self._idle:
            return None
        worker = self.workers[self._idle.pop()]
        worker.step(BUSY, now)
        if is_short:
            self._short[worker.number] = self._open = worker
        return worker

    @staticmethod
    def _may_batch(task: Task) -> bool:
        return task.stats.is_short and (task.limit is None or task.limit >= BATCHED_LIMIT)

    def _give(self, worker: WorkerView, task: Task, now: float) -> None:
        task.state = check_task(task.state, GIVEN)
        task.worker = worker.number
        task.attempts += 1
        task.started = now
        worker.tasks[task.number] = task
        worker.load += task.stats.estimate + OVERHEAD
        self.running += 1
        if task.limit is not None:
            self.wake(now + task.limit)
        if len(worker.tasks) == 1:
            worker.heard = worker.checked = now
            if worker.number in self._short:
                self.wake(now + LATE_SECONDS)

    def finished(
        self,
        number: int,
        task_number: int,
        seconds: float | None,
        now: float,
        *,
        failed: bool,
        printed: bool = False,
    ) -> Task | None:
        """A worker's task has ended after `seconds`; None where it had been answered before.

        `seconds` is None for a task whose arguments did not fit: it says nothing of its function.
        """
        worker = self._view(number)
        task = self._take_from(worker, task_number)
        if seconds is not None:
            task.stats.add(seconds, failed=failed, printed=printed)
        return self._ended(worker, task, now)

    def stopped(self, number: int, task_number: int, now: float) -> Task | None:
        """A task has ended because it was interrupted; None where it had been answered before."""
        worker = self._view(number)
        task = self._take_from(worker, task_number)
        if task.stop is None:
            raise StateError(f"task {task.number} was stopped, and nobody had asked for that")
        return self._ended(worker, task, now)

    def returned(self, number: int, task_numbers: list[int], now: float) -> list[Task]:
        """A worker gives back tasks that it has not begun; those of them that are not to be run any more."""
        worker = self._view(number)
        tasks = [self._take_from(worker, task_number) for task_number in task_numbers]
        cancelled = [task for task in tasks if task.state is GIVEN and task.stop is not None]
        for task in cancelled:
            task.state = check_task(task.state, DONE)
            self.running -= 1
        for task in reversed(tasks):
            if task.state is GIVEN:
                self._requeue(task)
        first = worker.first
        if first is None:
            self._free(worker, now)
        elif first.limit is not None:
            self.wake(first.started + first.limit)
        return cancelled

    @staticmethod
    def _take_from(worker: WorkerView, task_number: int) -> Task:
        try:
            return worker.tasks.pop(task_number)
        except KeyError:
            raise StateError(
                f"worker {worker.number} spoke of task {task_number}, which it does not have"
            ) from None

    def _ended(self, worker: WorkerView, task: Task, now: float) -> Task | None:
        worker.done += 1
        first = worker.first
        if first is not None:
            worker.load -= task.stats.estimate + OVERHEAD
            first.started = worker.heard = now
            if first.limit is not None:
                self.wake(now + first.limit)
        else:
            self._free(worker, now)
        if task.state is DONE:
            return None
        task.state = check_task(task.state, DONE)
        self.running -= 1
        return task

    def _requeue(self, task: Task) -> None:
        task.state = check_task(task.state, WAITING)
        task.worker = 0
        self.running -= 1
        self._queue.push_back(task)
        if task.deadline is not None:  # it may have passed meanwhile
            self._deadlines.add(task.deadline, task)
            self.wake(task.deadline)

    def _free(self, worker: WorkerView, now: float) -> None:
        """A worker has no task any more."""
        worker.load = 0.0
        worker.reclaimed = False
        self.not_short(worker)
        if worker.state is LEAVING:
            self._departures.append(worker.number)
        elif self.config.max_tasks is not None and worker.done >= self.config.max_tasks:
            self._leave(worker, now)
        else:
            worker.step(IDLE, now)
            self._idle.append(worker.number)
            self._wake_for_surplus(now)

    def runs_short(self, worker: WorkerView) -> bool:
        """Whether it runs tasks that are known to be short, and is not late with them."""
        return worker.number in self._short

    def not_short(self, worker: WorkerView) -> None:
        """It does not run short tasks (any more), or is late with them."""
        self._short.pop(worker.number, None)
        if self._open is worker:
            self._open = None

    # --- workers come and go ---

    def worker_started(self, number: int, now: float, generation: int = 1) -> None:
        """A worker is being started."""
        if number in self.workers:
            raise StateError(f"worker {number} is there already")
        self.workers[number] = WorkerView(number, generation, now)
        if generation > self.generation:
            self._incoming.add(number)

    def worker_ready(self, number: int, now: float) -> None:
        """A worker can take its first task, or could if its generation were in use."""
        worker = self._view(number)
        if worker.state is LEAVING:
            return
        if worker.state is not STARTING:
            raise StateError(f"worker {number} is ready for the second time")
        if number in self._incoming:
            worker.step(STANDBY, now)
        else:
            worker.step(IDLE, now)
            self._idle.append(number)
            self._wake_for_surplus(now)

    def worker_lost(self, number: int, begun: int, now: float) -> list[Task]:
        """A worker is gone; the tasks that are lost with it.

        `begun` is the number of the task that it began last, be it over or not
        (0 for none). What it had not begun waits again, ahead of the others.
        """
        worker = self._view(number)
        if worker.state is IDLE:
            self._idle.remove(number)
        elif worker.state is LEAVING:
            self._leaving -= 1
            if number in self._departures:
                self._departures.remove(number)
        worker.step(GONE, now)
        self.not_short(worker)
        self._incoming.discard(number)
        del self.workers[number]
        tasks = list(worker.tasks.values())
        was_begun = 0
        if begun in worker.tasks:
            was_begun = 1 + next(place for place, task in enumerate(tasks) if task.number == begun)
        lost = [task for task in tasks[:was_begun] if task.state is GIVEN]
        for task in lost:
            task.state = check_task(task.state, DONE)
            task.stats.lost += 1
            task.stats.forget()
            self.running -= 1
        for task in reversed(tasks[was_begun:]):
            if task.state is GIVEN and task.stop is None and task.losses < MAX_LOSSES:
                task.losses += 1
                self._requeue(task)
            elif task.state is GIVEN:  # it was to be stopped; or it may be what ends them
                task.state = check_task(task.state, DONE)
                self.running -= 1
                lost.append(task)
        return lost

    def retire(self, number: int, now: float) -> bool:
        """Let a worker leave after the tasks that it has; False where it is leaving already."""
        worker = self._view(number)
        if worker.state is LEAVING:
            return False
        self._leave(worker, now)
        return True

    def _leave(self, worker: WorkerView, now: float) -> None:
        if worker.state is IDLE:
            self._idle.remove(worker.number)
        if not worker.tasks:
            self._departures.append(worker.number)
        worker.step(LEAVING, now)
        self._incoming.discard(worker.number)
        self._leaving += 1

    @property
    def is_due(self) -> bool:
        """Whether there is anything to `assign`, or anybody in `departures`."""
        return bool(self._queue) or bool(self._departures)

    def departures(self) -> list[int]:
        """The workers that are to end now; each is told once."""
        departures = self._departures
        if departures:
            self._departures = []
        return departures

    @property
    def active(self) -> int:
        """How many workers are there, or are being started, and will not leave."""
        return len(self.workers) - self._leaving - len(self._incoming)

    @property
    def missing(self) -> int:
        """How many workers to start: up to the minimum, and up to the maximum where tasks wait."""
        config, active = self.config, self.active
        wanted = config.min_workers
        if self._queue and not self._idle and active < config.max_workers:
            first = self._queue.first()
            tasks = len(self._queue)
            if first is not None and self._may_batch(first):
                tasks = -(-tasks // MAX_TASKS_PER_WORKER)
            starting = sum(view.state is STARTING for view in self.workers.values())
            starting -= sum(self.workers[number].state is STARTING for number in self._incoming)
            wanted = max(wanted, active - starting + tasks)
        return max(0, min(wanted, config.max_workers) - active)

    def _wake_for_surplus(self, now: float) -> None:
        if self.active > self.config.min_workers:
            self.wake(now + self.config.idle_seconds)

    # --- new code ---

    @property
    def standing_by(self) -> int:
        """How many workers of the next generation are ready."""
        return sum(self.workers[number].state is STANDBY for number in self._incoming)

    def switch(self, generation: int, now: float) -> None:
        """Use the workers of `generation` from now on; the older ones leave after their tasks."""
        self.generation = generation
        self._incoming.clear()
        for worker in self.workers.values():
            if worker.generation < generation and worker.state is not LEAVING:
                worker.dismissed = True
                self._leave(worker, now)
            elif worker.generation == generation and worker.state is STANDBY:
                worker.step(IDLE, now)
                self._idle.append(worker.number)
        if self._idle:
            self._wake_for_surplus(now)

    # --- what is not wanted any more, and what is due ---

    def cancel(self, task: Task, now: float) -> list[Action]:
        """Somebody does not want this task any more; it must not have been answered.

        One that waits is out of the queue when this returns, and is to be
        answered by whoever asked. One that a worker has is stopped.
        """
        if task.state is GIVEN:
            return [] if task.stop is not None else self._watch.stop(task, "cancelled", now)
        self._take_out(task)
        return []

    def _take_out(self, task: Task) -> None:
        was_throttled = task.state is THROTTLED
        task.state = check_task(task.state, DONE)
        if was_throttled:
            self._throttled.remove(task)
        else:
            self._queue.remove()

    def tick(self, now: float, begun: Callable[[int], int]) -> list[Action]:
        """What has become due. `begun` tells which task a worker began last."""
        actions: list[Action] = []
        for task in self._deadlines.expired(now):
            self._take_out(task)
            actions.append(ExpireTask(task))
        self.wake_at = inf
        for worker in self.workers.values():
            if worker.tasks:
                actions += self._watch.look_at(worker, now, begun)
        self._retire_surplus(now)
        if self._deadlines.next is not None:
            self.wake(self._deadlines.next)
        return actions

    def _retire_surplus(self, now: float) -> None:
        """Let workers above the minimum leave that have been idle for too long."""
        surplus = self.active - self.config.min_workers
        for number in self._idle[: max(surplus, 0)]:
            worker = self.workers[number]
            due = worker.since + self.config.idle_seconds
            if due > now:
                self.wake(due)
                return
            worker.dismissed = True
            self._leave(worker, now)

    # --- inside ---

    def wake(self, when: float) -> None:
        """Have `tick` called at this time, or earlier."""
        if when < self.wake_at:
            self.wake_at = when

    def _view(self, number: int) -> WorkerView:
        try:
            return self.workers[number]
        except KeyError:
            raise StateError(f"there is no worker {number}") from None
