"""Which waiting job gets which worker, and when a running one has to end.

A job waits here, never behind another one in a worker: it is bound to a
worker when that worker is idle (late binding). The exception are functions
that are known to be short (`FunctionStats.is_short`): a worker may be given
several of their jobs at once, since waking another process costs more than
running them. When the first of them takes longer than expected, the others
are called back, and given to others.

Idle workers are taken last in, first out, so that caches stay warm and the
surplus can be seen and ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from math import inf
from typing import Generic

from taskd.errors import Busy, StateError
from taskd.scheduler.actions import Action, Expire
from taskd.scheduler.config import SchedulerConfig
from taskd.scheduler.queue import Deadlines, JobQueue
from taskd.scheduler.states import (
    BUSY,
    DONE,
    GIVEN,
    GONE,
    HELD,
    IDLE,
    LEAVING,
    STANDBY,
    STARTING,
    WAITING,
    check_job,
)
from taskd.scheduler.stats import FunctionStats
from taskd.scheduler.stops import CHECK_SECONDS, Watch
from taskd.scheduler.workers import MAX_BATCH, OVERHEAD, Job, WorkerView

__all__ = ["Scheduler"]

RETRY_AFTER = 1.0
"""Seconds that a refused caller is told to wait, where nothing is known of how fast the queue moves."""

MAX_RETRY_AFTER = 60.0
"""Seconds: longer than this no estimate is worth trusting."""

MAX_LOSSES = 9
"""Workers that may end before they have begun a job that they were given. With one more
it is likely that the job ends them (its arguments are too large for them, say)."""

BATCHED_LIMIT = 1.0
"""Seconds: a job with a shorter time limit is never batched, so that its limit is kept exactly."""

SHORT_WORKERS = 4
"""Workers for each processor that may run batches at once. More could not run
at the same time, and would be taken for late while they wait for a processor."""


class Scheduler(Generic[Job]):
    """The queue, the workers, and what each function costs.

    Workers are named by integers that the pool gives, and never gives twice.
    After any call, `wake_at` is when `tick` is due, and `departures` may tell
    of workers that are to end.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.workers: dict[int, WorkerView[Job]] = {}
        self.functions: dict[str, FunctionStats] = {}
        self.generation = 1
        self.running = 0
        """Jobs that workers have, and that are not answered."""
        self.wake_at = inf
        self._queue: JobQueue[Job] = JobQueue()
        self._deadlines: Deadlines[Job] = Deadlines(lambda job: job.state in (WAITING, HELD))
        self._held: deque[Job] = deque()
        self._idle: list[int] = []
        self._short: dict[int, WorkerView[Job]] = {}
        self._open: WorkerView[Job] | None = None
        self._incoming: set[int] = set()
        self._leaving = 0
        self._departures: list[int] = []
        self._watch: Watch[Job] = Watch(self)

    # --- the queue ---

    @property
    def waiting(self) -> int:
        """How many jobs wait for a worker, or for their caller."""
        return len(self._queue) + len(self._held)

    @property
    def is_empty(self) -> bool:
        """Whether no job waits and none runs."""
        return not self.waiting and not self.running

    @property
    def oldest(self) -> Job | None:
        """The job that waits for longest."""
        return min(self.all_waiting, key=lambda job: job.number, default=None)

    def submit(self, job: Job, deadline: float | None = None) -> None:
        """Let a job wait, and be started before `deadline`. Raises `Busy` where the queue is full.

        The queue holds what idle workers cannot take at once: as long as one
        is idle it is not full. Jobs that are held do not count: a caller that
        reads nothing is not to make the server busy for the others.
        """
        if len(self._queue) >= self.config.max_queue + len(self._idle):
            raise Busy(
                f"the queue is full: {self.config.max_queue} tasks are waiting",
                retry_after=self._estimated_wait(),
            )
        job.state = check_job(job.state, WAITING)
        self._queue.push(job)
        job.deadline = deadline
        if deadline is not None:
            self._deadlines.add(deadline, job)
            self.wake(deadline)

    def _estimated_wait(self) -> float:
        """Seconds until about a tenth of the queue will have been worked off."""
        finished = sum(stats.done + stats.failed for stats in self.functions.values())
        if not finished or not self.workers:
            return RETRY_AFTER
        mean = sum(stats.seconds for stats in self.functions.values()) / finished
        estimate = mean * self.waiting / len(self.workers) / 10
        return round(min(max(estimate, 0.1), MAX_RETRY_AFTER), 1)

    def release(self) -> None:
        """Let the jobs that were held wait again, ahead of the others, as they came."""
        while self._held:
            job = self._held.pop()
            job.state = check_job(job.state, WAITING)
            self._queue.push_back(job)

    def drop_held(self) -> list[Job]:
        """Take the jobs that are held out of the queue; they will not be run."""
        dropped = list(self._held)
        self._held.clear()
        for job in dropped:
            job.state = check_job(job.state, DONE)
        return dropped

    def drop_waiting(self, unless: Collection[str] = ()) -> list[Job]:
        """Take the waiting jobs out of the queue; they will not be run.

        Those of the functions named in `unless` stay.
        """
        self.release()
        dropped: list[Job] = []
        for job in self._queue.clear():
            if job.stats.name in unless:
                self._queue.push(job)
            else:
                job.state = check_job(job.state, DONE)
                dropped.append(job)
        return dropped

    def find(self, number: int) -> Job | None:
        """The job of this number, where it has not been answered yet."""
        for worker in self.workers.values():
            job = worker.jobs.get(number)
            if job is not None and job.state is GIVEN:
                return job
        return next((job for job in self.all_waiting if job.number == number), None)

    @property
    def all_waiting(self) -> list[Job]:
        """Every job that waits."""
        return [*self._queue, *self._held]

    # --- jobs and workers ---

    def assign(self, now: float) -> list[tuple[int, list[Job]]]:
        """Bind waiting jobs to workers; each worker's are to be sent to it in this order.

        A job that is held is put aside, until `release`.
        """
        given: dict[int, list[Job]] = {}
        queue = self._queue
        while (job := queue.first()) is not None:
            if job.is_held:
                queue.take(job)
                job.state = check_job(job.state, HELD)
                self._held.append(job)
                continue
            worker = self._worker_for(job, now)
            if worker is None:
                break
            queue.take(job)
            self._give(worker, job, now)
            if worker.number in given:
                given[worker.number].append(job)
            else:
                given[worker.number] = [job]
        return list(given.items())

    def _worker_for(self, job: Job, now: float) -> WorkerView[Job] | None:
        """The worker that is to run the job now, None where it has to wait."""
        max_tasks = self.config.max_tasks
        is_short = self._may_batch(job)
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
    def _may_batch(job: Job) -> bool:
        return job.stats.is_short and (job.limit is None or job.limit >= BATCHED_LIMIT)

    def _give(self, worker: WorkerView[Job], job: Job, now: float) -> None:
        job.state = check_job(job.state, GIVEN)
        job.worker = worker.number
        job.attempt += 1
        job.started = now
        worker.jobs[job.number] = job
        worker.load += job.stats.estimate + OVERHEAD
        self.running += 1
        if job.limit is not None:
            self.wake(now + job.limit)
        if len(worker.jobs) == 1:
            worker.heard = worker.checked = now
            if worker.number in self._short:
                self.wake(now + CHECK_SECONDS)

    def finished(
        self,
        number: int,
        job_number: int,
        seconds: float | None,
        now: float,
        *,
        failed: bool,
        printed: bool = False,
    ) -> Job | None:
        """A worker's job has ended after `seconds`; None where it had been answered before.

        `seconds` is None for a job whose arguments did not fit: it says nothing of its function.
        """
        worker = self._view(number)
        job = self._take_from(worker, job_number)
        if seconds is not None:
            job.stats.add(seconds, failed=failed, printed=printed)
        return self._ended(worker, job, now)

    def stopped(self, number: int, job_number: int, now: float) -> Job | None:
        """A job has ended because it was interrupted; None where it had been answered before."""
        worker = self._view(number)
        job = self._take_from(worker, job_number)
        if job.stop is None:
            raise StateError(f"job {job.number} was stopped, and nobody had asked for that")
        return self._ended(worker, job, now)

    def returned(self, number: int, job_numbers: list[int], now: float) -> list[Job]:
        """A worker gives back jobs that it has not begun; those of them that are not to be run any more."""
        worker = self._view(number)
        jobs = [self._take_from(worker, job_number) for job_number in job_numbers]
        cancelled = [job for job in jobs if job.state is GIVEN and job.stop is not None]
        for job in cancelled:
            job.state = check_job(job.state, DONE)
            self.running -= 1
        for job in reversed(jobs):
            if job.state is GIVEN:
                self._requeue(job)
        first = worker.first
        if first is None:
            self._free(worker, now)
        elif first.limit is not None:
            self.wake(first.started + first.limit)
        return cancelled

    @staticmethod
    def _take_from(worker: WorkerView[Job], job_number: int) -> Job:
        try:
            return worker.jobs.pop(job_number)
        except KeyError:
            raise StateError(
                f"worker {worker.number} spoke of job {job_number}, which it does not have"
            ) from None

    def _ended(self, worker: WorkerView[Job], job: Job, now: float) -> Job | None:
        worker.done += 1
        first = worker.first
        if first is not None:
            worker.load -= job.stats.estimate + OVERHEAD
            first.started = worker.heard = now
            if first.limit is not None:
                self.wake(now + first.limit)
        else:
            self._free(worker, now)
        if job.state is DONE:
            return None
        job.state = check_job(job.state, DONE)
        self.running -= 1
        return job

    def _requeue(self, job: Job) -> None:
        job.state = check_job(job.state, WAITING)
        job.worker = 0
        self.running -= 1
        self._queue.push_back(job)
        if job.deadline is not None:  # it may have passed meanwhile
            self._deadlines.add(job.deadline, job)
            self.wake(job.deadline)

    def _free(self, worker: WorkerView[Job], now: float) -> None:
        """A worker has no job any more."""
        worker.load = 0.0
        worker.called_back = False
        self.not_short(worker)
        if worker.state is LEAVING:
            self._departures.append(worker.number)
        elif self.config.max_tasks is not None and worker.done >= self.config.max_tasks:
            self._leave(worker, now)
        else:
            worker.step(IDLE, now)
            self._idle.append(worker.number)
            self._wake_for_surplus(now)

    def runs_short(self, worker: WorkerView[Job]) -> bool:
        """Whether it runs jobs that are known to be short, and is not late with them."""
        return worker.number in self._short

    def not_short(self, worker: WorkerView[Job]) -> None:
        """It does not run short jobs (any more), or is late with them."""
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
        """A worker can take its first job, or could if its generation were in use."""
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

    def worker_lost(self, number: int, begun: int, now: float) -> list[Job]:
        """A worker is gone; the jobs that are lost with it.

        `begun` is the number of the job that it began last, be it over or not
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
        jobs = list(worker.jobs.values())
        was_begun = 0
        if begun in worker.jobs:
            was_begun = 1 + next(place for place, job in enumerate(jobs) if job.number == begun)
        lost = [job for job in jobs[:was_begun] if job.state is GIVEN]
        for job in lost:
            job.state = check_job(job.state, DONE)
            job.stats.lost += 1
            job.stats.forget()
            self.running -= 1
        for job in reversed(jobs[was_begun:]):
            if job.state is GIVEN and job.stop is None and job.losses < MAX_LOSSES:
                job.losses += 1
                self._requeue(job)
            elif job.state is GIVEN:  # it was to be stopped; or it may be what ends them
                job.state = check_job(job.state, DONE)
                self.running -= 1
                lost.append(job)
        return lost

    def retire(self, number: int, now: float) -> bool:
        """Let a worker leave after the jobs that it has; False where it is leaving already."""
        worker = self._view(number)
        if worker.state is LEAVING:
            return False
        self._leave(worker, now)
        return True

    def _leave(self, worker: WorkerView[Job], now: float) -> None:
        if worker.state is IDLE:
            self._idle.remove(worker.number)
        if not worker.jobs:
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
        """How many workers to start: up to the minimum, and up to the maximum where jobs wait."""
        config, active = self.config, self.active
        wanted = config.min_workers
        if self._queue and not self._idle and active < config.max_workers:
            first = self._queue.first()
            jobs = len(self._queue)
            if first is not None and self._may_batch(first):
                jobs = -(-jobs // MAX_BATCH)
            starting = sum(view.state is STARTING for view in self.workers.values())
            starting -= sum(self.workers[number].state is STARTING for number in self._incoming)
            wanted = max(wanted, active - starting + jobs)
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
        """Use the workers of `generation` from now on; the older ones leave after their jobs."""
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

    def cancel(self, job: Job, now: float) -> list[Action[Job]]:
        """Somebody does not want this job any more; it must not have been answered.

        One that waits is out of the queue when this returns, and is to be
        answered by whoever asked. One that a worker has is stopped.
        """
        if job.state is GIVEN:
            return [] if job.stop is not None else self._watch.stop(job, "cancelled", now)
        self._take_out(job)
        return []

    def _take_out(self, job: Job) -> None:
        was_held = job.state is HELD
        job.state = check_job(job.state, DONE)
        if was_held:
            self._held.remove(job)
        else:
            self._queue.remove()

    def tick(self, now: float, begun: Callable[[int], int]) -> list[Action[Job]]:
        """What has become due. `begun` tells which job a worker began last."""
        actions: list[Action[Job]] = []
        for job in self._deadlines.expired(now):
            self._take_out(job)
            actions.append(Expire(job))
        self.wake_at = inf
        for worker in self.workers.values():
            if worker.jobs:
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

    def _view(self, number: int) -> WorkerView[Job]:
        try:
            return self.workers[number]
        except KeyError:
            raise StateError(f"there is no worker {number}") from None
