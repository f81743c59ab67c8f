"""What a task, a worker and a stop can go through: each one literal table.

A step that its table does not list raises `StateError`, and is a bug of taskd.
"""

from __future__ import annotations

from enum import IntEnum

from taskd.errors import StateError

__all__ = ["StopStep", "TaskState", "WorkerState", "check_stop", "check_task", "check_worker"]

# IntEnum: its members are hashed as integers, in C; those of Enum by a method
# in Python, which would cost as much as the rest of a step.


class TaskState(IntEnum):
    """What has become of a task."""

    NEW = 0
    WAITING = 1
    THROTTLED = 2
    """Its caller leaves too much unread."""
    GIVEN = 3
    """A worker has it, and runs it or will soon."""
    DONE = 4
    """Its caller has been answered."""


class WorkerState(IntEnum):
    """What a worker is doing."""

    STARTING = 0
    STANDBY = 1
    """Of new code that is not in use yet."""
    IDLE = 2
    BUSY = 3
    LEAVING = 4
    """Gets no more tasks, and ends after those that it has."""
    GONE = 5


class StopStep(IntEnum):
    """How far the stop of a running task is."""

    RAISED = 0
    """The function has been interrupted, and cleans up."""
    TERMINATED = 1
    """Its process group has been sent SIGTERM."""
    KILLED = 2
    """Its process group has been sent SIGKILL."""


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
    StopStep.RAISED: frozenset({StopStep.TERMINATED}),
    StopStep.TERMINATED: frozenset({StopStep.KILLED}),
    StopStep.KILLED: frozenset[StopStep](),
}
"""Every step up the ladder that ends a running task."""


def check_task(old: TaskState, new: TaskState) -> TaskState:
    """`new`; raises `StateError` where a task cannot come to it from `old`."""
    if new not in TASK_STEPS[old]:
        raise StateError(f"a task cannot go from {old.name} to {new.name}")
    return new


def check_worker(number: int, old: WorkerState, new: WorkerState) -> WorkerState:
    """`new`; raises `StateError` where a worker cannot come to it from `old`."""
    if new not in WORKER_STEPS[old]:
        raise StateError(f"worker {number} cannot go from {old.name} to {new.name}")
    return new


def check_stop(old: StopStep, new: StopStep) -> StopStep:
    """`new`; raises `StateError` where a stop cannot come to it from `old`."""
    if new not in STOP_STEPS[old]:
        raise StateError(f"a stop cannot go from {old.name} to {new.name}")
    return new
