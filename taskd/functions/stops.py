"""The exceptions that stop a running function, and the time that it has to clean up."""

from __future__ import annotations

__all__ = ["GRACE", "TaskCancelled", "TaskStopped", "TaskTimeout"]

GRACE = 5.0
"""Seconds that a stopped function has to clean up, unless it is registered with another
grace: enough to roll back and to delete a file, and its caller does not wait much longer."""


class TaskStopped(BaseException):
    """The reason why a running function must end now, raised wherever the function is.

    Like `asyncio.CancelledError` it is no `Exception`: code that catches every
    error and goes on must not swallow it. A function may catch it to clean up
    within its grace; what it returns then is ignored. An ``async def`` function
    gets `asyncio.CancelledError` instead.
    """


class TaskTimeout(TaskStopped):
    """The function has reached its time limit."""


class TaskCancelled(TaskStopped):
    """A caller has cancelled the task."""
