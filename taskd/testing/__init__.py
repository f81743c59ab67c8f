"""The testing room: clients for the tests of programs that use taskd, which need no server beside the test.

Each is imported when it is first asked for, as those of `taskd.client` are.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskd.testing.aio import AsyncClient
    from taskd.testing.client import Client
    from taskd.testing.server import MemoryServer
    from taskd.testing.twisted import TaskClient

__all__ = ["AsyncClient", "Client", "MemoryServer", "TaskClient"]

_MODULES = {
    "AsyncClient": "taskd.testing.aio",
    "Client": "taskd.testing.client",
    "MemoryServer": "taskd.testing.server",
    "TaskClient": "taskd.testing.twisted",
}


def __getattr__(name: str) -> object:
    """Import one of them. Raises `AttributeError` for anything else."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return found
