"""A backend for Django's Tasks, and the app that runs them.

In the settings of a Django project::

    TASKS = {"default": {"BACKEND": "taskd.contrib.django.TaskdBackend"}}

and beside it, with ``DJANGO_SETTINGS_MODULE``::

    twistd -n taskd --app taskd.contrib.django

Importing this package imports no Django: `TaskdBackend` does, when Django looks it up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskd.contrib.django import app as app

if TYPE_CHECKING:
    from taskd.contrib.django.backend import TaskdBackend

__all__ = ["TaskdBackend"]


def __getattr__(name: str) -> Any:
    if name != "TaskdBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from taskd.contrib.django.backend import TaskdBackend

    return TaskdBackend
