"""The store of a drill: one of its own beside the one that was named, whose tasks are never touched."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from taskd.drill.link import Connect
from taskd.drill.node import DrillError
from taskd.drill.plan import LINK

__all__ = ["DEFAULT_STORE", "Place", "place_for"]

DEFAULT_STORE = "sqlite:taskd.db"
"""That of a daemon with durable functions, if none is named."""

MEMORY, SQLITE = "memory", "sqlite:"
SHARED = ("postgres:", "postgresql:")
"""How the descriptions of stores begin that many nodes share."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a drill takes place: a new `directory`, and the `store` of its nodes. `shown` is for people.

    If the store has a server, `connect` opens a connection to it, and `through` returns the description of
    the store for nodes that reach it through a port of this machine.
    """

    directory: Path
    store: str
    shown: str
    connect: Connect | None = None
    through: Callable[[int], str] | None = None


def place_for(store: str, nodes: int, targets: frozenset[str]) -> Place:
    """Make the place of a drill with a store like this one.

    For a file the directory is made beside it, on the same file system. Raises `DrillError`.
    """
    if store.startswith(SHARED):
        raise DrillError("a drill on PostgreSQL is not possible yet: this taskd has no such store")
    if nodes > 1:
        raise DrillError(f"{store} is the store of one node, and not of {nodes}")
    if LINK in targets:
        raise DrillError(f"{store} has no link that could be cut: leave out {LINK}")
    if store.partition(":")[0] == MEMORY:
        return Place(_directory(None), store, f"{store} (which loses its tasks with the node)")
    if store.startswith(SQLITE) and (path := store.removeprefix(SQLITE)):
        beside = Path(path).absolute()
        directory = _directory(beside if beside.is_dir() else beside.parent)
        return Place(directory, f"{SQLITE}{directory / 'tasks.db'}", f"SQLite, a file in {directory.parent}")
    raise DrillError(f"a store is memory, sqlite:PATH or postgres:…, not {store!r}")


def _directory(beside: Path | None) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="taskd-drill-", dir=beside))
    except OSError as error:
        where = beside or tempfile.gettempdir()
        raise DrillError(f"cannot make a directory in {where}: {os.strerror(error.errno or 0)}") from None
