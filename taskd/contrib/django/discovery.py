"""The modules with the tasks of a Django project, imported before any worker is forked."""

from __future__ import annotations

from importlib import import_module

from django.conf import settings
from django.db import connections
from django.utils.module_loading import autodiscover_modules

from taskd.contrib.django.backend import TaskdBackend
from taskd.contrib.django.tasks_api import task_backends

__all__ = ["discover"]


def discover() -> None:
    """Import the module ``tasks`` of each installed app, and those that the backends' options name.

    Then close the connections to databases that this may have opened. Raises what the import
    of a module raises.
    """
    autodiscover_modules("tasks")
    for alias in getattr(settings, "TASKS", {}):
        backend = task_backends[alias]
        if isinstance(backend, TaskdBackend):
            for name in backend.checked_options.modules:
                import_module(name)
    connections.close_all()
