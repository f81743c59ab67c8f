"""The exceptions that stop a running function, and its default time to clean up."""

from __future__ import annotations

__all__ = ["GRACE", "TaskCancelled", "TaskStopped", "TaskTimeout"]

GRACE = 5.0
"""Seconds that a stopped function has to clean up, unless it is registered with another
grace: enough to roll back a transaction and delete a file, without keeping the caller waiting."""


class TaskStopped(BaseException):
    """The base of the exceptions that end a running function, raised wherever it is.

    Like `asyncio.CancelledError`, this is not an `Exception`: code that catches
    every error and continues must not swallow it. A function may catch it to
    clean up within its grace; what it returns then is ignored. An ``async def``
    function gets `asyncio.CancelledError` instead.
    """


class TaskTimeout(TaskStopped):
    """The function has reached its time limit."""


class TaskCancelled(TaskStopped):
    """A caller has cancelled the task."""
