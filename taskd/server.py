"""The task server: takes calls, has the pool run them, gives back their outcomes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from taskd import __version__
from taskd.errors import (
    InternalError,
    InvalidParams,
    MethodNotFound,
    ShuttingDown,
    TaskdError,
    quoted,
)
from taskd.job import Caller, Job
from taskd.messages import NO_OPTIONS, Call, Failure, Outcome, Progress, Result
from taskd.outcomes import cancelled_waiting, deadline_over, stopped, was_of, worker_lost
from taskd.pool.channel import (
    NULL,
    PROGRESS,
    SHORT,
    Done,
    Failed,
    Interrupt,
    Reported,
    Returned,
    Run,
    Stopped,
)
from taskd.pool.pool import LostWorker, Pool, PoolConfig, WorkerMessage
from taskd.reloading import Reload
from taskd.scheduler import FunctionStats, JobState, Scheduler
from taskd.scheduler.actions import Abandon, Action, CallBack, Expire, Kill, Terminate
from taskd.scheduler.actions import Interrupt as InterruptAction
from taskd.scheduler.scheduler import SchedulerConfig
from taskd.status import Counts, ServerStatus, function_status, has_run, oldest_waiting, worker_status
from taskd.task import RESERVED, FunctionInfo, Task

__all__ = ["ServerConfig", "TaskServer"]

_log = Logger(namespace="taskd.server")
_task_log = Logger(namespace="taskd.task")

_FUNCTIONS = f"{RESERVED}functions"
_CANCEL = f"{RESERVED}cancel"

MEMORY_CHECK_SECONDS = 0.1
"""Seconds between two looks at a worker's memory while it runs short tasks: a look costs as much as some."""

