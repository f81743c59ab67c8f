"""The app ``--app taskd.contrib.django``: one durable function, which runs every task of Django.

It sets up the Django project when it is loaded as an app, not when it is only imported, as in
a Django process.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from taskd.contrib.django.order import DEFAULT, FUNCTION, Order
from taskd.functions.decorators import task as taskd_task
from taskd.functions.registry import registry

__all__ = ["run_task", "set_up"]

DAY = 86_400.0
"""Seconds for which an ended task is kept, unless the settings have another ``keep``: Django's
views ask for a result long after the task."""

SETTINGS = "DJANGO_SETTINGS_MODULE"


def set_up() -> None:
    """Set up the Django project, and import the modules of its tasks.

    Connections that the import has opened are closed: workers must not share them.
    Raises `RuntimeError` if no settings module is named.
    """
    if not os.environ.get(SETTINGS):
        raise RuntimeError(f"the environment variable {SETTINGS} names no settings module: set it for twistd")
    import django

    django.setup()
    from taskd.contrib.django.discovery import discover

    discover()


registry.load_hooks.append(set_up)


@taskd_task(name=FUNCTION, durable=True, keep=DAY)
def run_task(
    task: str,
    args: list[Any] = [],  # noqa: B006  # never changed: msgspec makes a new one
    kwargs: dict[str, Any] = {},  # noqa: B006
    backend: str = DEFAULT,
    queue_name: str = DEFAULT,
    priority: int = 0,
    run_after: datetime | None = None,
    enqueued_at: datetime | None = None,
) -> Any:
    """Run a task of Django, named by its import path."""
    from taskd.contrib.django.running import run

    return run(
        Order(
            task=task,
            args=args,
            kwargs=kwargs,
            backend=backend,
            queue_name=queue_name,
            priority=priority,
            run_after=run_after,
            enqueued_at=enqueued_at,
        )
    )
