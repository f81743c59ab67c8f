"""The scheduler itself: accepts tasks, binds them to workers, and records how each attempt ends.

A task waits in the queue, never behind another one in a worker: it is bound to a
worker only when that worker is idle (late binding). The exception is tasks that
are known to be short (`taskd.scheduler.batching`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from taskd.errors import Busy, ImpossibleMessage
from taskd.scheduler.actions import Action, ExpireTask
from taskd.scheduler.batching import BATCH_SECONDS, MAX_TASKS_PER_WORKER, Batching, may_batch
from taskd.scheduler.config import SchedulerConfig
from taskd.scheduler.deadlines import Deadlines
from taskd.scheduler.queue import TaskQueue
from taskd.scheduler.states import DONE, GIVEN, check_task
from taskd.scheduler.stats import FunctionStats
from taskd.scheduler.stopping import Stopping
from taskd.scheduler.task import Task
from taskd.scheduler.waiting_time import retry_after
from taskd.scheduler.workers import OVERHEAD, Fleet, WorkerView

__all__ = ["MAX_LOSSES", "Scheduler"]

RETRY_SECONDS = 0.1
"""Seconds for which an estimate for refused callers is used again: it looks at every worker."""

MAX_LOSSES = 9
"""Workers that may end after they were given a task and before they have begun it. If one more
does, the task itself probably ends them (its arguments are too large, say)."""


class Scheduler:
    """The queue, the fleet of workers and the functions' statistics, and the decisions over them.

    After any call, here or to one of the parts, `wake_at` is the time at which
    `tick` is due (infinity for never), and `Fleet.departures` may return workers
    that must end.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.wake_at = inf
        self.functions: dict[str, FunctionStats] = {}
        self.queue = TaskQueue(shared=config.shared_priorities)
        self._max_queue = config.max_queue
        self.fleet = Fleet(config, self._wake)
        self.batching = Batching(config, self._wake)
        self._workers = self.fleet.workers
        self._stopping = Stopping(self.fleet, self.batching, self._wake)
        self._deadlines = Deadlines()
        self._retry_after = (-inf, 0.0)  # when it was estimated, and the estimate

    # --- tasks come and go ---

    def submit(self, task: Task) -> None:
        """Queue a task until a worker is free. Raises `Busy` if the queue is full and its share used up.

        Idle workers make room: each can take a task at once. Throttled tasks do
        not count: a submitter that reads nothing must not make the server busy
        for the others. A party, or a lane of it, that holds less than its share
        gets in although others have filled the queue; so with k parties that
        wait, the queue may hold up to 1 + ln k times as many tasks, and each
        party with n lanes up to 1 + ln n times its share. The limits of an owner come before
        that. Raises `InvalidParams` if they permit no such task at all.
        """
        queue, max_queue = self.queue, self._max_queue
        if task.quota is not None:
            task.quota.check(task, max_queue)
        if (
            queue.count >= max_queue
            and queue.count >= max_queue + len(self.fleet.idle)
            and not queue.has_share_left(task.lane, max_queue)
        ):
            raise Busy(
                f"the queue is full: {queue.count} tasks are waiting, and of this caller as many as may",
                retry_after=self._time_to_retry(task.received),
            )
        self.enqueue(task)

    def enqueue(self, task: Task) -> None:
        """Queue a task, however many wait."""
        self.queue.push(task)
        if task.deadline is not None:
            self._deadlines.add(task.deadline, task)
            self._wake(task.deadline)

    def _time_to_retry(self, now: float) -> float:
        at, estimate = self._retry_after
        if now >= at + RETRY_SECONDS:
            estimate = retry_after(self.functions.values(), self._workers.values(), now)
            self._retry_after = now, estimate
        return estimate

    def cancel(self, task: Task, now: float, grace: float = inf) -> list[Action]:
        """Take a task in flight out of the queue, or stop it if a worker has it.

        A task that was waiting is done when this returns, and the caller must give it its outcome.
        `grace` is how many seconds it has at most until its process is terminated.
        """
        if task.state is not GIVEN:
            self.queue.remove(task)
            return []
        return self._stopping.stop(self.fleet.view(task.worker), task, "cancelled", now, grace)

    @property
    def is_empty(self) -> bool:
        """Whether no task waits and none runs."""
        return not self.queue.waiting and not self.fleet.running

    # --- tasks and workers ---

    def assign(self, now: float) -> list[tuple[int, list[Task]]]:
        """Bind waiting tasks to workers; return these workers' numbers, each with its tasks in order.

        Newcomers are bound first, in the order of their arrival, while each has
        a worker that can take it at once: short ones of which no lane has more
        than a turn, or others if there are idle workers for all of them.

        The lane of a task whose submitter is full is set aside until
        `TaskQueue.resume`. While as many workers as may run batches, and are
        full, short tasks wait for them, and idle workers get other tasks.
        """
        given: dict[int, list[Task]] = {}
        queue, batching = self.queue, self.batching
        if queue.newcomers:
            self._assign_newcomers(now, given)
            queue.line_up()
        task = queue.first()
        worker: WorkerView | None = None
        room = 0  # for short tasks, in the batch of the worker that was given the last one
        while task is not None:
            if task.subscriber.is_full and not (task := self._needed(task)):
                task = queue.first()
                continue
            if task.quota is not None and task.quota.is_full:
                queue.set_aside(task, task.quota)
                task = queue.first()
                continue
            is_short = may_batch(task)
            if not is_short or room <= 0 or worker is None or worker.load >= BATCH_SECONDS:
                worker = batching.with_room(now) if is_short and batching.workers else None
                worker = worker or self._idle_worker(now, is_short=is_short)
                if worker is None and is_short and self.fleet.idle and self._long_waiting:
                    task, is_short = queue.find_head(_wants_worker_of_its_own), False
                    worker = self.fleet.take_idle(now) if task is not None else None
                if worker is None or task is None:
                    break
                room = batching.room_of(worker) if is_short else 0
                tasks = given.setdefault(worker.number, [])
            room -= 1
            following = queue.take(task, is_short=is_short)
            worker.give(task, now)
            if task.limit is not None:
                self._wake(now + task.limit)
            tasks.append(task)
            task = following
        return list(given.items())

    def _assign_newcomers(self, now: float, given: dict[int, list[Task]]) -> None:
        queue, batching = self.queue, self.batching
        newcomers = queue.newcomers
        worker: WorkerView | None = None
        room = 0
        while newcomers:
            task = newcomers[0]
            is_short = may_batch(task)
            if task.subscriber.is_full or (not is_short and len(newcomers) > len(self.fleet.idle)):
                return
            if not is_short or room <= 0 or worker is None or worker.load >= BATCH_SECONDS:
                worker = batching.with_room(now) if is_short and batching.workers else None
                worker = worker or self._idle_worker(now, is_short=is_short)
                if worker is None:
                    return
                room = batching.room_of(worker) if is_short else 0
                tasks = given.setdefault(worker.number, [])
            room -= 1
            queue.take_newcomer()
            worker.give(task, now)
            if task.limit is not None:
                self._wake(now + task.limit)
            tasks.append(task)

    def _idle_worker(self, now: float, *, is_short: bool) -> WorkerView | None:
        """Return an idle worker, None if there is none, or if no more may begin with a batch."""
        batching = self.batching
        if not self.fleet.idle or (is_short and len(batching.workers) >= batching.worker_limit):
            return None
        worker = self.fleet.take_idle(now)
        if is_short:
            batching.add(worker, now)
        return worker

    def _needed(self, task: Task) -> Task | None:
        """Return the task of a full submitter that must start all the same; if none, set its lane aside."""
        if task.subscriber.needs(task.key):
            return task
        oldest = self.queue.find_oldest(task.lane)
        if oldest.subscriber.needs(oldest.key):
            return oldest
        self.queue.set_aside(task)
        return None

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
        """Record that a worker has ended a task; return the task, or None if it had its outcome before.

        `seconds` is the run time, None if the arguments did not fit: such a
        task says nothing about its function.
        """
        worker = self._workers.get(number) or self.fleet.view(number)  # which raises, if there is none
        task = worker.take_first(task_number)
        if seconds is not None:
            task.stats.add(seconds, failed=failed, printed=printed)
        else:
            task.stats.invalid += 1
        return self._ended(worker, task, now)

    def stopped(self, number: int, task_number: int, now: float) -> Task | None:
        """Record that a worker's task has ended because it was interrupted; returns as `finished` does."""
        worker = self.fleet.view(number)
        if worker.get(task_number).stop is None:
            raise ImpossibleMessage(f"the stop of task {task_number}, for which nothing had asked")
        task = worker.take_first(task_number)
        return self._ended(worker, task, now)

    def returned(self, number: int, task_numbers: list[int], now: float) -> list[Task]:
        """Queue again the tasks that a worker has returned unbegun.

        Those that were being stopped are done instead, and are returned here.
        """
        worker = self.fleet.view(number)
        tasks = [worker.get(task_number) for task_number in task_numbers]
        if not tasks or len(set(task_numbers)) < len(tasks):
            raise ImpossibleMessage(f"tasks {task_numbers}, returned")
        for task in tasks:
            del worker.tasks[task.number]
            self._left_worker(task)
        stopped = [task for task in tasks if task.state is GIVEN and task.stop is not None]
        for task in stopped:
            task.state = check_task(task.state, DONE)
        for task in reversed(tasks):
            if task.state is GIVEN:
                self._requeue(task)
        first = worker.first
        if first is None:
            self.batching.discard(worker)
            self.fleet.free(worker, now)
        elif first.limit is not None:
            self._wake(first.started + first.limit)
        return stopped

    def worker_exited(self, number: int, begun: int, now: float) -> list[Task]:
        """Forget a worker whose process has ended; return the tasks that are lost with it, now done.

        `begun` is the number of the task that the worker began last, whether
        that had ended or not (0 if there was none). Tasks that it had not begun
        wait again, ahead of the others.
        """
        worker = self.fleet.remove(number, now)
        self.batching.discard(worker)
        begun_tasks, unbegun = worker.split(begun)
        for task in (*begun_tasks, *unbegun):
            self._left_worker(task)
        lost = [task for task in begun_tasks if task.state is GIVEN]
        for task in lost:
            task.state = check_task(task.state, DONE)
            task.stats.forget()
        for task in reversed(unbegun):
            if task.state is GIVEN and task.stop is None and task.losses < MAX_LOSSES:
                task.losses += 1
                self._requeue(task)
            elif task.state is GIVEN:  # it was being stopped, or is suspected of ending its workers
                task.state = check_task(task.state, DONE)
                lost.append(task)
        return lost

    def _ended(self, worker: WorkerView, task: Task, now: float) -> Task | None:
        worker.done += 1
        if task.quota is not None:
            self._left_worker(task)
        if worker.tasks:
            first = next(iter(worker.tasks.values()))
            worker.load -= task.stats.estimate + OVERHEAD
            first.started = worker.progress_at = now
            if first.limit is not None:
                self._wake(now + first.limit)
        else:
            self.batching.discard(worker)
            self.fleet.free(worker, now)
        if task.state is DONE:
            return None
        task.state = DONE if task.state is GIVEN else check_task(task.state, DONE)
        return task

    def _left_worker(self, task: Task) -> None:
        """Let the owner of a task that no worker has any more start another one, if it has limits."""
        if task.quota is not None:
            task.quota.running -= 1
            self.queue.resume_some(task.quota)

    def _requeue(self, task: Task) -> None:
        task.worker = 0
        self.queue.push_back(task)
        if task.deadline is not None:  # it may have passed meanwhile
            self._deadlines.add(task.deadline, task)
            self._wake(task.deadline)

    # --- what is due ---

    @property
    def missing(self) -> int:
        """The number of workers to start: up to the minimum, and up to the maximum while tasks wait.

        Short tasks want as many workers as take them in batches, and only as
        many as may run batches.
        """
        count = self.queue.count
        if not count or self.fleet.idle:
            return self.fleet.to_start(0)
        long = self._long_waiting
        batches = -(-(count - long) // MAX_TASKS_PER_WORKER) if count > long else 0
        batches = min(batches, max(self.batching.worker_limit - len(self.batching.workers), 0))
        return self.fleet.to_start(min(long, count) + batches)

    @property
    def _long_waiting(self) -> int:
        """The number of waiting tasks of functions that are not known to be short.

        Those of lanes that are set aside are included: to count them apart, each
        would have to be looked at whenever a lane is set aside.
        """
        return sum(stats.waiting for stats in self.functions.values() if not stats.is_short)

    @property
    def is_due(self) -> bool:
        """Whether there is anything to `assign`, or any worker in `Fleet.departing`."""
        return self.queue.count > 0 or bool(self.fleet.departing)

    def _wake(self, when: float) -> None:
        if when < self.wake_at:
            self.wake_at = when

    def tick(self, now: float, begun: Callable[[int], int]) -> list[Action]:
        """Return the actions that are due; `begun` returns the number of the task a worker began last."""
        actions: list[Action] = []
        for task in self._deadlines.expired(now):
            self.queue.remove(task)
            actions.append(ExpireTask(task))
        self.wake_at = self._deadlines.next_at
        for worker in self._workers.values():
            if worker.tasks:
                latest = begun(worker.number)
                actions += self.batching.look_at(worker, now, latest)
                actions += self._stopping.look_at(worker, now, latest)
        self.fleet.retire_idle(now)
        return actions


def _wants_worker_of_its_own(task: Task) -> bool:
    if may_batch(task) or task.subscriber.is_full:
        return False
    return task.quota is None or not task.quota.is_full