SIGTERM, SIGKILL = 15, 9


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
    is under way; `stop` ends every process.
    """

    def __init__(self, reactor: Any, wanted: ServerConfig) -> None:
        self._reactor = reactor
        self._clock: IReactorTime = reactor
        self._wanted = wanted
        self._scheduler: Scheduler[Job] = Scheduler(wanted.scheduler)
        self._pool: Pool | None = None
        self._functions: dict[str, FunctionInfo] = {}
        # Who asked for the functions before the app was imported.
        self._want_functions: list[tuple[Job, Caller]] = []
        # Who waits for the end of a job that is being cancelled.
        self._cancelling: dict[int, list[tuple[Job, Caller]]] = {}
        self._last_job = 0
        self._started = self._clock.seconds()
        self._drained: Deferred[None] | None = None
        self._reload: Reload | None = None
        self._memory_seen: dict[int, float] = {}
        self._turn: IDelayedCall | None = None
        self._alarm: IDelayedCall | None = None
        self._alarm_at = inf
        self.counts = Counts()
        self.connections = 0
        """How many connections there are; those who accept them count."""
        own: dict[str, Callable[..., Any]] = {
            "ping": self.ping,
            "status": self.status,
            "functions": self.functions,
        }
        self._own = {RESERVED + name: Task(RESERVED + name, method) for name, method in own.items()}
        self._cancel_task = Task(_CANCEL, _cancel_arguments)

    def start(self) -> Deferred[None]:
        """Start the pool. Fires when the app is imported; fails with `StartError`."""
        self._pool = self._wanted.pool.start(self._reactor, self)
        return self._pool.loaded

    @property
    def stopping(self) -> bool:
        """Whether no more requests are taken."""
        return self._drained is not None

    # --- the server's own methods ---

    def ping(self) -> str:
        """Answer "pong", from the server itself: no worker is asked."""
        return "pong"

    def functions(self) -> list[FunctionInfo]:
        """The functions that can be called: names, signatures, first lines of their docstrings."""
        return list(self._functions.values())

    def status(self) -> ServerStatus:
        """What the server and each of its workers is doing."""
        now = self._clock.seconds()
        scheduler, pool, config = self._scheduler, self._pool, self._wanted.scheduler
        workers = sorted(scheduler.workers.items())
        return ServerStatus(
            name=self._wanted.pool.config.name,
            version=__version__,
            uptime=round(now - self._started, 3),
            stopping=self.stopping,
            generation=scheduler.generation,
            reloading=self._reload is not None and self._reload.is_under_way,
            connections=self.connections,
            waiting=scheduler.waiting,
            oldest_waiting=oldest_waiting(scheduler, now),
            running=scheduler.running,
            max_queue=config.max_queue,
            min_workers=config.min_workers,
            max_workers=config.max_workers,
            counts=self.counts,
            workers=[worker_status(worker, pool, now) for _, worker in workers] if pool is not None else [],
            functions=[
                function_status(stats) for _, stats in sorted(scheduler.functions.items()) if has_run(stats)
            ],
        )

    # --- requests ---

    def submit(self, requests: list[Job], caller: Caller) -> None:
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
                caller.answered(request, self._internal_error(request.call))
        self._soon()

    def resume(self) -> None:
        """A caller that was full takes outcomes again, or is gone."""
        self._scheduler.release()
        self._soon()

    def abandoned(self, requests: Iterable[Job]) -> None:
        """Nobody waits for these requests any more: those that asked for it are cancelled."""
        wanted = [request for request in requests if request.call.options.on_disconnect == "cancel"]
        for job in wanted:
            if job.state not in (JobState.NEW, JobState.DONE):
                self._cancel(job)

    def _accept(self, job: Job, caller: Caller, now: float) -> None:
        call = job.call
        stats = self._scheduler.functions.get(call.function)
        if stats is None or self.stopping:
            if call.function.startswith(RESERVED):
                self._accept_own(job, caller)
                return
            if self.stopping:
                raise ShuttingDown("the server is shutting down")
            # Until the app is imported nobody knows its functions: let the call wait.
            if self._functions:
                raise MethodNotFound(f"no such function: {quoted(call.function)}")
            stats = self._scheduler.functions[call.function] = FunctionStats(call.function)
        self._last_job += 1
        job.number = self._last_job
        job.caller = caller
        job.stats = stats
        job.received = now
        job.attempt = job.worker = 0
        job.started = now
        job.stop = None
        options = call.options
        job.priority = options.priority
        job.limit = self._limit(job)
        try:
            deadline = None if options.deadline is None else now + options.deadline
            self._scheduler.submit(job, deadline)
        except TaskdError:
            self.counts.refused += 1
            raise

    def _limit(self, job: Job) -> float | None:
        """Seconds that the job may run for: the function's limit, or less where the call says so."""
        limit = job.stats.timeout if job.stats.timeout is not None else self._wanted.timeout
        asked = job.call.options.timeout
        if asked is None or (limit is not None and limit <= asked):
            return limit
        return asked

    def _accept_own(self, request: Job, caller: Caller) -> None:
        call = request.call
        if call.function == _CANCEL:
            self._accept_cancel(request, caller)
            return
        method = self._own.get(call.function)
        if method is None:
            raise MethodNotFound(f"no such function: {quoted(call.function)}")
        if not self._functions and call.function == _FUNCTIONS:
            self._want_functions.append((request, caller))
            return
        args, kwargs = _bind(method, call)
        caller.answered(request, Result(Raw(msgspec.json.encode(method.function(*args, **kwargs)))))

    def _internal_error(self, call: Call) -> Failure:
        reference = uuid.uuid4().hex[:12]
        _log.failure(
            "a bug in taskd [{reference}], in a call of {function!r}",
            reference=reference,
            function=call.function,
        )
        return Failure.of(InternalError(f"a bug in taskd; see {reference} in its log", reference=reference))

    # --- cancelling ---

    def _accept_cancel(self, request: Job, caller: Caller) -> None:
        """Answer `taskd.cancel`, now or when the job has ended."""
        args, kwargs = _bind(self._cancel_task, request.call)
        request_id, number = _cancel_arguments(*args, **kwargs)
        job = caller.find(request_id) if request_id is not None else self._scheduler.find(number or 0)
        if job is None or job.state in (JobState.NEW, JobState.DONE):
            caller.answered(request, Result(Raw(msgspec.json.encode({"was": "done"}))))
            return
        self._cancelling.setdefault(job.number, []).append((request, caller))
        self._cancel(job)

    def _cancel(self, job: Job) -> None:
        was_waiting = job.state is not JobState.GIVEN
        self._act(self._scheduler.cancel(job, self._clock.seconds()))
        if was_waiting:
            self._end(job, cancelled_waiting(job))
            job.caller.flush()
        self._soon()

    # --- once in each turn of the reactor in which something has happened ---

    def _soon(self) -> None:
        """See to what has become possible, once this turn of the reactor is over.

        What comes in one turn is then given to workers together.
        """
        if self._turn is None:
            self._turn = self._clock.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        if self._pool is None:
            return
        now = self._clock.seconds()
        for number, jobs in self._scheduler.assign(now):
            self._pool.send(number, [_run(job) for job in jobs])
        self._balance(now)
        for number in self._scheduler.departures():
            self._pool.end_worker(number)
        self._check_drained()
        self._set_alarm()

    def _balance(self, now: float) -> None:
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

    def _set_alarm(self) -> None:
        """Have `_tick` called when the scheduler says so; an alarm that comes too soon does no harm."""
        wake_at = self._scheduler.wake_at
        if wake_at >= self._alarm_at:
            return
        self._alarm_at = wake_at
        delay = max(wake_at - self._clock.seconds(), 0)
        if self._alarm is not None:
            self._alarm.reset(delay)
        else:
            self._alarm = self._clock.callLater(delay, self._tick)

    def _tick(self) -> None:
        self._alarm = None
        self._alarm_at = inf
        if self._pool is not None:
            self._act(self._scheduler.tick(self._clock.seconds(), self._pool.begun))
            self._soon()

    def _act(self, actions: Iterable[Action[Job]]) -> None:
        """Do what the scheduler wants done."""
        assert self._pool is not None
        now = self._clock.seconds()
        ended: list[Job] = []
        for action in actions:
            match action:
                case Expire(job):
                    self.counts.expired += 1
                    self._end(job, deadline_over(job))
                    ended.append(job)
                case CallBack(worker):
                    self.counts.called_back += 1
                    self._pool.call_back(worker)
                case InterruptAction(worker, job):
                    assert job.stop is not None
                    self._pool.interrupt(
                        worker, Interrupt(job.number, job.attempt, job.stop.reason == "cancelled")
                    )
                case Abandon(job):
                    self._end(job, cancelled_waiting(job))
                    ended.append(job)
                case Terminate(worker, job, was_answered):
                    _task_log.warn(
                        "{function} #{job} has not ended within its grace: its process group is terminated",
                        function=job.stats.name,
                        job=job.number,
                    )
                    self._pool.signal(worker, SIGTERM)
                    if not was_answered:
                        self._end(job, stopped(job, now, killed=True))
                        ended.append(job)
                case Kill(worker):
                    self._pool.signal(worker, SIGKILL)
        _flush([job.caller for job in ended])

    # --- what the pool tells (`taskd.pool.pool.PoolObserver`) ---

    def code_loaded(self, generation: int, functions: list[FunctionInfo]) -> None:
        """The app is imported: for the first time, anew after a crash, or for a reload."""
        reload = self._reload
        if reload is not None and reload.is_under_way and reload.generation == generation:
            reload.loaded(functions, self._scheduler.active)
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
        """A worker can take its first job."""
        self._scheduler.worker_ready(number, self._clock.seconds())
        reload = self._reload
        worker = self._scheduler.workers[number]
        if reload is not None and worker.generation == reload.generation:
            reload.worker_ready()
        self._soon()

    def worker_said(self, number: int, messages: list[WorkerMessage]) -> None:
        """Outcomes and progress: pass them on, and give the worker its next jobs."""
        now = self._clock.seconds()
        callers: dict[Caller, None] = {}
        for message in messages:
            if isinstance(message, Returned):
                for job in self._scheduler.returned(number, message.jobs, now):
                    self._end(job, cancelled_waiting(job))
                    callers[job.caller] = None
            elif isinstance(message, Reported):
                job = self._scheduler.workers[number].jobs[message.job]
                progress = Progress(message.done, message.total, message.message)
                job.caller.reported(job, progress)
                callers[job.caller] = None
            else:
                ended = self._job_ended(number, message, now)
                if ended is not None:
                    callers[ended.caller] = None
        for caller in callers:
            caller.flush()
        self._soon()

    def worker_lost(self, number: int, lost: LostWorker) -> None:
        """A worker has ended; what it had begun is lost, and what it had not waits again."""
        now = self._clock.seconds()
        generation = self._scheduler.workers[number].generation
        jobs = self._scheduler.worker_lost(number, lost.begun, now)
        for job in jobs:
            self._end_lost(job, lost, now)
        if lost.stack:
            _task_log.warn("worker {number} was at: {stack}", number=number, stack=", ".join(lost.stack))
        _flush([job.caller for job in jobs])
        self._memory_seen.pop(number, None)
        if not self.stopping:
            self.counts.workers_replaced += 1
        reload = self._reload
        if (
            reload is not None
            and reload.is_under_way
            and reload.generation == generation
            and not lost.was_ready
        ):
            self._fail_reload(f"a worker of the new code ended before it was ready: {lost.describe()}")
        self._soon()

    def job_name(self, number: int, job: int) -> str:
        """A job that a worker has, for the log; "" for one that has ended."""
        worker = self._scheduler.workers.get(number)
        found = worker.jobs.get(job) if worker is not None else None
        return f"{found.stats.name} #{job}" if found is not None else ""

    # --- how jobs end ---

    def _job_ended(self, number: int, message: Done | Failed | Stopped, now: float) -> Job | None:
        """A worker has done with a job; None where its caller had been answered before."""
        scheduler = self._scheduler
        seconds = message.seconds
        if isinstance(message, Done):
            job = scheduler.finished(number, message.job, seconds, now, failed=False, printed=message.output)
            if job is not None:
                self.counts.done += 1
                self._end(job, Result(message.value))
        elif isinstance(message, Failed):
            ran = seconds if message.code != InvalidParams.code else None
            job = scheduler.finished(number, message.job, ran, now, failed=True, printed=message.output)
            if message.leaving:
                scheduler.retire(number, now)
            if job is not None:
                self.counts.failed += 1
                self._end(job, self._failure(job, message))
        else:
            job = scheduler.stopped(number, message.job, now)
            if job is not None:
                self._log_failure(job, seconds, message.traceback)
                self._end(job, stopped(job, now, killed=False))
        if self._wanted.max_memory is not None:
            self._check_memory(number, seconds, now)
        return job

    def _failure(self, job: Job, message: Failed) -> Failure:
        self._log_failure(job, message.seconds, message.traceback)
        return Failure(message.code, message.message, None if message.data == NULL else message.data)

    @staticmethod
    def _log_failure(job: Job, seconds: float, traceback: str | None) -> None:
        if traceback is not None:
            _task_log.warn(
                "{function} #{job} failed after {seconds:.3f} s\n{traceback}",
                function=job.stats.name,
                job=job.number,
                seconds=seconds,
                traceback=traceback.rstrip(),
            )

    def _end_lost(self, job: Job, lost: LostWorker, now: float) -> None:
        if job.stop is None:
            self._end(job, worker_lost(job, lost, now))
        elif lost.begun == job.number:
            self._end(job, stopped(job, now, killed=True))
        else:
            self._end(job, cancelled_waiting(job))

    def _end(self, job: Job, outcome: Outcome) -> None:
        """A job has its outcome. Its caller is to be flushed."""
        if job.stop is not None or type(outcome) is Failure:
            self._count(job, outcome)
        job.caller.answered(job, outcome)
        if self._cancelling:
            was = was_of(outcome)
            for request, caller in self._cancelling.pop(job.number, ()):
                caller.answered(request, Result(Raw(msgspec.json.encode(was))))
                caller.flush()

    def _count(self, job: Job, outcome: Outcome) -> None:
        match outcome:
            case Failure(code=-32001, data={"limit": "timeout"}):
                self.counts.timed_out += 1
                job.stats.timed_out += 1
                _task_log.warn(
                    "{function} #{job}: {why}", function=job.stats.name, job=job.number, why=outcome.message
                )
            case Failure(code=-32002):
                self.counts.cancelled += 1
                job.stats.cancelled += 1
            case Failure(code=-32003):
                self.counts.lost += 1

    def _check_memory(self, number: int, seconds: float, now: float) -> None:
        """Replace a worker that has grown too large."""
        if seconds < MEMORY_CHECK_SECONDS and now - self._memory_seen.get(number, 0.0) < MEMORY_CHECK_SECONDS:
            return
        assert self._pool is not None
        assert self._wanted.max_memory is not None
        self._memory_seen[number] = now
        used = self._pool.memory_kib(number)
        if used is not None and used > self._wanted.max_memory:
            _log.info(
                "worker {number} has {used} KiB resident, over --max-memory: it is replaced",
                number=number,
                used=used,
            )
            self._scheduler.retire(number, now)

    def _refuse(self, jobs: list[Job], error: TaskdError) -> None:
        """Answer jobs that will not be run."""
        for job in jobs:
            self._end(job, Failure.of(error))
        _flush([job.caller for job in jobs])

    # --- new code ---

    def reload(self) -> None:
        """Load the app anew, and use it once all is well; what comes of it is logged."""
        if self._pool is None or self.stopping:
            return
        if self._reload is not None and self._reload.is_under_way:
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
        self._refuse(self._scheduler.drop_waiting(unless=self._functions), MethodNotFound("no such function"))
        for name in [name for name in known if name not in self._functions]:
            del known[name]
        for job in self._scheduler.all_waiting:
            job.limit = self._limit(job)
        wanted, self._want_functions = self._want_functions, []
        for request, caller in wanted:
            self.submit([request], caller)
            caller.flush()

    # --- the end ---

    def drain(self) -> Deferred[None]:
        """Take no more tasks, and fire when those that were taken have ended.

        To be called once. Whatever waits or runs goes on; `give_up` cuts it short.
        """
        if self._reload is not None and self._reload.is_under_way:
            self._fail_reload("the server is shutting down")
        self._drained = Deferred()
        drained = self._drained
        self._check_drained()
        return drained

    def give_up(self) -> None:
        """Answer every task that still waits or runs: the server is shutting down."""
        self._refuse(
            self._scheduler.drop_waiting(), ShuttingDown("the server shut down before the task was started")
        )
        if self._pool is not None:
            for number, worker in self._scheduler.workers.items():
                if worker.jobs:
                    self._pool.signal(number)
        self._check_drained()

    def _check_drained(self) -> None:
        if self._drained is None:
            return
        # A caller that reads nothing is not to hold up the end.
        self._refuse(
            self._scheduler.drop_held(), ShuttingDown("the server shut down before the task was started")
        )
        if not self._drained.called and self._scheduler.is_empty:
            self._drained.callback(None)

    def stop(self) -> Deferred[None]:
        """End every process. Fires when none is left."""
        if self._pool is None:
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        return self._pool.stop()

    def end_now(self) -> None:
        """Kill every worker at once; for use during `stop`."""
        if self._pool is not None:
            self._pool.end_now()


def _run(job: Job) -> Run:
    """What the worker is told of a job."""
    call = job.call
    flags = SHORT if job.stats.is_short else 0
    if call.options is not NO_OPTIONS and call.options.progress:
        flags |= PROGRESS
    return Run(job.number, job.attempt, call.function, call.args or NULL, flags)


def _cancel_arguments(
    id: Raw | None = None,  # noqa: A002  # its name on the wire
    job: int | None = None,
) -> tuple[Raw | None, int | None]:
    """Which request of this connection, by its id; or which task, by its number."""
    if (id is None) == (job is None):
        raise InvalidParams(f"{_CANCEL}: takes either id or job", argument="id")
    return id, job


def _bind(method: Task, call: Call) -> tuple[list[Any], dict[str, Any]]:
    try:
        return method.parameters.bind(call.args)
    except InvalidParams as error:
        raise InvalidParams(f"{method.name}: {error.message}", **error.data) from None


def _flush(callers: list[Caller]) -> None:
    """Have each of the callers send what it got, once."""
    for caller in callers if len(callers) < 2 else {id(caller): caller for caller in callers}.values():
        caller.flush()
