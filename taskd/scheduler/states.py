"""The states of tasks, workers and stops, with one literal table of steps for each.

A step that its table does not list raises `StateError`: it is a bug in taskd.
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

# IntEnum, since its members are hashed as integers, in C. Those of Enum are hashed by a
# method in Python, which would cost as much as the rest of a step.


class TaskState(IntEnum):
    """The state of a task, on the way to its outcome."""

    NEW = 0
    WAITING = 1
    GIVEN = 2
    """A worker has the task, and runs it or soon will."""
    DONE = 3
    """The task has its outcome, or gets one now without being run."""


class WorkerState(IntEnum):
    """The state of a worker, as the scheduler sees it."""

    STARTING = 0
    STANDBY = 1
    """Ready, with new code that is not in use yet."""
    IDLE = 2
    BUSY = 3
    LEAVING = 4
    """The worker gets no more tasks, and ends after those that it has."""
    GONE = 5


class StopStep(IntEnum):
    """The step that the stop of a worker's task has reached."""

    INTERRUPTED = 0
    """The function has been interrupted and cleans up, or the worker returns the task unbegun."""
    ABANDONED = 1
    """The task had not begun when its grace was over, and will not begin."""
    TERMINATED = 2
    """The worker's process group has been sent SIGTERM."""
    KILLED = 3
    """The worker's process group has been sent SIGKILL."""


# The hot paths use these names: in Python 3.11, looking up a member of an
# enumeration takes as long as a whole function call.
NEW, WAITING, GIVEN, DONE = TaskState
STARTING, STANDBY, IDLE, BUSY, LEAVING, GONE = WorkerState

TASK_STEPS = {
    TaskState.NEW: frozenset({TaskState.WAITING}),
    TaskState.WAITING: frozenset({TaskState.GIVEN, TaskState.DONE}),
    # Back to waiting: the worker returned the task unbegun, or ended before it began.
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
    # If an abandoned task begins after all, it gets no second grace.
    StopStep.ABANDONED: frozenset({StopStep.KILLED}),
    StopStep.TERMINATED: frozenset({StopStep.KILLED}),
    StopStep.KILLED: frozenset[StopStep](),
}
"""Every step that a stop can take: interrupt, terminate, kill."""


def check_task(old: TaskState, new: TaskState) -> TaskState:
    """Return `new`. Raises `StateError` if a task cannot go from `old` to it."""
    if new not in TASK_STEPS[old]:
        raise StateError(f"a task cannot go from {old.name} to {new.name}")
    return new


def check_stop(old: StopStep, new: StopStep) -> StopStep:
    """Return `new`. Raises `StateError` if a stop cannot go from `old` to it."""
    if new not in STOP_STEPS[old]:
        raise StateError(f"a stop cannot go from {old.name} to {new.name}")
    return new
