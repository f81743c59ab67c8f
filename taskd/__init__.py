"""taskd hands heavy work to a pool of processes and pushes each result back; apps import from here.

An app module needs only what is exported here. None of it imports Twisted, so
that worker processes stay small. Each name is imported when it is first asked for: a
program that only calls tasks has no need of what apps are made with.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskd.functions.current import CurrentTask, current_task
    from taskd.functions.decorators import on_worker_start, on_worker_stop, task
    from taskd.functions.progress import progress
    from taskd.functions.retries import Retry
    from taskd.functions.secrets import Secret
    from taskd.functions.stops import TaskCancelled, TaskStopped, TaskTimeout

__all__ = [
    "CurrentTask",
    "Retry",
    "Secret",
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

_MODULES = {
    "CurrentTask": "taskd.functions.current",
    "Retry": "taskd.functions.retries",
    "Secret": "taskd.functions.secrets",
    "TaskCancelled": "taskd.functions.stops",
    "TaskStopped": "taskd.functions.stops",
    "TaskTimeout": "taskd.functions.stops",
    "current_task": "taskd.functions.current",
    "on_worker_start": "taskd.functions.decorators",
    "on_worker_stop": "taskd.functions.decorators",
    "progress": "taskd.functions.progress",
    "task": "taskd.functions.decorators",
}


def __getattr__(name: str) -> object:
    """Import a name of an app. Raises `AttributeError` for anything else."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
