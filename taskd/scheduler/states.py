"""States of a task, of a worker and of a stop: one literal table of steps for each.

A step that its table does not list raises `StateError`, and is a bug in taskd.
"""

from __future__ import annotations

from enum import IntEnum

from taskd.errors import StateError

__all__ = [
    "STOP_STEPS",
    "TASK_STEPS",
    "WORKER_STEPS",
    "StopStep",
    "TaskState",
    "WorkerState",
    "check_stop",
    "check_task",
]

# IntEnum: its members are hashed as integers, in C; those of Enum by a method
# in Python, which would cost as much as the rest of a step.


class TaskState(IntEnum):
    """Where a task is on its way to its outcome."""

    NEW = 0
    WAITING = 1
    THROTTLED = 2
    """It waits, and is not started while its submitter leaves too much unread."""
    GIVEN = 3
    """A worker has it, and runs it or will soon."""
    DONE = 4
    """It has its outcome, or will not be run and gets one now."""


class WorkerState(IntEnum):
    """What a worker is doing."""

    STARTING = 0
    STANDBY = 1
    """Ready, with new code that is not in use yet."""
    IDLE = 2
    BUSY = 3
    LEAVING = 4
    """It gets no more tasks, and ends after those that it has."""
    GONE = 5


class StopStep(IntEnum):
    """How far the stop of a task that a worker has is."""

    INTERRUPTED = 0
    """The function has been interrupted, and cleans up; or the worker returns the task unbegun."""
    ABANDONED = 1
    """The task had not begun when its grace was over. It will not begin any more."""
    TERMINATED = 2
    """The worker's process group has been sent SIGTERM."""
    KILLED = 3
    """The worker's process group has been sent SIGKILL."""


# By these names on the hot paths: Python 3.11 takes as long to find a member of
# an enumeration as for a whole function call.
NEW, WAITING, THROTTLED, GIVEN, DONE = TaskState
STARTING, STANDBY, IDLE, BUSY, LEAVING, GONE = WorkerState

TASK_STEPS = {
    TaskState.NEW: frozenset({TaskState.WAITING}),
    TaskState.WAITING: frozenset({TaskState.GIVEN, TaskState.THROTTLED, TaskState.DONE}),
    TaskState.THROTTLED: frozenset({TaskState.WAITING, TaskState.DONE}),
    # Back to waiting: the worker returned it, or died, before it had begun.
    TaskState.GIVEN: frozenset({TaskState.DONE, TaskState.WAITING}),
    TaskState.DONE: frozenset[TaskState](),
}
"""Every step that a task can take."""

WORKER_STEPS = {
    WorkerState.STARTING: frozenset(
        {WorkerState.STANDBY, WorkerState.IDLE, WorkerState.LEAVING, WorkerState.GONE}
    ),
    WorkerState.STANDBY: frozenset({WorkerState.IDLE, WorkerState.LEAVING, WorkerState.GONE}),
    WorkerState.IDLE: frozenset({WorkerState.BUSY, WorkerState.LEAVING, WorkerState.GONE}),
    WorkerState.BUSY: frozenset({WorkerState.IDLE, WorkerState.LEAVING, WorkerState.GONE}),
    WorkerState.LEAVING: frozenset({WorkerState.GONE}),
    WorkerState.GONE: frozenset[WorkerState](),
}
"""Every step that a worker can take."""

STOP_STEPS = {
    StopStep.INTERRUPTED: frozenset({StopStep.ABANDONED, StopStep.TERMINATED}),
    # An abandoned task that begins all the same has had its grace.
    StopStep.ABANDONED: frozenset({StopStep.KILLED}),
    StopStep.TERMINATED: frozenset({StopStep.KILLED}),
    StopStep.KILLED: frozenset[StopStep](),
}
"""Every step up the ladder that ends a task."""


def check_task(old: TaskState, new: TaskState) -> TaskState:
    """Return `new`. Raises `StateError` if a task cannot go there from `old`."""
    if new not in TASK_STEPS[old]:
        raise StateError(f"a task cannot go from {old.name} to {new.name}")
    return new


def check_stop(old: StopStep, new: StopStep) -> StopStep:
    """Return `new`. Raises `StateError` if a stop cannot go there from `old`."""
    if new not in STOP_STEPS[old]:
        raise StateError(f"a stop cannot go from {old.name} to {new.name}")
    return new
