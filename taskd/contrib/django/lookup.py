"""Tasks by their import paths: only what Django's decorator has made, and only in known modules."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from django.apps import apps

from taskd.contrib.django.tasks_api import Task

__all__ = ["UnknownTask", "find_task"]


class UnknownTask(LookupError):
    """There is no task at an import path; the text says why."""


def find_task(path: str) -> Task:
    """Return the task at an import path, such as ``shop.tasks.send``.

    The path comes from outside, so it names nothing but a task: a module is
    imported only if it belongs to an installed app. Raises `UnknownTask` if there is none, and
    whatever the import of such a module raises.
    """
    module_name, _, name = path.rpartition(".")
    found = getattr(_module(module_name, path), name, None)
    if isinstance(found, Task):
        return found
    what = "nothing there" if found is None else f"but {type(found).__name__}"
    raise UnknownTask(f"{path!r} is no task: {what}; a task is a function with Django's @task")


def _module(name: str, path: str) -> ModuleType:
    if (known := sys.modules.get(name)) is not None:
        return known
    if not any(name == each.name or name.startswith(f"{each.name}.") for each in apps.get_app_configs()):
        raise UnknownTask(
            f"{path!r} is no task that is known here: {name!r} is neither in an installed app nor imported; "
            "name the module in TASKS[…]['OPTIONS']['modules']"
        )
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports one that is not
        raise UnknownTask(f"{path!r} is no task: there is no module {error.name!r}") from error
