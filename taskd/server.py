"""The task server: takes calls, has the pool run them, gives back their outcomes."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd import __version__
from taskd.errors import (
    InternalError,
    InvalidParams,
    MethodNotFound,
    ShuttingDown,
    TaskdError,
    WorkerLost,
    quoted,
)
from taskd.messages import Call, Failure, Outcome, Progress, Result
from taskd.pool.channel import NULL, Done, Failed, Reported, Run
from taskd.pool.pool import LostWorker, Pool, PoolConfig, signal_name
from taskd.scheduler import MAX_QUEUE, JobState, Scheduler
from taskd.task import RESERVED, FunctionInfo, Task
from taskd.wire.session import Request

__all__ = ["Caller", "FunctionStatus", "ServerStatus", "TaskServer", "WorkerStatus"]

_log = Logger(namespace="taskd.server")
_task_log = Logger(namespace="taskd.task")


_FUNCTIONS = f"{RESERVED}functions"


class Caller(Protocol):
    """Who gets the outcomes: one connection."""

    @property
    def is_full(self) -> bool:
        """Whether it leaves too much unread; `TaskServer.resume` follows the end of that."""

    def answered(self, request: Request, outcome: Outcome) -> None:
        """The request has ended. `flush` follows."""

    def reported(self, request: Request, progress: Progress) -> None:
        """The request is so far. `flush` follows."""

    def flush(self) -> None:
        """Send what has been answered and reported."""


@dataclass(slots=True, eq=False)
class Job:
    """One call on its way through the server."""

    number: int
    request: Request
    caller: Caller
    received: float
    state: JobState = JobState.WAITING
    started: float = 0.0

    @property
    def function(self) -> str:
        """The name of the function that it runs."""
        return self.request.call.function

    @property
    def is_held(self) -> bool:
        """Whether its outcome would only pile up."""
        return self.caller.is_full


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker: its process, what it does (`function` where it is busy), and for how many seconds."""

    number: int
    pid: int | None
    state: str
    seconds: float
    function: str | None
    job: int | None
    done: int


class FunctionStatus(msgspec.Struct, frozen=True):
    """What has been seen of one function; times are run times in seconds."""

    name: str
    done: int
    failed: int
    lost: int
    mean: float
    longest: float


class ServerStatus(msgspec.Struct, frozen=True):
    """What `taskd.status` answers. `uptime` is in seconds, `waiting` and `running` count tasks."""

    name: str
    version: str
    uptime: float
    stopping: bool
    waiting: int
    running: int
    max_queue: int
    workers: list[WorkerStatus]
    functions: list[FunctionStatus]


