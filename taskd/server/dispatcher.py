"""The dispatcher: has the pool carry out what the scheduler decides, and stops both.

Waiting tasks are given to workers at most once in each turn of the reactor, so
that requests that arrive close together are given together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from math import inf
from signal import SIGKILL, SIGTERM

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.errors import ShuttingDown, TaskdError
from taskd.functions.registry import FunctionInfo
from taskd.model import NO_OPTIONS, Failure, StoredCall
from taskd.net.log_rate import RatedLog
from taskd.net.reactor import Reactor
from taskd.net.timers import Alarm, TurnEnd
from taskd.pool.pool import Pool, PoolConfig
from taskd.pool.task_label import label_of
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
from taskd.scheduler.task import Task
from taskd.server.completion import Completion, flush
from taskd.server.counters import Counters
from taskd.server.failures import cancelled_waiting, deadline_over
from taskd.server.feedback import Feedback
from taskd.server.reload import Reloader
from taskd.server.unanswered import Unanswered
from taskd.worker.messages import (
    IS_DESCRIBED,
    IS_SHORT,
    NULL,
    WANTS_PROGRESS,
    Attempt,
    DescribedAttempt,
    Interrupt,
)

__all__ = ["Dispatcher"]

_log = Logger(namespace="taskd.server")
_task_log = Logger(namespace="taskd.task")

LONE_SECONDS = 0.0002
"""Seconds after the last request from which the next one is given to a worker at once.
Requests that arrive closer together are better given together, at the turn's end."""


class _Phase(IntEnum):
    """The phase of the server's stop."""

    OPEN = 0
    DRAINING = 1
    """Nothing new is accepted."""
    ABORTED = 2
    """Waiting tasks are refused, and nothing is started."""


