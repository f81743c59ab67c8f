"""The texts and data of failures: tasks that expired, were stopped or lost their worker; bugs in taskd."""

from __future__ import annotations

import uuid
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.errors import Busy, Cancelled, InternalError, TaskdError, TimedOut, WorkerLost
from taskd.model import Failure
from taskd.pool.exits import WorkerExit, signal_name
from taskd.scheduler.budget import Budget
from taskd.scheduler.task import Task
from taskd.store.base import StoreError

__all__ = [
    "cancelled_waiting",
    "deadline_over",
    "internal_error",
    "no_memory",
    "refused",
    "stopped",
    "worker_lost",
]

_log = Logger(namespace="taskd.server")


MEMORY_RETRY_AFTER = 1.0
"""Seconds after which a caller should try again that was refused because the memory was full:
most of what is held is released within a second, as tasks end and replies are read."""


def no_memory(budget: Budget) -> Busy:
    """Return the error for a call that is refused because the whole byte budget is spent."""
    return Busy(
        f"the server holds {budget.held} bytes for its clients, and --max-buffered is {budget.limit}",
        retry_after=MEMORY_RETRY_AFTER,
    )


def refused(error: BaseException | None) -> Failure:
    """Return the failure that reports an error, of the store or of the caller; any other one is logged."""
    if isinstance(error, TaskdError):
        return Failure.of(error)
    if isinstance(error, StoreError):
        return Failure.of(Busy(f"the store has failed: {error}", retry_after=1.0))
    _log.failure("a bug in taskd", TwistedFailure(error))
    return Failure.of(InternalError("a bug in taskd; see the server's log"))


def deadline_over(task: Task) -> Failure:
    """Return the failure of a task that was not started before its deadline."""
    seconds = task.call.options.deadline
    return Failure.of(
        TimedOut(
            f"{task.call.function} was not started within its deadline of {seconds:g} s",
            limit="deadline",
            seconds=seconds,
        )
    )


def cancelled_waiting(task: Task) -> Failure:
    """Return the failure of a task that was cancelled before it was started."""
    return Failure.of(Cancelled(f"{task.call.function} was cancelled before it was started", was="waiting"))


def stopped(task: Task, now: float, *, killed: bool) -> Failure:
    """Return the failure of a task that was stopped while it ran: at its time limit, or by a caller."""
    stop = task.stop
    assert stop is not None
    how = "its process was killed" if killed else "it has ended"
    if stop.reason == "timeout":
        return Failure.of(
            TimedOut(
                f"{task.call.function} ran over its time limit of {task.limit:g} s: {how}",
                limit="timeout",
                seconds=task.limit,
                ran=round(now - task.started, 3),
                killed=killed,
            )
        )
    after = round(now - stop.since, 3)
    return Failure.of(
        Cancelled(
            f"{task.call.function} was cancelled while it ran: {how} after {after:g} s",
            was="running",
            stopped_after=after,
            killed=killed,
        )
    )


def worker_lost(task: Task, exit_: WorkerExit, now: float, *, brief: bool = False) -> Failure:
    """Return the failure of a task whose worker process ended.

    A `brief` one has nothing of what only the log should have: the reason, which
    may quote the task, the stack and the memory.
    """
    data: dict[str, Any] = {"seconds": round(now - task.started, 3)}
    if exit_.code is not None and exit_.code < 0:
        data["signal"] = signal_name(-exit_.code)
    elif exit_.code is not None:
        data["status"] = exit_.code
    if brief:
        exit_ = WorkerExit(exit_.code, out_of_memory=exit_.out_of_memory)
        data["task"] = task.number
    if exit_.reason:
        data["reason"] = exit_.reason
    if exit_.peak_kib is not None:
        data["peak_memory_kib"] = exit_.peak_kib
    if exit_.out_of_memory is not None:
        data["out_of_memory"] = exit_.out_of_memory
    if exit_.stack:
        data["stack"] = list(exit_.stack)
    how = exit_.describe()
    if brief:
        how = (
            f"{how}, see #{task.number} in the server's log"
            if how
            else f"see #{task.number} in the server's log"
        )
    return Failure.of(WorkerLost(f"the worker process ended under {task.call.function}: {how}", **data))


def internal_error(function: str) -> Failure:
    """Return the failure of a call that a bug in taskd ended, and log the exception that is being handled."""
    reference = uuid.uuid4().hex[:12]
    _log.failure(
        "a bug in taskd [{reference}], in a call of {function!r}", reference=reference, function=function
    )
    return Failure.of(InternalError(f"a bug in taskd; see {reference} in its log", reference=reference))
