"""What callers are told of a task that has not simply ended."""

from __future__ import annotations

from typing import Any

from taskd.errors import Cancelled, TimedOut, WorkerLost
from taskd.model import Failure
from taskd.pool.exits import WorkerExit, signal_name
from taskd.server.task import Task

__all__ = ["cancelled_waiting", "deadline_over", "stopped", "worker_lost"]


def deadline_over(task: Task) -> Failure:
    """It was not started before its deadline."""
    seconds = task.call.options.deadline
    return Failure.of(
        TimedOut(
            f"{task.call.function} was not started within its deadline of {seconds:g} s",
            limit="deadline",
            seconds=seconds,
        )
    )


def cancelled_waiting(task: Task) -> Failure:
    """It was cancelled before it was started."""
    return Failure.of(Cancelled(f"{task.call.function} was cancelled before it was started", was="waiting"))


def stopped(task: Task, now: float, *, killed: bool) -> Failure:
    """It was stopped while it ran: by its time limit, or by who cancelled it."""
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


def worker_lost(task: Task, lost: WorkerExit, now: float) -> Failure:
    """The process has ended under it."""
    data: dict[str, Any] = {"seconds": round(now - task.started, 3)}
    if lost.code is not None and lost.code < 0:
        data["signal"] = signal_name(-lost.code)
    elif lost.code is not None:
        data["status"] = lost.code
    if lost.reason:
        data["reason"] = lost.reason
    if lost.peak_kib is not None:
        data["peak_memory_kib"] = lost.peak_kib
    if lost.out_of_memory is not None:
        data["out_of_memory"] = lost.out_of_memory
    if lost.stack:
        data["stack"] = list(lost.stack)
    return Failure.of(
        WorkerLost(f"the worker process ended under {task.call.function}: {lost.describe()}", **data)
    )
