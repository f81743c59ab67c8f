"""The client room: the clients of Python programs, and the links by which they and a gateway reach servers.

Each client is imported when it is first asked for: a program that blocks, or that uses
asyncio, has no need of Twisted, nor the time that it takes to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskd.client.aio import AsyncClient
    from taskd.client.blocking import Client
    from taskd.client.twisted import TaskClient

__all__ = ["AsyncClient", "Client", "TaskClient"]

_MODULES = {
    "AsyncClient": "taskd.client.aio",
    "Client": "taskd.client.blocking",
    "TaskClient": "taskd.client.twisted",
}


def __getattr__(name: str) -> object:
    """Import a client. Raises `AttributeError` for anything else."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return found
