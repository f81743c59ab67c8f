"""How jobs end: their callers are answered, it is counted, and what went wrong is logged."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
from msgspec import Raw
from twisted.logger import Logger

from taskd.errors import Cancelled, InternalError, TimedOut, WorkerLost
from taskd.model import Call, Failure, Outcome, Result
from taskd.pool.exits import LostWorker
from taskd.protocol.methods import how_cancelled
from taskd.server.failures import cancelled_waiting, stopped, worker_lost
from taskd.server.status import Counts
from taskd.server.task import Caller, Job
from taskd.worker.messages import NULL, Failed, Stopped

__all__ = ["Endings", "as_result", "internal_error"]

_log = Logger(namespace="taskd.server")
_task_log = Logger(namespace="taskd.task")


class Endings:
    """Gives jobs their outcomes, one each; counts them; tells those who wait for the end of a job.

    Whoever calls it flushes the job's caller afterwards.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._watchers: dict[int, list[tuple[Job, Caller]]] = {}

    def watch(self, job: Job, request: Job, caller: Caller) -> None:
        """Answer this `taskd.cancel` when the job has ended, with how it was cancelled."""
        self._watchers.setdefault(job.number, []).append((request, caller))

    def end(self, job: Job, outcome: Outcome) -> None:
        """The job has this outcome."""
        if type(outcome) is Failure:
            self._count(job, outcome)
        job.caller.answered(job, outcome)
        if self._watchers:
            how = how_cancelled(outcome)
            for request, caller in self._watchers.pop(job.number, ()):
                caller.answered(request, how)
                caller.flush()

    def succeeded(self, job: Job, value: Raw) -> None:
        """The function returned."""
        self._counts.done += 1
        self.end(job, Result(value))

    def failed(self, job: Job, message: Failed) -> None:
        """The function raised, or could not be called."""
        self._counts.failed += 1
        self._log_failure(job, message.seconds, message.traceback)
        data: Any = None if message.data == NULL else message.data
        self.end(job, Failure(message.code, message.message, data))

    def stopped(self, job: Job, message: Stopped, now: float) -> None:
        """The function ended after it was interrupted."""
        self._log_failure(job, message.seconds, message.traceback)
        self.end(job, stopped(job, now, killed=False))

    def terminated(self, job: Job, now: float) -> None:
        """It has not ended within its grace, and its process is being killed."""
        self.end(job, stopped(job, now, killed=True))

    def lost(self, job: Job, lost: LostWorker, now: float) -> None:
        """Its worker has ended under it, or under another before it."""
        if job.stop is None:
            self.end(job, worker_lost(job, lost, now))
        elif lost.begun == job.number:
            self.end(job, stopped(job, now, killed=True))
        else:
            self.end(job, cancelled_waiting(job))

    def _count(self, job: Job, outcome: Failure) -> None:
        if outcome.code == Cancelled.code:
            self._counts.cancelled += 1
            job.stats.cancelled += 1
        elif outcome.code == WorkerLost.code:
            self._counts.lost += 1
        elif outcome.code == TimedOut.code and job.stop is None:
            self._counts.expired += 1
        elif outcome.code == TimedOut.code:
            self._counts.timed_out += 1
            job.stats.timed_out += 1
            _task_log.warn(
                "{function} #{job}: {why}", function=job.stats.name, job=job.number, why=outcome.message
            )

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


def as_result(value: Any) -> Result:
    """A value of ours as the result of one of the server's own methods."""
    return Result(Raw(msgspec.json.encode(value)))


def internal_error(call: Call) -> Failure:
    """The outcome of a call that a bug of ours has ended; what it was is logged. In an ``except``."""
    reference = uuid.uuid4().hex[:12]
    _log.failure(
        "a bug in taskd [{reference}], in a call of {function!r}",
        reference=reference,
        function=call.function,
    )
    return Failure.of(InternalError(f"a bug in taskd; see {reference} in its log", reference=reference))