class Dispatcher:
    """The owner of the scheduler and the pool, whose reports come through `Feedback`.

    The constructor starts the pool; `pool.loaded` fires when the app is
    imported. `use` is called with the app's functions whenever they change.
    """

    def __init__(
        self,
        reactor: Reactor,
        pool: PoolConfig,
        scheduler: SchedulerConfig,
        counters: Counters,
        unanswered: Unanswered,
        use: Callable[[list[FunctionInfo]], None],
    ) -> None:
        self._clock: IReactorTime = reactor
        self._counters = counters
        self._use = use
        self.scheduler = Scheduler(scheduler)
        self._task_log = RatedLog(reactor, _task_log)
        self.completion = Completion(counters, unanswered, self._task_log, pool.config.error_details)
        self._turn_end = TurnEnd(reactor)
        self._has_turn = False
        self._last_submit = -inf
        self._alarm = Alarm(reactor, self._tick)
        self._phase = _Phase.OPEN
        self.is_stopping = False
        """Whether nothing new is accepted."""
        self._is_closing = False
        self._drained: Deferred[None] = Deferred()
        self.pool: Pool
        self.feedback = feedback = Feedback(
            self, reactor, self.scheduler, self.completion, counters, self._task_log, use
        )
        self.pool = pool.start(reactor, feedback)
        self.reloader = Reloader(self.pool, self._start_worker, self._switch)

    # --- what the server asks for ---

    def submitted(self, now: float) -> None:
        """Start the tasks that were just submitted to the scheduler: at once, or at the end of the turn."""
        last, self._last_submit = self._last_submit, now
        if now - last > LONE_SECONDS and not self._has_turn:
            self._take_turn()
        else:
            self.turn_soon()

    def cancel(self, task: Task, grace: float = inf) -> None:
        """Cancel a task in flight; its subscribers get the outcome, possibly before this returns.

        `grace` is how many seconds it has at most until its process is terminated.
        """
        was_waiting = task.state is not TaskState.GIVEN
        self._act(self.scheduler.cancel(task, self._clock.seconds(), grace))
        if was_waiting:
            self.completion.complete(task, cancelled_waiting(task))
            task.subscriber.flush()
        self.turn_soon()

    def refuse(self, tasks: list[Task], error: TaskdError) -> None:
        """Complete tasks that will not be run, with `error` as their failure."""
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
            self._check_drained()  # before any task that a worker returned is started again
        for number, tasks in scheduler.assign(self._clock.seconds()):
            self.pool.send(number, [_attempt(task) for task in tasks])
        self._balance()
        for number in scheduler.fleet.departures():
            self.pool.retire(number)
        if self.is_stopping:
            self._check_drained()
        self._alarm.set(scheduler.wake_at)

    def _balance(self) -> None:
        """Start the workers that are missing."""
        for _ in range(self.scheduler.missing):
            if not self._start_worker(self.scheduler.fleet.generation):
                return

    def _start_worker(self, generation: int) -> bool:
        number = self.pool.start_worker(generation)
        if number is None:
            return False
        self._counters.workers_started += 1
        self.scheduler.fleet.add(number, self._clock.seconds(), generation)
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
                    self._task_log.warn(
                        f"{task.stats.name} terminated",
                        "{function} #{task} has not ended within its grace: its process group is terminated",
                        **label_of(task).fields(),
                    )
                    self.pool.signal(worker, SIGTERM)
                    self.completion.terminated(task, now, self.pool.printed(worker, task.number))
                    ended.append(task)
                case KillWorker(worker):
                    self.pool.signal(worker, SIGKILL)
        flush(ended)

    def _switch(self, generation: int, functions: list[FunctionInfo]) -> None:
        self.scheduler.fleet.switch(generation, self._clock.seconds())
        self._use(functions)

    def settle(self) -> None:
        """Schedule the end-of-turn pass if there is anything to start; otherwise only set the timer."""
        if self.scheduler.is_due or self.is_stopping:
            self.turn_soon()
        else:
            self._alarm.set(self.scheduler.wake_at)

    # --- the stop ---

    def stop_accepting(self) -> None:
        """Note that no more tasks will be submitted, and give up a reload in progress."""
        if self._phase is _Phase.OPEN:
            self._enter(_Phase.DRAINING)
            if self.reloader.in_progress:
                self.reloader.fail("the server is shutting down")

    def _enter(self, phase: _Phase) -> None:
        self._phase = phase
        self.is_stopping = phase is not _Phase.OPEN

    def drain(self) -> Deferred[None]:
        """Return a Deferred that fires when no task waits or runs."""
        self._check_drained()
        return self._drained

    def abort(self) -> None:
        """Refuse every waiting task, and kill every worker that has a task; during `close`, every worker."""
        self._enter(_Phase.ABORTED)
        if self._is_closing:
            self.pool.abort()
        for number, worker in self.scheduler.fleet.workers.items():
            if worker.tasks:
                self.pool.signal(number, SIGKILL)
        self._check_drained()

    def close(self) -> Deferred[None]:
        """End every process, workers in order; fires when none is left."""
        self._task_log.close()
        self._is_closing = True
        return self.pool.close()

    def _check_drained(self) -> None:
        # A submitter that reads nothing must not delay the end. After an abort nothing is
        # started, not even a task that a worker has returned.
        scheduler = self.scheduler
        aborted = self._phase is _Phase.ABORTED
        dropped = scheduler.queue.drop_waiting() if aborted else scheduler.queue.drop_aside()
        self.refuse(dropped, ShuttingDown("the server shut down before the task was started"))
        if not self._drained.called and scheduler.is_empty:
            self._drained.callback(None)


def _attempt(task: Task) -> Attempt:
    """Return the message that has a worker run a task."""
    call = task.call
    flags = IS_SHORT if task.stats.is_short else 0
    if call.options is not NO_OPTIONS:
        if call.options.progress:
            flags |= WANTS_PROGRESS
        if type(call) is StoredCall:
            call.started()
            return DescribedAttempt(
                task.number,
                task.attempts,
                call.function,
                call.args or NULL,
                flags | IS_DESCRIBED,
                task.limit,
                call.id,
                call.attempt,
                call.was_interrupted,
                call.options.traceparent,
                call.node,
            )
        if call.options.traceparent is not None:
            return DescribedAttempt(
                task.number,
                task.attempts,
                call.function,
                call.args or NULL,
                flags | IS_DESCRIBED,
                task.limit,
                traceparent=call.options.traceparent,
            )
    if task.limit is not None:
        args = call.args or NULL
        flags |= IS_DESCRIBED
        return DescribedAttempt(task.number, task.attempts, call.function, args, flags, task.limit)
    return Attempt(task.number, task.attempts, call.function, call.args or NULL, flags)
