"""Stores that a command works on, while no server uses them."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from taskd import __version__
from taskd.durable.opening import check_psycopg, open_postgres
from taskd.durable.settling import LOST_WITH_DAEMON
from taskd.store.base import StoreError
from taskd.store.descriptions import SQLITE, is_postgres
from taskd.store.nodes import NodeInfo
from taskd.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from taskd.store.postgres import PostgresStore

__all__ = ["Alone", "open_alone", "path_of"]

RENEW_SECONDS = 2.0
"""Seconds between two times that a database is asked who uses it, which shows others this command."""

SHOWN = 5
"""Servers that are named."""


def path_of(description: str) -> str | None:
    """Return the file of a description, which may be its path alone; None for a database."""
    return None if is_postgres(description) else description.removeprefix(SQLITE)


class Alone:
    """A store that no server uses or, if it `is_shared`, may use."""

    def __init__(self, store: SqliteStore | PostgresStore, *, is_shared: bool = False) -> None:
        self.store = store
        self._is_shared = is_shared
        self._checked = 0.0
        self.check()

    @property
    def name(self) -> str:
        """The name of the store, for people."""
        return self.store.path if isinstance(self.store, SqliteStore) else self.store.name

    def now(self) -> float:
        """Return the time by which its tasks are run, in seconds since 1970. Raises `StoreError`."""
        return time.time() if self.store.nodes is None else self.store.nodes.now()

    def keep(self) -> None:
        """Check it again if the last time is long ago. Raises `StoreError`."""
        if time.monotonic() - self._checked > RENEW_SECONDS:
            self.check()

    def check(self) -> None:
        """Raise `StoreError` if a server uses it. A file is locked; a database shows who uses it."""
        nodes = self.store.nodes
        self._checked = time.monotonic()
        if nodes is None:
            return
        nodes.renew(_INFO, rescues=False)
        others = [row for row in nodes.rows() if row.node != nodes.node]
        if others and not self._is_shared:
            shown = ", ".join(f"{row.node} ({row.info.name})" for row in others[:SHOWN])
            more = ", …" if len(others) > SHOWN else ""
            raise StoreError(
                f"{self.name} is used by {shown}{more}: stop what uses it; "
                "what has died is gone 10 seconds later"
            )

    def rescue(self, once: Collection[str]) -> int:
        """Let the tasks wait that ran when its servers died, as their next start would; return how many.

        Those of the functions in `once` have failed. Raises `StoreError`.
        """
        return self.store.rescue(self.now(), once, LOST_WITH_DAEMON)


_INFO = NodeInfo(name="taskd store", version=__version__, is_draining=True)


@contextmanager
def open_alone(description: str, *, is_new: bool = False, is_shared: bool = False) -> Iterator[Alone]:
    """Open a store which, unless it may be new, must be there. Raises `StoreError`."""
    path = path_of(description)
    if path is not None:
        if not path or path.partition(":")[0] == "memory":
            raise StoreError(f"a store is sqlite:PATH or postgres:DATABASE here, not {description!r}")
        if not is_new and not os.path.exists(path):
            raise StoreError(f"there is no file {path}")
    elif not is_new:
        check_psycopg()
        from taskd.store.postgres.outside import check_exists

        check_exists(description)
    store = SqliteStore(path) if path is not None else open_postgres(description, _INFO)
    try:
        yield Alone(store, is_shared=is_shared)
    finally:
        store.close()
