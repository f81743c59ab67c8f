"""What stops a function that runs, and how long it has to clean up."""

from __future__ import annotations

__all__ = ["GRACE", "TaskCancelled", "TaskStopped", "TaskTimeout"]

GRACE = 5.0
"""Seconds that a stopped function has to clean up in, where it does not say otherwise:
enough to roll back and to delete a file; whoever waits is not kept much longer."""


class TaskStopped(BaseException):
    """Raised inside a function that is to end now, whatever it is doing.

    Not an `Exception`, as `asyncio.CancelledError` is none: code that catches
    every error and goes on must not swallow it. A function may catch it to
    clean up, for as long as its grace is; what it returns is not used. An
    ``async def`` function gets `asyncio.CancelledError` in its place.
    """


class TaskTimeout(TaskStopped):
    """The function has reached its time limit."""


class TaskCancelled(TaskStopped):
    """Somebody has cancelled the task."""
