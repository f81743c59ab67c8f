"""The store of a drill: one of its own beside the one that was named, whose tasks are never touched."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from taskd.drill.link import Ends
from taskd.drill.node import DrillError
from taskd.drill.plan import LINK, NODES, TARGETS, WORKERS
from taskd.store.base import StoreError
from taskd.store.descriptions import MEMORY, SQLITE, is_postgres, wrong_kind

__all__ = ["DEFAULT_STORE", "Place", "StoreServer", "place_for", "targets_of"]

DEFAULT_STORE = "sqlite:taskd.db"
"""That of a daemon with durable functions, if none is named."""


class StoreServer(Protocol):
    """The server of a store that many nodes share, with a database of the drill's own."""

    @property
    def host(self) -> str:
        """Its address, or the folder of its socket, which begins with a slash."""

    @property
    def port(self) -> int:
        """The number of its port, which the name of its socket ends with, too."""

    @property
    def shown(self) -> str:
        """Names the database to people."""

    def through(self, host: str, port: int) -> str:
        """Return the description of the store for nodes that reach it by another way."""

    def drop(self) -> None:
        """Remove the database. Raises `StoreError`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a drill takes place: a new `directory`, and the `store` of its nodes. `shown` is for people.

    `server` is that of the store, if it has one.
    """

    directory: Path
    store: str
    shown: str
    server: StoreServer | None = None

    async def connect(self) -> Ends:
        """Open a connection to the server of the store. Raises `OSError`."""
        server = self.server
        assert server is not None
        if server.host.startswith("/"):
            return await asyncio.open_unix_connection(f"{server.host}/.s.PGSQL.{server.port}")
        return await asyncio.open_connection(server.host, server.port)

    def keep(self, directory: str) -> str:
        """Move the files to a directory, unless they are there; return what is kept, for people."""
        if Path(directory) != self.directory:
            shutil.move(self.directory, directory)
        return directory if self.server is None else f"{directory}, and {self.server.shown}"

    def remove(self) -> str | None:
        """Remove the files and the database; return what could not be removed, for people."""
        shutil.rmtree(self.directory, ignore_errors=True)
        try:
            if self.server is not None:
                self.server.drop()
        except StoreError as error:
            return f"{self.server.shown if self.server else ''} is left: {error}"
        return None


def targets_of(store: str) -> frozenset[str]:
    """Return all that can be killed with this store."""
    return frozenset(TARGETS if is_postgres(store) else (WORKERS, NODES))


def place_for(store: str, nodes: int, targets: frozenset[str]) -> Place:
    """Make the place of a drill with a store like this one. Raises `DrillError`.

    For a file the directory is made beside it, on the same file system; for PostgreSQL there is
    a new database on the same server.
    """
    if is_postgres(store):
        return _postgres(store)
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
    raise DrillError(wrong_kind(store))


def _postgres(store: str) -> Place:
    try:
        from taskd.store.postgres.separate import SeparateDatabase
    except ImportError as error:
        raise DrillError(f"{error}: pip install 'twisted-taskd[postgres]'") from None
    try:
        database = SeparateDatabase.make(store, f"taskd_drill_{os.urandom(6).hex()}")
    except StoreError as error:
        raise DrillError(str(error)) from None
    return Place(_directory(None), database.description(), f"PostgreSQL, {database.shown}", database)


def _directory(beside: Path | None) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="taskd-drill-", dir=beside))
    except OSError as error:
        where = beside or tempfile.gettempdir()
        raise DrillError(f"cannot make a directory in {where}: {os.strerror(error.errno or 0)}") from None
