"""The start of a store, and its part in the stop of the daemon."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from taskd.durable.methods import StoredMethods
from taskd.durable.tasks import DurableTasks
from taskd.durable.wall_clock import WallClock
from taskd.net.reactor import Reactor
from taskd.server.task_server import TaskServer
from taskd.store.base import Store, StoreError
from taskd.store.memory import MemoryStore
from taskd.store.sqlite import SqliteStore

__all__ = ["StorePart", "open_store"]

MEMORY = "memory"
SQLITE = "sqlite:"


def open_store(description: str) -> Store:
    """Open the store of a description: ``memory``, or ``sqlite:PATH``. Raises `StoreError`."""
    if description == MEMORY:
        return MemoryStore()
    if description.startswith(SQLITE) and description != SQLITE:
        return SqliteStore(description.removeprefix(SQLITE))
    raise StoreError(f"a store is memory or sqlite:PATH, not {description!r}")


class StorePart:
    """The store of a daemon, as a part that stops with it. Implements `taskd.daemon.parts.TaskPart`."""

    def __init__(self, reactor: Reactor, server: TaskServer, store: Store) -> None:
        self._pool: ThreadPool | None = None
        execute: Callable[[Callable[[], Any]], Deferred[Any]] = _at_once
        if store.is_lasting:
            pool = self._pool = ThreadPool(1, 1, "store")
            pool.start()
            threads: IReactorThreads = reactor  # type: ignore[assignment]
            execute = lambda function: deferToThreadPool(threads, pool, function)  # noqa: E731
        self._wall_clock = WallClock(reactor, time.time, self._clock_moved)
        self._tasks = DurableTasks(reactor, server, store, execute, self._wall_clock.now)
        self._wall_clock.start()
        server.stored = StoredMethods(reactor, self._tasks, lambda: server.functions)

    def _clock_moved(self, seconds: float) -> None:
        self._tasks.clock_moved(seconds, self._wall_clock.follow)

    def stop_accepting(self) -> None:
        """Refuse new tasks; what waits is left in the store."""
        self._tasks.stop_accepting()

    def drain(self) -> Deferred[None]:
        """Return a Deferred that fires at once: the task server waits for the tasks that run."""
        return succeed(None)

    def in_flight(self) -> Counter[str]:
        """Return nothing: these are the task server's tasks."""
        return Counter()

    def abort(self) -> None:
        """Do nothing: what is not stored yet has to be."""

    def close(self) -> Deferred[None]:
        """Write what is left, and close the store."""

        def stop(_: object) -> None:
            self._wall_clock.stop()
            if self._pool is not None:
                self._pool.stop()

        return self._tasks.close().addBoth(stop)


def _at_once(function: Callable[[], Any]) -> Deferred[Any]:
    deferred: Deferred[Any] = Deferred()
    try:
        deferred.callback(function())
    except Exception:
        deferred.errback()
    return deferred
