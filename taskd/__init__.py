"""taskd hands heavy work to a pool of processes and pushes each result back; apps import from here.

An app module needs only what is exported here. None of it imports Twisted, so
that worker processes stay small.
"""

from taskd.functions.current import CurrentTask, current_task
from taskd.functions.decorators import on_worker_start, on_worker_stop, task
from taskd.functions.progress import progress
from taskd.functions.retries import Retry
from taskd.functions.stops import TaskCancelled, TaskStopped, TaskTimeout

__all__ = [
    "CurrentTask",
    "Retry",
    "TaskCancelled",
    "TaskStopped",
    "TaskTimeout",
    "current_task",
    "on_worker_start",
    "on_worker_stop",
    "progress",
    "task",
]
__version__ = "0.1.0"
