"""Between the scheduler and the pool: has workers do what was decided, and reports what they did.

Once in each turn of the reactor in which something has happened, waiting tasks
are given to workers; requests that come close together are so given together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from math import inf
from signal import SIGKILL, SIGTERM

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.errors import InvalidParams, ShuttingDown, TaskdError
from taskd.functions.registry import FunctionInfo
from taskd.model import NO_OPTIONS, Failure, Progress
from taskd.net.reactor import Reactor
from taskd.net.timers import Alarm, TurnEnd
from taskd.pool.exits import WorkerExit
from taskd.pool.pool import PoolConfig, WorkerMessage
from taskd.scheduler import Scheduler, TaskState
from taskd.scheduler.actions import (
    AbandonTask,
    Action,
    ExpireTask,
    InterruptTask,
    KillWorker,
    ReclaimTasks,
    TerminateWorker,
)
from taskd.scheduler.config import SchedulerConfig
from taskd.scheduler.task import Subscriber, Task
from taskd.server.completion import Completion, flush
from taskd.server.counters import Counters
from taskd.server.failures import cancelled_waiting, deadline_over
from taskd.server.memory_limit import MemoryLimit
from taskd.server.reload import Reloader
from taskd.worker.messages import (
    IS_SHORT,
    NULL,
    WANTS_PROGRESS,
    Attempt,
    Done,
    Failed,
    Interrupt,
    Reported,
    Returned,
    Stopped,
)

__all__ = ["Dispatcher"]

_log = Logger(namespace="taskd.server")
_task_log = Logger(namespace="taskd.task")

LONE_SECONDS = 0.0002
"""Seconds after the last requests from which the next are given to a worker at once.
Requests that come closer together are better given together, at the turn's end."""


class _Phase(IntEnum):
    """How far the stop of the server is."""

    OPEN = 0
    DRAINING = 1
    """Nothing new is accepted."""
    ABORTED = 2
    """What waits is refused, and nothing is started."""


