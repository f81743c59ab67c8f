"""The fleet of workers: the state of each, how many to start, and which idle ones to dismiss.

Idle workers are used last in, first out: so caches stay warm, and the idle
workers above the minimum stay idle and can be ended.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from taskd.errors import ImpossibleMessage, StateError
from taskd.scheduler.config import SchedulerConfig
from taskd.scheduler.histograms import FINE_BOUNDS
from taskd.scheduler.states import (
    BUSY,
    GIVEN,
    GONE,
    IDLE,
    LEAVING,
    STANDBY,
    STARTING,
    WAITING,
    WORKER_STEPS,
    WorkerState,
    check_task,
)
from taskd.scheduler.stats import SHORT_SECONDS
from taskd.scheduler.task import Task

__all__ = ["OVERHEAD", "Fleet", "WorkerView"]

OVERHEAD = 0.00001
"""Seconds that a worker spends on a task besides running its function."""


@dataclass(slots=True, eq=False)
class WorkerView:
    """One worker as the scheduler sees it: its state, since when, and its tasks.

    `tasks` are those that the worker has been given and has not ended, in the
    order in which it runs them; `done` counts those that it has ended.
    `dismissed` says that it leaves because there are too many workers, or a
    newer generation: it need not be replaced.

    The rest is for batches (`taskd.scheduler.batching`). `load` is an estimate
    of the seconds that the worker's tasks take. `progress_at` is when it was
    given its first task or last ended one. `checked_at` is when it was last
    found not to be late, and `checked_task` the number of the task that it ran
    then. `reclaimed` says that it must return what it has not begun.
    """

    number: int
    generation: int
    since: float
    state: WorkerState = STARTING
    tasks: dict[int, Task] = field(default_factory=dict)
    done: int = 0
    dismissed: bool = False
    load: float = 0.0
    progress_at: float = 0.0
    checked_at: float = 0.0
    checked_task: int = 0
    reclaimed: bool = False

    def step(self, state: WorkerState, now: float) -> None:
        """Go to another state. Raises `StateError` if the table has no such step."""
        if state not in WORKER_STEPS[self.state]:
            raise StateError(f"worker {self.number} cannot go from {self.state.name} to {state.name}")
        self.state = state
        self.since = now

    @property
    def first(self) -> Task | None:
        """The task that the worker runs, judging by its messages; None if it has none."""
        return next(iter(self.tasks.values()), None)

    def give(self, task: Task, now: float) -> None:
        """Bind a task to the worker, after those that it has."""
        task.state = GIVEN if task.state is WAITING else check_task(task.state, GIVEN)
        task.worker = self.number
        task.attempts += 1
        task.started = now
        self.tasks[task.number] = task
        stats = task.stats
        waited = now - task.received  # counted here, since a call would take as long as all of it
        stats.waited += waited
        if waited < SHORT_SECONDS:
            stats.short_waits += 1
        else:
            stats.long_waits[bisect_left(FINE_BOUNDS, waited)] += 1
            if waited > stats.peak_wait:
                stats.peak_wait = waited
        self.load += stats.estimate + OVERHEAD
        if task.quota is not None:
            task.quota.started(task, now)

    def get(self, task_number: int) -> Task:
        """Return a task of the worker. Raises `ImpossibleMessage` if the worker does not have it."""
        try:
            return self.tasks[task_number]
        except KeyError:
            raise ImpossibleMessage(f"a report of task {task_number}, which it does not have") from None

    def take_first(self, task_number: int) -> Task:
        """Take the task that the worker has ended, which must be its first. Raises as `get` does."""
        if task_number != next(iter(self.tasks), None):
            raise ImpossibleMessage(f"an outcome of task {task_number}, which it is not running")
        return self.tasks.pop(task_number)

    def split(self, begun: int) -> tuple[list[Task], list[Task]]:
        """Return the tasks up to and including number `begun`, and those behind it."""
        tasks = list(self.tasks.values())
        end = 1 + list(self.tasks).index(begun) if begun in self.tasks else 0
        return tasks[:end], tasks[end:]


class Fleet:
    """All workers, by the numbers that the pool gives them and never uses twice.

    Workers of a later generation than `generation` stand by until `switch`.
    `wake` is called with the time at which `retire_idle` is due. After any
    call, `departing` may name workers that must end.
    """

    def __init__(self, config: SchedulerConfig, wake: Callable[[float], None]) -> None:
        self.workers: dict[int, WorkerView] = {}
        self.idle: list[WorkerView] = []
        """The idle workers; the latest to become idle is the last."""
        self.generation = 1
        self.departing: list[int] = []
        """The numbers of the workers that must end now: see `departures`."""
        self._config = config
        self._wake = wake
        self._next_generation: set[int] = set()
        self._leaving = 0

    def view(self, number: int) -> WorkerView:
        """Return the worker with this number. Raises `StateError` if there is none."""
        try:
            return self.workers[number]
        except KeyError:
            raise StateError(f"there is no worker {number}") from None

    # --- come and go ---

    def add(self, number: int, now: float, generation: int = 1) -> None:
        """Add a worker that is being started. Raises `StateError` if its number is in use."""
        if number in self.workers:
            raise StateError(f"worker {number} is there already")
        self.workers[number] = WorkerView(number, generation, now)
        if generation > self.generation:
            self._next_generation.add(number)

    def ready(self, number: int, now: float) -> None:
        """Make a started worker idle, or let it stand by if its generation is not in use yet."""
        worker = self.view(number)
        if worker.state is LEAVING:
            return
        if worker.state is not STARTING:
            raise StateError(f"worker {number} is ready for the second time")
        if number in self._next_generation:
            worker.step(STANDBY, now)
        else:
            self._make_idle(worker, now)

    def free(self, worker: WorkerView, now: float) -> None:
        """Make a worker without tasks idle, or have it end if it is leaving or has run enough tasks."""
        worker.load = 0.0
        worker.reclaimed = False
        if worker.state is LEAVING:
            self.departing.append(worker.number)
        elif self._config.max_tasks is not None and worker.done >= self._config.max_tasks:
            self._leave(worker, now)
        else:
            self._make_idle(worker, now)

    def _make_idle(self, worker: WorkerView, now: float) -> None:
        worker.step(IDLE, now)
        self.idle.append(worker)
        if self.active > self._config.min_workers:
            self._wake(now + self._config.idle_seconds)

    def take_idle(self, now: float) -> WorkerView:
        """Return the worker that became idle last, and make it busy; at least one must be idle."""
        worker = self.idle.pop()
        worker.step(BUSY, now)
        return worker

    def retire(self, number: int, now: float) -> bool:
        """Let a worker leave after the tasks that it has; return False if it is leaving already."""
        worker = self.view(number)
        if worker.state is LEAVING:
            return False
        self._leave(worker, now)
        return True

    def _leave(self, worker: WorkerView, now: float) -> None:
        if worker.state is IDLE:
            self.idle.remove(worker)
        if not worker.tasks:
            self.departing.append(worker.number)
        worker.step(LEAVING, now)
        self._next_generation.discard(worker.number)
        self._leaving += 1

    def remove(self, number: int, now: float) -> WorkerView:
        """Forget, and return, a worker whose process has ended."""
        worker = self.view(number)
        if worker.state is IDLE:
            self.idle.remove(worker)
        elif worker.state is LEAVING:
            self._leaving -= 1
            if number in self.departing:
                self.departing.remove(number)
        worker.step(GONE, now)
        self._next_generation.discard(number)
        del self.workers[number]
        return worker

    def departures(self) -> list[int]:
        """Return the workers that must end now, each of them once."""
        departing = self.departing
        if departing:
            self.departing = []
        return departing

    # --- how many ---

    @property
    def active(self) -> int:
        """The number of workers that exist or are being started, and are not leaving."""
        return len(self.workers) - self._leaving - len(self._next_generation)

    @property
    def running(self) -> int:
        """The number of tasks that workers have and that have no outcome yet."""
        return sum(task.state is GIVEN for view in self.workers.values() for task in view.tasks.values())

    def to_start(self, wanted: int) -> int:
        """Return the number of workers to start if `wanted` more could run the waiting tasks.

        Workers that are already being started count towards `wanted`. The
        minimum is always reached, and the maximum never exceeded.
        """
        config, active = self._config, self.active
        total = config.min_workers
        if wanted and not self.idle and active < config.max_workers:
            starting = sum(view.state is STARTING for view in self.workers.values())
            starting -= sum(self.workers[number].state is STARTING for number in self._next_generation)
            total = max(total, active - starting + wanted)
        return max(0, min(total, config.max_workers) - active)

    def retire_idle(self, now: float) -> None:
        """Dismiss the idle workers above the minimum that have been idle for too long."""
        excess = self.active - self._config.min_workers
        for worker in self.idle[: max(excess, 0)]:
            due = worker.since + self._config.idle_seconds
            if due > now:
                self._wake(due)
                return
            worker.dismissed = True
            self._leave(worker, now)

    # --- new code ---

    def switch(self, generation: int, now: float) -> None:
        """Use the workers of `generation` from now on; older workers leave after their tasks."""
        self.generation = generation
        self._next_generation.clear()
        for worker in self.workers.values():
            if worker.generation < generation and worker.state is not LEAVING:
                worker.dismissed = True
                self._leave(worker, now)
            elif worker.generation == generation and worker.state is STANDBY:
                self._make_idle(worker, now)
