"""How tasks end: their callers are answered, it is counted, and what went wrong is logged."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
from msgspec import Raw
from twisted.logger import Logger

from taskd.errors import Cancelled, InternalError, TimedOut, WorkerLost
from taskd.model import Call, Failure, Outcome, Result
from taskd.pool.exits import WorkerExit
from taskd.protocol.methods import how_cancelled
from taskd.server.failures import cancelled_waiting, stopped, worker_lost
from taskd.server.status import Counts
from taskd.server.task import Caller, Task
from taskd.worker.messages import NULL, Failed, Stopped

__all__ = ["Completion", "as_result", "internal_error"]

_log = Logger(namespace="taskd.server")
_task_log = Logger(namespace="taskd.task")


class Completion:
    """Gives tasks their outcomes, one each; counts them; tells those who wait for the end of a task.

    Whoever calls it flushes the task's caller afterwards.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._watchers: dict[int, list[tuple[Task, Caller]]] = {}

    def watch(self, task: Task, request: Task, caller: Caller) -> None:
        """Answer this `taskd.cancel` when the task has ended, with how it was cancelled."""
        self._watchers.setdefault(task.number, []).append((request, caller))

    def end(self, task: Task, outcome: Outcome) -> None:
        """The task has this outcome."""
        if type(outcome) is Failure:
            self._count(task, outcome)
        task.caller.answered(task, outcome)
        if self._watchers:
            how = how_cancelled(outcome)
            for request, caller in self._watchers.pop(task.number, ()):
                caller.answered(request, how)
                caller.flush()

    def succeeded(self, task: Task, value: Raw) -> None:
        """The function returned."""
        self._counts.done += 1
        self.end(task, Result(value))

    def failed(self, task: Task, message: Failed) -> None:
        """The function raised, or could not be called."""
        self._counts.failed += 1
        self._log_failure(task, message.seconds, message.traceback)
        data: Any = None if message.data == NULL else message.data
        self.end(task, Failure(message.code, message.message, data))

    def stopped(self, task: Task, message: Stopped, now: float) -> None:
        """The function ended after it was interrupted."""
        self._log_failure(task, message.seconds, message.traceback)
        self.end(task, stopped(task, now, killed=False))

    def terminated(self, task: Task, now: float) -> None:
        """It has not ended within its grace, and its process is being killed."""
        self.end(task, stopped(task, now, killed=True))

    def lost(self, task: Task, lost: WorkerExit, now: float) -> None:
        """Its worker has ended under it, or under another before it."""
        if task.stop is None:
            self.end(task, worker_lost(task, lost, now))
        elif lost.begun == task.number:
            self.end(task, stopped(task, now, killed=True))
        else:
            self.end(task, cancelled_waiting(task))

    def _count(self, task: Task, outcome: Failure) -> None:
        if outcome.code == Cancelled.code:
            self._counts.cancelled += 1
            task.stats.cancelled += 1
        elif outcome.code == WorkerLost.code:
            self._counts.lost += 1
        elif outcome.code == TimedOut.code and task.stop is None:
            self._counts.expired += 1
        elif outcome.code == TimedOut.code:
            self._counts.timed_out += 1
            task.stats.timed_out += 1
            _task_log.warn(
                "{function} #{task}: {why}", function=task.stats.name, task=task.number, why=outcome.message
            )

    @staticmethod
    def _log_failure(task: Task, seconds: float, traceback: str | None) -> None:
        if traceback is not None:
            _task_log.warn(
                "{function} #{task} failed after {seconds:.3f} s\n{traceback}",
                function=task.stats.name,
                task=task.number,
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