class Dispatcher:
    """Owns the scheduler and the pool, and tells each what the other wants.

    Starts the pool at once: `pool.loaded` fires when the app is imported. `use`
    is called with the app's functions whenever they change. Is the pool's
    `taskd.pool.pool.PoolObserver`.
    """

    def __init__(
        self,
        reactor: Reactor,
        pool: PoolConfig,
        scheduler: SchedulerConfig,
        max_memory: int | None,
        counters: Counters,
        use: Callable[[list[FunctionInfo]], None],
    ) -> None:
        self._clock: IReactorTime = reactor
        self._counters = counters
        self._use = use
        self.scheduler = Scheduler(scheduler)
        self.completion = Completion(counters)
        self._turn_end = TurnEnd(reactor)
        self._has_turn = False
        self._last_submit = -inf
        self._alarm = Alarm(reactor, self._tick)
        self._phase = _Phase.OPEN
        self.is_stopping = False
        """Whether nothing new is accepted."""
        self._is_closing = False
        self._drained: Deferred[None] = Deferred()
        self.pool = pool.start(reactor, self)
        self._memory = MemoryLimit(max_memory, self.pool.memory_kib)
        self.reloader = Reloader(self.pool, self._start_worker, self._switch)

    # --- what the server asks for ---

    def submitted(self, now: float) -> None:
        """Have tasks that the scheduler has got started, lone ones at once."""
        last, self._last_submit = self._last_submit, now
        if now - last > LONE_SECONDS and not self._has_turn:
            self._take_turn()
        else:
            self.turn_soon()

    def cancel(self, task: Task) -> None:
        """Cancel a task that is in flight; its subscribers get the outcome, possibly before this returns."""
        was_waiting = task.state is not TaskState.GIVEN
        self._act(self.scheduler.cancel(task, self._clock.seconds()))
        if was_waiting:
            self.completion.complete(task, cancelled_waiting(task))
            task.subscriber.flush()
        self.turn_soon()

    def refuse(self, tasks: list[Task], error: TaskdError) -> None:
        """Complete tasks that will not be run."""
        for task in tasks:
            self.completion.complete(task, Failure.of(error))
        flush(tasks)

    # --- once in each turn of the reactor in which something has happened ---

    def turn_soon(self) -> None:
        """Schedule the end-of-turn pass."""
        if not self._has_turn:
            self._has_turn = True
            self._turn_end.call(self._take_turn)

    def _take_turn(self) -> None:
        self._has_turn = False
        scheduler = self.scheduler
        if self._phase is _Phase.ABORTED:
            self._check_drained()  # before anything that has come back is started again
        for number, tasks in scheduler.assign(self._clock.seconds()):
            self.pool.send(number, [_attempt(task) for task in tasks])
        self._balance()
        for number in scheduler.departures():
            self.pool.retire(number)
        if self.is_stopping:
            self._check_drained()
        self._alarm.set(scheduler.wake_at)

    def _balance(self) -> None:
        """Start the workers that are missing."""
        for _ in range(self.scheduler.missing):
            if not self._start_worker(self.scheduler.generation):
                return

    def _start_worker(self, generation: int) -> bool:
        number = self.pool.start_worker(generation)
        if number is None:
            return False
        self._counters.workers_started += 1
        self.scheduler.worker_started(number, self._clock.seconds(), generation)
        return True

    def _tick(self) -> None:
        self._act(self.scheduler.tick(self._clock.seconds(), self.pool.begun))
        self.turn_soon()

    def _act(self, actions: Iterable[Action]) -> None:
        """Carry out what the scheduler decided."""
        now = self._clock.seconds()
        ended: list[Task] = []
        for action in actions:
            match action:
                case ExpireTask(task):
                    self.completion.complete(task, deadline_over(task))
                    ended.append(task)
                case ReclaimTasks(worker):
                    self._counters.reclaimed += 1
                    self.pool.reclaim(worker)
                case InterruptTask(worker, task):
                    assert task.stop is not None
                    self.pool.interrupt(
                        worker, Interrupt(task.number, task.attempts, task.stop.reason == "cancelled")
                    )
                case AbandonTask(task):
                    self.completion.complete(task, cancelled_waiting(task))
                    ended.append(task)
                case TerminateWorker(worker, task):
                    _task_log.warn(
                        "{function} #{task} has not ended within its grace: its process group is terminated",
                        function=task.stats.name,
                        task=task.number,
                    )
                    self.pool.signal(worker, SIGTERM)
                    self.completion.terminated(task, now)
                    ended.append(task)
                case KillWorker(worker):
                    self.pool.signal(worker, SIGKILL)
        flush(ended)

    # --- what the pool reports (`taskd.pool.pool.PoolObserver`) ---

    def code_loaded(self, generation: int, functions: list[FunctionInfo]) -> None:
        """Use the app that was imported, at the start or after a crash; or go on with a reload."""
        if self.reloader.is_loading(generation):
            self.reloader.loaded(functions, self.scheduler.active)
            return
        self.scheduler.generation = generation
        self._use(functions)
        self.turn_soon()

    def code_failed(self, generation: int, reason: str) -> None:
        """Give up the reload whose app cannot be used."""
        if self.reloader.is_loading(generation):
            self.reloader.fail(reason)

    def _switch(self, generation: int, functions: list[FunctionInfo]) -> None:
        self.scheduler.switch(generation, self._clock.seconds())
        self._use(functions)

    def can_start_workers(self) -> None:
        """Start the workers that could not be started for a while."""
        self.turn_soon()

    def worker_ready(self, number: int) -> None:
        """Let a worker have its first task."""
        self.scheduler.worker_ready(number, self._clock.seconds())
        if self.reloader.is_loading(self.scheduler.workers[number].generation):
            self.reloader.worker_is_ready()
        self.turn_soon()

    def worker_messages(self, number: int, messages: list[WorkerMessage]) -> None:
        """Pass on outcomes and progress, and give the worker its next tasks."""
        now = self._clock.seconds()
        subscribers: dict[Subscriber, None] = {}
        for message in messages:
            if isinstance(message, Returned):
                for task in self.scheduler.returned(number, message.tasks, now):
                    self.completion.complete(task, cancelled_waiting(task))
                    subscribers[task.subscriber] = None
            elif isinstance(message, Reported):
                task = self.scheduler.workers[number].tasks[message.task]
                self.completion.progressed(task, Progress(message.done, message.total, message.message))
                subscribers[task.subscriber] = None
            else:
                ended = self._task_ended(number, message, now)
                if ended is not None:
                    subscribers[ended.subscriber] = None
        for subscriber in subscribers:
            subscriber.flush()
        if self.scheduler.is_due or self.is_stopping:
            self.turn_soon()
        else:
            self._alarm.set(self.scheduler.wake_at)

    def _task_ended(self, number: int, message: Done | Failed | Stopped, now: float) -> Task | None:
        """Complete a task that a worker has ended; returns None if it had been completed before."""
        scheduler = self.scheduler
        seconds = message.seconds
        if isinstance(message, Done):
            task = scheduler.finished(
                number, message.task, seconds, now, failed=False, printed=message.output
            )
            if task is not None:
                self.completion.succeeded(task, message.value)
        elif isinstance(message, Failed):
            ran = seconds if message.code != InvalidParams.code else None
            task = scheduler.finished(number, message.task, ran, now, failed=True, printed=message.output)
            if message.leaving:
                scheduler.retire(number, now)
            if task is not None:
                self.completion.failed(task, message)
        else:
            task = scheduler.stopped(number, message.task, now)
            if task is not None:
                self.completion.stopped(task, message, now)
        used = self._memory.excess(number, seconds, now)
        if used is not None and scheduler.retire(number, now):
            _log.info("worker {number} has {used} KiB resident: it is replaced", number=number, used=used)
        return task

    def worker_exited(self, number: int, lost: WorkerExit) -> None:
        """Complete the task that a worker had begun when it ended; what it had not begun waits again."""
        now = self._clock.seconds()
        worker = self.scheduler.workers[number]
        tasks = self.scheduler.worker_lost(number, lost.begun, now)
        for task in tasks:
            self.completion.lost(task, lost, now)
        if lost.stack:
            _task_log.warn("worker {number} was at: {stack}", number=number, stack=", ".join(lost.stack))
        flush(tasks)
        self._memory.forget(number)
        if not self.is_stopping and not worker.dismissed:
            self._counters.workers_replaced += 1
        if self.reloader.is_loading(worker.generation) and not lost.was_ready:
            self.reloader.fail(f"a worker of the new code ended before it was ready: {lost.describe()}")
        self.turn_soon()

    def task_name(self, number: int, task: int) -> str:
        """Return the name of a task that a worker has, for the log; "" if it has ended."""
        worker = self.scheduler.workers.get(number)
        found = worker.tasks.get(task) if worker is not None else None
        return f"{found.stats.name} #{found.number}" if found is not None else ""

    # --- the stop ---

    def stop_accepting(self) -> None:
        """Expect no more tasks; a reload in progress is given up."""
        if self._phase is _Phase.OPEN:
            self._enter(_Phase.DRAINING)
            if self.reloader.in_progress:
                self.reloader.fail("the server is shutting down")

    def _enter(self, phase: _Phase) -> None:
        self._phase = phase
        self.is_stopping = phase is not _Phase.OPEN

    def drain(self) -> Deferred[None]:
        """Return a Deferred that fires when no task waits or runs any more."""
        self._check_drained()
        return self._drained

    def abort(self) -> None:
        """Refuse every task that waits, and kill every worker that has one; during `close`, kill them all."""
        self._enter(_Phase.ABORTED)
        if self._is_closing:
            self.pool.abort()
        for number, worker in self.scheduler.workers.items():
            if worker.tasks:
                self.pool.signal(number, SIGKILL)
        self._check_drained()

    def close(self) -> Deferred[None]:
        """End every process, workers in order; fires when none is left."""
        self._is_closing = True
        return self.pool.close()

    def _check_drained(self) -> None:
        # A submitter that reads nothing must not hold up the end; and after an abort
        # nothing is started, not even what comes back from a worker.
        scheduler = self.scheduler
        aborted = self._phase is _Phase.ABORTED
        dropped = scheduler.drop_waiting() if aborted else scheduler.drop_throttled()
        self.refuse(dropped, ShuttingDown("the server shut down before the task was started"))
        if not self._drained.called and scheduler.is_empty:
            self._drained.callback(None)


def _attempt(task: Task) -> Attempt:
    """Return the message that has a worker run a task."""
    call = task.call
    flags = IS_SHORT if task.stats.is_short else 0
    if call.options is not NO_OPTIONS and call.options.progress:
        flags |= WANTS_PROGRESS
    return Attempt(task.number, task.attempts, call.function, call.args or NULL, flags)
