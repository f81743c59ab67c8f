"""`Order`: the arguments of the function that runs Django's tasks, and so all that is stored of one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

__all__ = ["DEFAULT", "FUNCTION", "Order", "server_priority"]

FUNCTION = "django.task"
"""The function, by its name on the wire, that runs every task of Django."""

DEFAULT = "default"
"""The name of Django's default backend, and of its default queue."""

MIDDLE = 5
"""The server's default priority, to which Django's default, 0, corresponds."""

URGENT_STEP = 20
"""Django's priorities 1 to 100, in the five steps 4 to 0."""

IDLE_STEP = 25
"""Django's priorities -1 to -100, in the four steps 6 to 9."""


class Order(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A task of Django as it is sent: its import path, its arguments, and how it was enqueued."""

    task: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    backend: str = DEFAULT
    queue_name: str = DEFAULT
    priority: int = 0
    run_after: datetime | None = None
    enqueued_at: datetime | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the function that runs it, by name."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


def server_priority(priority: int) -> int:
    """Return the server's priority, 0 (first) to 9, for Django's, 100 (first) to -100.

    What is more urgent for Django is never less urgent for the server.
    """
    if priority > 0:
        return MIDDLE - 1 - (priority - 1) // URGENT_STEP
    return MIDDLE + (IDLE_STEP - 1 - priority) // IDLE_STEP
