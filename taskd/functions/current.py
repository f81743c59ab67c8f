"""The function `current_task`, with which a running function asks about its own task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["NO_TASK", "CurrentTask", "current_task", "describe_current_task_by"]


@dataclass(frozen=True, slots=True)
class CurrentTask:
    """The task whose function runs.

    `number` is the one in the log and in `taskd.status`: another one after each
    start of the server, and for each attempt. `id` is that of a stored task, the
    same in all its attempts; None for other tasks. `attempt` counts the runs of a
    stored task, from 1. `deadline` is the number of seconds that were left of
    the time limit when `current_task` was called, None without a limit. `was_interrupted` says
    that an earlier attempt may have done some of the work: its process or the server ended,
    or the task was put back by hand. `traceparent` is the place in a trace that the caller has
    named (W3C Trace Context), None if it has not. `node` is the number of the node that runs a
    stored task, None if the store is that of one server alone.
    """

    number: int = 0
    id: str | None = None
    attempt: int = 1
    deadline: float | None = None
    was_interrupted: bool = False
    traceparent: str | None = None
    node: int | None = None


NO_TASK = CurrentTask()
"""The answer outside a task: a registered function is an ordinary function there."""

_Source = Callable[[], CurrentTask]


def _none() -> CurrentTask:
    return NO_TASK


_source: _Source = _none


def current_task() -> CurrentTask:
    """Return a description of the task whose function calls this.

    In a thread that the function has started, that is the same task. Outside a
    worker, and in code that an earlier task has left behind, the number is 0 and
    the id None, so that a function need not distinguish.
    """
    return _source()


def describe_current_task_by(source: _Source | None) -> _Source:
    """Have `current_task` return what `source` does in this process; None for `NO_TASK` always.

    Returns the previous source.
    """
    global _source
    before, _source = _source, source or _none
    return before
