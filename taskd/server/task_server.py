"""The task server: takes calls, has the pool run them, gives back their outcomes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from signal import SIGKILL, SIGTERM

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.errors import (
    InvalidParams,
    MethodNotFound,
    ShuttingDown,
    TaskdError,
    quoted,
)
from taskd.functions.registry import RESERVED, FunctionInfo
from taskd.model import Failure, Progress
from taskd.net.reactor import Reactor
from taskd.net.timers import Alarm, TurnEnd
from taskd.pool.exits import WorkerExit
from taskd.pool.pool import Pool, PoolConfig, WorkerMessage
from taskd.scheduler import FunctionStats, Scheduler, TaskState
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
from taskd.server.completion import Completion, internal_error
from taskd.server.failures import cancelled_waiting, deadline_over
from taskd.server.memory_limit import MemoryBound
from taskd.server.methods import OwnMethods
from taskd.server.reload import Reload
from taskd.server.status import Counts, ServerStatus, server_status
from taskd.server.task import Caller, Task, attempt_message
from taskd.worker.messages import (
    Done,
    Failed,
    Interrupt,
    Reported,
    Returned,
    Stopped,
)

__all__ = ["ServerConfig", "TaskServer"]

_log = Logger(namespace="taskd.server")
_task_log = Logger(namespace="taskd.task")

LONE_SECONDS = 0.0002
"""Seconds after the last requests from which the next are given to a worker at once.
Where more come in so short a time, they are better given together, at the turn's end."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The server that is wanted.

    `timeout`: the time limit of functions that have none of their own, in
    seconds. `max_memory`: KiB that a worker may have resident after a task;
    with more it is replaced. None for no limit.
    """

    pool: PoolConfig
    scheduler: SchedulerConfig
    timeout: float | None = None
    max_memory: int | None = None


class TaskServer:
    """The registry, the scheduler and the pool, put together.

    `start` begins the pool; `submit` takes requests; `drain` waits for what
    is in flight; `stop` ends every process.
    """

    def __init__(self, reactor: Reactor, wanted: ServerConfig) -> None:
        self._reactor = reactor
        self._clock: IReactorTime = reactor
        self._wanted = wanted
        self._scheduler: Scheduler[Task] = Scheduler(wanted.scheduler)
        self._pool: Pool | None = None
        self._functions: dict[str, FunctionInfo] = {}
        self._last_task = 0
        self._last_submit = -inf
        self._started = self._clock.seconds()
        self._drained: Deferred[None] | None = None
        self._has_given_up = False
        self._reload: Reload | None = None
        self._memory = None if wanted.max_memory is None else MemoryBound(wanted.max_memory)
        self._turn_end = TurnEnd(self._clock)
        self._has_turn = False
        self._alarm = Alarm(self._clock, self._tick)
        self.counts = Counts()
        self.connections = 0
        """How many connections there are; those who accept them count."""
        self._completion = Completion(self.counts)
        self._own = OwnMethods(self)

    def start(self) -> Deferred[None]:
        """Start the pool. Fires when the app is imported; fails with `StartError`."""
        self._pool = self._wanted.pool.start(self._reactor, self)
        return self._pool.loaded

    @property
    def stopping(self) -> bool:
        """Whether no more requests are taken."""
        return self._drained is not None

    # --- what can be asked (`taskd.server.methods.Server`) ---

    @property
    def functions(self) -> list[FunctionInfo]:
        """The functions that can be called: names, signatures, first lines of their docstrings."""
        return list(self._functions.values())

    def find(self, number: int) -> Task | None:
        """The task of this number that has not ended."""
        return self._scheduler.find(number)

    def cancel_for(self, request: Task, caller: Caller, task: Task) -> None:
        """Cancel a task, and answer the request when it has ended."""
        self._completion.watch(task, request, caller)
        self._cancel(task)

    def status(self) -> ServerStatus:
        """What the server and each of its workers is doing."""
        now = self._clock.seconds()
        return server_status(
            self._scheduler,
            self._pool,
            now,
            name=self._wanted.pool.config.name,
            uptime=round(now - self._started, 3),
            stopping=self.stopping,
            reloading=self._reload is not None and self._reload.is_in_flight,
            connections=self.connections,
            counts=self.counts,
        )

    # --- requests ---

    def submit(self, requests: list[Task], caller: Caller) -> None:
        """Take requests from one connection.

        Each is answered exactly once, be it before this returns; `caller` is
        then not flushed, since it knows that it asked.
        """
        now = self._clock.seconds()
        for request in requests:
            try:
                self._accept(request, caller, now)
            except TaskdError as error:
                caller.answered(request, Failure.of(error))
            except Exception:
                caller.answered(request, internal_error(request.call))
        last, self._last_submit = self._last_submit, now
        if now - last > LONE_SECONDS and not self._has_turn:
            self._take_turn()
        else:
            self._soon()

    def resume(self) -> None:
        """A caller that was full takes outcomes again, or is gone."""
        self._scheduler.release()
        self._soon()

    def abandoned(self, requests: Iterable[Task]) -> None:
        """Nobody waits for these requests any more: those that asked for it are cancelled."""
        wanted = [request for request in requests if request.call.options.on_disconnect == "cancel"]
        for task in wanted:
            if task.is_in_flight:
                self._cancel(task)

    def _accept(self, task: Task, caller: Caller, now: float) -> None:
        call = task.call
        stats = self._scheduler.functions.get(call.function)
        if stats is None or self.stopping:
            if call.function.startswith(RESERVED):
                self._own.accept(task, caller)
                return
            if self.stopping:
                raise ShuttingDown("the server is shutting down")
            # Until the app is imported nobody knows its functions: let the call wait.
            if self._functions:
                raise MethodNotFound(f"no such function: {quoted(call.function)}")
            stats = self._scheduler.functions[call.function] = FunctionStats(call.function)
        self._last_task += 1
        task.number = self._last_task
        task.caller = caller
        task.stats = stats
        task.received = now
        task.attempt = task.losses = task.worker = 0
        task.started = now
        task.stop = None
        options = call.options
        task.priority = options.priority
        task.limit = self._limit(task)
        try:
            deadline = None if options.deadline is None else now + options.deadline
            self._scheduler.submit(task, deadline)
        except TaskdError:
            self.counts.refused += 1
            raise

    def _limit(self, task: Task) -> float | None:
        """Seconds that the task may run for: the function's limit, or less where the call says so."""
        limit = task.stats.timeout if task.stats.timeout is not None else self._wanted.timeout
        asked = task.call.options.timeout
        if asked is None or (limit is not None and limit <= asked):
            return limit
        return asked

    def _cancel(self, task: Task) -> None:
        was_waiting = task.state is not TaskState.GIVEN
        self._act(self._scheduler.cancel(task, self._clock.seconds()))
        if was_waiting:
            self._completion.end(task, cancelled_waiting(task))
            task.caller.flush()
        self._soon()

    # --- once in each turn of the reactor in which something has happened ---

    def _soon(self) -> None:
        """See to what has become possible, once this turn of the reactor is over.

        What comes in one turn is then given to workers together.
        """
        if not self._has_turn:
            self._has_turn = True
            self._turn_end.call(self._take_turn)

    def _take_turn(self) -> None:
        self._has_turn = False
        if self._pool is None:
            return
        if self._has_given_up:
            self._check_drained()  # before anything that has come back is started again
        for number, tasks in self._scheduler.assign(self._clock.seconds()):
            self._pool.send(number, [attempt_message(task) for task in tasks])
        self._balance()
        for number in self._scheduler.departures():
            self._pool.retire(number)
        self._check_drained()
        self._alarm.set(self._scheduler.wake_at)

    def _balance(self) -> None:
        """Start the workers that are missing."""
        for _ in range(self._scheduler.missing):
            if not self._start_worker(self._scheduler.generation):
                return

    def _start_worker(self, generation: int) -> bool:
        assert self._pool is not None
        number = self._pool.start_worker(generation)
        if number is None:
            return False
        self.counts.workers_started += 1
        self._scheduler.worker_started(number, self._clock.seconds(), generation)
        return True

    def _tick(self) -> None:
        if self._pool is not None:
            self._act(self._scheduler.tick(self._clock.seconds(), self._pool.begun))
            self._soon()

    def _act(self, actions: Iterable[Action[Task]]) -> None:
        """Do what the scheduler wants done."""
        assert self._pool is not None
        now = self._clock.seconds()
        ended: list[Task] = []
        for action in actions:
            match action:
                case ExpireTask(task):
                    self._completion.end(task, deadline_over(task))
                    ended.append(task)
                case ReclaimTasks(worker):
                    self.counts.reclaimed += 1
                    self._pool.reclaim(worker)
                case InterruptTask(worker, task):
                    assert task.stop is not None
                    self._pool.interrupt(
                        worker, Interrupt(task.number, task.attempt, task.stop.reason == "cancelled")
                    )
                case AbandonTask(task):
                    self._completion.end(task, cancelled_waiting(task))
                    ended.append(task)
                case TerminateWorker(worker, task):
                    _task_log.warn(
                        "{function} #{task} has not ended within its grace: its process group is terminated",
                        function=task.stats.name,
                        task=task.number,
                    )
                    self._pool.signal(worker, SIGTERM)
                    self._completion.terminated(task, now)
                    ended.append(task)
                case KillWorker(worker):
                    self._pool.signal(worker, SIGKILL)
        _flush([task.caller for task in ended])

    # --- what the pool reports (`taskd.pool.pool.PoolObserver`) ---

    def code_loaded(self, generation: int, functions: list[FunctionInfo]) -> None:
        """The app is imported: for the first time, anew after a crash, or for a reload."""
        reload = self._reload
        if reload is not None and reload.is_in_flight and reload.generation == generation:
            reload.loaded(functions, self._scheduler.active)
            if not reload.is_in_flight and self._pool is not None:
                self._pool.abandon_next()  # it has failed: nothing of it is to stay
            return
        self._scheduler.generation = generation
        self._use(functions)
        self._soon()

    def code_failed(self, generation: int, reason: str) -> None:
        """The app of a reload cannot be used."""
        if self._reload is not None and self._reload.generation == generation:
            self._fail_reload(reason)

    def can_start_workers(self) -> None:
        """Workers can be started again."""
        self._soon()

    def worker_ready(self, number: int) -> None:
        """A worker can take its first task."""
        self._scheduler.worker_ready(number, self._clock.seconds())
        reload = self._reload
        worker = self._scheduler.workers[number]
        if reload is not None and worker.generation == reload.generation:
            reload.worker_ready()
        self._soon()

    def worker_messages(self, number: int, messages: list[WorkerMessage]) -> None:
        """Outcomes and progress: pass them on, and give the worker its next tasks."""
        now = self._clock.seconds()
        callers: dict[Caller, None] = {}
        for message in messages:
            if isinstance(message, Returned):
                for task in self._scheduler.returned(number, message.tasks, now):
                    self._completion.end(task, cancelled_waiting(task))
                    callers[task.caller] = None
            elif isinstance(message, Reported):
                task = self._scheduler.workers[number].tasks[message.task]
                progress = Progress(message.done, message.total, message.message)
                task.caller.reported(task, progress)
                callers[task.caller] = None
            else:
                ended = self._task_ended(number, message, now)
                if ended is not None:
                    callers[ended.caller] = None
        for caller in callers:
            caller.flush()
        if self._scheduler.is_due or self.stopping:
            self._soon()
        else:
            self._alarm.set(self._scheduler.wake_at)

    def worker_exited(self, number: int, lost: WorkerExit) -> None:
        """A worker has ended; what it had begun is lost, and what it had not waits again."""
        now = self._clock.seconds()
        worker = self._scheduler.workers[number]
        tasks = self._scheduler.worker_lost(number, lost.begun, now)
        for task in tasks:
            self._completion.lost(task, lost, now)
        if lost.stack:
            _task_log.warn("worker {number} was at: {stack}", number=number, stack=", ".join(lost.stack))
        _flush([task.caller for task in tasks])
        if self._memory is not None:
            self._memory.forget(number)
        if not self.stopping and not worker.dismissed:
            self.counts.workers_replaced += 1
        reload = self._reload
        if (
            reload is not None
            and reload.is_in_flight
            and reload.generation == worker.generation
            and not lost.was_ready
        ):
            self._fail_reload(f"a worker of the new code ended before it was ready: {lost.describe()}")
        self._soon()

    def task_name(self, number: int, task: int) -> str:
        """A task that a worker has, for the log; "" for one that has ended."""
        worker = self._scheduler.workers.get(number)
        found = worker.tasks.get(task) if worker is not None else None
        return f"{found.stats.name} #{task}" if found is not None else ""

    # --- how tasks end ---

    def _task_ended(self, number: int, message: Done | Failed | Stopped, now: float) -> Task | None:
        """A worker has done with a task; None where its caller had been answered before."""
        scheduler = self._scheduler
        seconds = message.seconds
        if isinstance(message, Done):
            task = scheduler.finished(
                number, message.task, seconds, now, failed=False, printed=message.output
            )
            if task is not None:
                self._completion.succeeded(task, message.value)
        elif isinstance(message, Failed):
            ran = seconds if message.code != InvalidParams.code else None
            task = scheduler.finished(number, message.task, ran, now, failed=True, printed=message.output)
            if message.leaving:
                scheduler.retire(number, now)
            if task is not None:
                self._completion.failed(task, message)
        else:
            task = scheduler.stopped(number, message.task, now)
            if task is not None:
                self._completion.stopped(task, message, now)
        if self._memory is not None and self._pool is not None:
            used = self._memory.excess(number, seconds, now, self._pool.memory_kib)
            if used is not None and scheduler.retire(number, now):
                _log.info("worker {number} has {used} KiB resident: it is replaced", number=number, used=used)
        return task

    def _refuse(self, tasks: list[Task], error: TaskdError) -> None:
        """Answer tasks that will not be run."""
        for task in tasks:
            self._completion.end(task, Failure.of(error))
        _flush([task.caller for task in tasks])

    # --- new code ---

    def reload(self) -> None:
        """Load the app anew, and use it once all is well; what comes of it is logged."""
        if self._pool is None or self.stopping:
            return
        if self._reload is not None and self._reload.is_in_flight:
            self._fail_reload("told to reload once more")
        generation = self._pool.reload()
        if generation is None:
            _log.warn("not reloaded: the app has not been loaded yet")
            return
        _log.info("reloading: generation {generation}", generation=generation)
        self._reload = Reload(generation, self._start_worker, self._switch)

    def _switch(self, functions: list[FunctionInfo]) -> None:
        assert self._pool is not None
        assert self._reload is not None
        self._pool.switch()
        self._scheduler.switch(self._reload.generation, self._clock.seconds())
        self._use(functions)

    def _fail_reload(self, reason: str) -> None:
        assert self._pool is not None
        assert self._reload is not None
        self._reload.failed(reason)
        self._pool.abandon_next()

    def _use(self, functions: list[FunctionInfo]) -> None:
        """These are the functions that can be called from now on."""
        self._functions = {function.name: function for function in functions}
        _log.info("functions: {names}", names=", ".join(sorted(self._functions)))
        known = self._scheduler.functions
        for function in functions:
            stats = known.setdefault(function.name, FunctionStats(function.name))
            stats.timeout, stats.grace = function.timeout, function.grace
            stats.forget()  # it is other code now
        for task in self._scheduler.drop_waiting(unless=self._functions):
            self._refuse([task], MethodNotFound(f"no such function: {task.stats.name}"))
        for name in [name for name in known if name not in self._functions]:
            del known[name]
        for task in self._scheduler.all_waiting:
            task.limit = self._limit(task)
        self._own.functions_changed()

    # --- the end ---

    def drain(self) -> Deferred[None]:
        """Take no more tasks, and fire when those that were taken have ended.

        To be called once. Whatever waits or runs goes on; `give_up` cuts it short.
        """
        if self._reload is not None and self._reload.is_in_flight:
            self._fail_reload("the server is shutting down")
        self._drained = Deferred()
        drained = self._drained
        self._check_drained()
        return drained

    def give_up(self) -> None:
        """Answer every task that still waits or runs: the server is shutting down."""
        self._has_given_up = True
        if self._pool is not None:
            for number, worker in self._scheduler.workers.items():
                if worker.tasks:
                    self._pool.signal(number)
        self._check_drained()

    def _check_drained(self) -> None:
        if self._drained is None:
            return
        # A caller that reads nothing is not to hold up the end; and once we have
        # given up, nothing is started, not even what comes back from a worker.
        scheduler = self._scheduler
        dropped = scheduler.drop_waiting() if self._has_given_up else scheduler.drop_throttled()
        self._refuse(dropped, ShuttingDown("the server shut down before the task was started"))
        if not self._drained.called and self._scheduler.is_empty:
            self._drained.callback(None)

    def stop(self) -> Deferred[None]:
        """End every process. Fires when none is left."""
        if self._pool is None:
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        return self._pool.close()

    def end_now(self) -> None:
        """Kill every worker at once; for use during `stop`."""
        if self._pool is not None:
            self._pool.abort()


def _flush(callers: list[Caller]) -> None:
    """Have each of the callers send what it got, once."""
    for caller in callers if len(callers) < 2 else {id(caller): caller for caller in callers}.values():
        caller.flush()