class TaskServer:
    """The registry, the scheduler and the pool, put together.

    `start` begins the pool; `submit` takes requests; `drain` waits for what
    is under way; `stop` ends every process.
    """

    def __init__(self, reactor: Any, wanted: PoolConfig, max_queue: int = MAX_QUEUE) -> None:
        self._reactor = reactor
        self._clock: IReactorTime = reactor
        self._wanted = wanted
        self._scheduler: Scheduler[Job] = Scheduler(max_queue)
        self._pool: Pool | None = None
        self._functions: dict[str, FunctionInfo] = {}
        # Who asked for the functions before the app was imported.
        self._want_functions: list[tuple[Request, Caller]] = []
        self._last_job = 0
        self._started = self._clock.seconds()
        self._drained: Deferred[None] | None = None
        own: dict[str, Callable[..., Any]] = {
            "ping": self.ping,
            "status": self.status,
            "functions": self.functions,
        }
        self._own = {RESERVED + name: Task(RESERVED + name, method) for name, method in own.items()}

    def start(self) -> Deferred[None]:
        """Start the pool. Fires when the app is imported; fails with `StartError`."""
        self._pool = self._wanted.start(self._reactor, self)
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
        workers = [
            WorkerStatus(
                number=number,
                pid=self._pool.pid(number) if self._pool is not None else None,
                state=worker.state.value,
                seconds=round(now - worker.since, 3),
                function=worker.job.function if worker.job is not None else None,
                job=worker.job.number if worker.job is not None else None,
                done=worker.jobs_done,
            )
            for number, worker in sorted(self._scheduler.workers.items())
        ]
        functions = [
            FunctionStatus(
                name, seen.done, seen.failed, seen.lost, round(seen.mean, 6), round(seen.longest, 6)
            )
            for name, seen in sorted(self._scheduler.functions.items())
        ]
        return ServerStatus(
            name=self._wanted.config.name,
            version=__version__,
            uptime=round(now - self._started, 3),
            stopping=self.stopping,
            waiting=self._scheduler.waiting,
            running=self._scheduler.running,
            max_queue=self._scheduler.max_queue,
            workers=workers,
            functions=functions,
        )

    # --- requests ---

    def submit(self, requests: list[Request], caller: Caller) -> None:
        """Take requests from one connection.

        Each is answered exactly once, be it before this returns; `caller` is
        then not flushed, since it knows that it asked.
        """
        for request in requests:
            try:
                self._accept(request, caller)
            except TaskdError as error:
                caller.answered(request, Failure.of(error))
            except Exception:
                caller.answered(request, self._internal_error(request.call))
        self._assign()

    def resume(self) -> None:
        """A caller that was full takes outcomes again, or is gone."""
        self._scheduler.release()
        self._assign()

    def _accept(self, request: Request, caller: Caller) -> None:
        call = request.call
        if call.function in self._own:
            if not self._functions and call.function == _FUNCTIONS:
                self._want_functions.append((request, caller))
                return
            caller.answered(request, self._answer_itself(self._own[call.function], call))
            return
        if self.stopping:
            raise ShuttingDown("the server is shutting down")
        # Until the app is imported nobody knows its functions: let the call wait.
        if self._functions and call.function not in self._functions:
            raise MethodNotFound(f"no such function: {quoted(call.function)}")
        self._last_job += 1
        self._scheduler.submit(Job(self._last_job, request, caller, self._clock.seconds()))

    def _answer_itself(self, method: Task, call: Call) -> Outcome:
        try:
            args, kwargs = method.parameters.bind(call.args)
        except InvalidParams as error:
            raise InvalidParams(f"{method.name}: {error.message}", **error.data) from None
        return Result(Raw(msgspec.json.encode(method.function(*args, **kwargs))))

    def _internal_error(self, call: Call) -> Failure:
        reference = uuid.uuid4().hex[:12]
        _log.failure(
            "a bug in taskd [{reference}], in a call of {function!r}",
            reference=reference,
            function=call.function,
        )
        return Failure.of(InternalError(f"a bug in taskd; see {reference} in its log", reference=reference))

    def _assign(self) -> None:
        now = self._clock.seconds()
        for number, job in self._scheduler.assign(now):
            assert self._pool is not None
            job.started = now
            call = job.request.call
            self._pool.send(number, Run(job.number, call.function, call.args or NULL, call.options.progress))

    # --- what the pool tells (`taskd.pool.pool.PoolObserver`) ---

    def functions_loaded(self, functions: list[FunctionInfo]) -> None:
        """The app is imported: calls of what it does not have are refused."""
        self._functions = {function.name: function for function in functions}
        _log.info("functions: {names}", names=", ".join(sorted(self._functions)))
        wanted, self._want_functions = self._want_functions, []
        for request, caller in wanted:
            self.submit([request], caller)
            caller.flush()
        self._refuse(self._scheduler.drop_waiting(unless=self._functions), MethodNotFound("no such function"))

    def worker_started(self, number: int) -> None:
        """A worker is being started."""
        self._scheduler.worker_started(number, self._clock.seconds())

    def worker_ready(self, number: int) -> None:
        """A worker can take its first job."""
        self._scheduler.worker_ready(number, self._clock.seconds())
        self._assign()

    def worker_said(self, number: int, messages: list[Done | Failed | Reported]) -> None:
        """Outcomes and progress: pass them on, and give the worker its next job."""
        now = self._clock.seconds()
        callers: list[Caller] = []
        for message in messages:
            running = self._scheduler.workers[number].job
            if running is None or running.number != message.job:
                _log.critical(
                    "worker {number} spoke of a job that it does not have: {job}",
                    number=number,
                    job=message.job,
                )
                continue
            callers.append(running.caller)
            if isinstance(message, Reported):
                progress = Progress(message.done, message.total, message.message)
                running.caller.reported(running.request, progress)
            else:
                failed = isinstance(message, Failed)
                ran = not (isinstance(message, Failed) and message.code == InvalidParams.code)
                self._scheduler.finished(number, message.seconds if ran else None, now, failed=failed)
                self._end(running, self._outcome(running, message))
        self._assign()
        _flush(callers)
        self._check_drained()

    def worker_lost(self, number: int, lost: LostWorker) -> None:
        """A worker has ended; the job that it had is lost, unless it never read it."""
        now = self._clock.seconds()
        job = self._scheduler.worker_lost(number, now, started=lost.read_all)
        if job is not None:
            self._end(job, _worker_lost(job, lost, now))
            job.caller.flush()
        self._assign()
        self._check_drained()

    def _outcome(self, job: Job, message: Done | Failed) -> Outcome:
        if isinstance(message, Done):
            return Result(message.value)
        if message.traceback is not None:
            _task_log.warn(
                "{function} #{job} failed after {seconds:.3f} s\n{traceback}",
                function=job.function,
                job=job.number,
                seconds=message.seconds,
                traceback=message.traceback.rstrip(),
            )
        return Failure(message.code, message.message, None if message.data == NULL else message.data)

    @staticmethod
    def _end(job: Job, outcome: Outcome) -> None:
        job.caller.answered(job.request, outcome)

    def _refuse(self, jobs: list[Job], error: TaskdError) -> None:
        """Answer jobs that will not be run."""
        for job in jobs:
            self._end(job, Failure.of(error))
        _flush([job.caller for job in jobs])

    # --- the end ---

    def drain(self) -> Deferred[None]:
        """Take no more tasks, and fire when those that were taken have ended.

        To be called once. Whatever waits or runs goes on; `give_up` cuts it short.
        """
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
                if worker.job is not None:
                    self._pool.kill(number)
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


def _flush(callers: list[Caller]) -> None:
    """Have each of the callers send what it got, once."""
    for caller in callers if len(callers) < 2 else {id(caller): caller for caller in callers}.values():
        caller.flush()


def _worker_lost(job: Job, lost: LostWorker, now: float) -> Failure:
    data: dict[str, Any] = {"seconds": round(now - job.started, 3)}
    if lost.code is not None and lost.code < 0:
        data["signal"] = signal_name(-lost.code)
    elif lost.code is not None:
        data["status"] = lost.code
    if lost.reason:
        data["reason"] = lost.reason
    if lost.peak_kib is not None:
        data["peak_memory_kib"] = lost.peak_kib
    return Failure.of(WorkerLost(f"the worker process ended under {job.function}: {lost.describe()}", **data))
