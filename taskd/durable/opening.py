"""The opening of a daemon's store: at once if one was named, else when it is known what the app needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.logger import Logger

from taskd.durable.store_thread import StoreThread
from taskd.functions.registry import FunctionInfo
from taskd.store.base import Store, StoreError
from taskd.store.descriptions import MEMORY, SQLITE, is_postgres, wrong_kind
from taskd.store.memory import MemoryStore
from taskd.store.memory_limits import MemoryLimits
from taskd.store.nodes import NodeInfo, NodeStore
from taskd.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from taskd.store.postgres import PostgresStore

__all__ = ["Opening", "StoreChoice", "check_psycopg", "open_postgres", "open_store"]

_log = Logger(namespace="taskd.store")

SWITCH_SECONDS = 0.0005
"""Seconds after which the interpreter lets the other thread go on. The store's thread gives way in each
statement; with Python's 5 ms it would wait that long to go on, while the reactor is busy."""


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """The store that a daemon uses: ``memory``, ``memory:LIMITS``, ``sqlite:PATH`` or ``postgres:DATABASE``.

    With `is_default` nobody has named it: it is used if a function is durable, and otherwise
    the one in memory.
    """

    description: str = MEMORY
    is_default: bool = False


def open_store(description: str) -> Store:
    """Open the store of a description. Raises `StoreError`."""
    kind, colon, rest = description.partition(":")
    if kind == MEMORY and (rest or not colon):
        return MemoryStore(MemoryLimits.parse(rest))
    if description.startswith(SQLITE) and rest:
        return SqliteStore(rest)
    if is_postgres(description):
        return open_postgres(description)
    raise StoreError(wrong_kind(description))


def open_postgres(description: str, info: NodeInfo | None = None) -> PostgresStore:
    """Open a store in PostgreSQL; its node shows itself as `info`. Raises `StoreError`."""
    check_psycopg()
    from taskd.store.postgres import PostgresStore

    return PostgresStore(description, info)


def check_psycopg() -> None:
    """Raise `StoreError` if `taskd.store.postgres` cannot be imported."""
    try:
        import taskd.store.postgres  # noqa: F401
    except ImportError as error:
        raise StoreError(
            f"a store in PostgreSQL needs psycopg, which cannot be imported ({error}): "
            "pip install 'twisted-taskd[postgres]'"
        ) from error


class _NotYet:
    """Stands for a store that is not chosen yet. It is asked for nothing but this: `execute` waits."""

    is_lasting = False
    room = inf
    """What it will have room for is not known: whoever writes has a bound of its own for what waits."""

    def close(self) -> None:
        """Do nothing."""


class _Later:
    """Has all methods of a store that may be chosen later."""

    def __init__(self) -> None:
        self.chosen: Any = _NotYet()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.chosen, name)


class Opening:
    """The store of a daemon, and what its functions are run by: a thread if they wait for a disk.

    `store` and `execute` can be used at once; what is executed before the store
    is open is done then. Raises `StoreError` if a store that was named cannot be opened.
    """

    def __init__(self, reactor: IReactorThreads, choice: StoreChoice) -> None:
        self.error: StoreError | None = None
        """Why the store could not be opened; None if it could, or is not needed yet."""
        self._reactor = reactor
        self._choice = choice
        self._later = _Later()
        self.store = cast(Store, self._later)
        self._thread: StoreThread | None = None
        self._reading_thread: StoreThread | None = None
        self._renewing_thread: StoreThread | None = None
        self._held: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self._is_open = False
        if not choice.is_default:
            self._open(choice.description)

    def use(self, functions: Sequence[FunctionInfo]) -> None:
        """Open the store, if it has not been, and report which it is if these functions need one."""
        durable = [each.name for each in functions if each.durable is not None]
        if not self._is_open:
            try:
                self._open(self._choice.description if durable else MEMORY)
            except StoreError as error:
                self.error = StoreError(f"{error}. Name another with --store, or go without: --store memory")
                self._fail_held()
                return
            self._report(durable)
        elif durable and not self.store.is_lasting:
            advice = "stop and start the daemon" if self._choice.is_default else "use --store sqlite:PATH"
            _log.warn(
                "the store is memory: tasks of {durable} are lost with the daemon, although durable; "
                "to keep them, {advice}",
                durable=", ".join(durable),
                advice=advice,
            )

    def _report(self, durable: list[str]) -> None:
        path = self._choice.description.removeprefix(SQLITE)
        if durable:
            _log.info(
                "the store is {path} (--store), since there are durable functions: {durable}",
                path=path,
                durable=", ".join(durable),
            )
        elif os.path.exists(path):
            _log.warn(
                "no function is durable, so {path} is not used: name it with --store if its tasks matter",
                path=path,
            )

    def _open(self, description: str) -> None:
        store = self._later.chosen = open_store(description)
        self._is_open = True
        if store.is_lasting:
            sys.setswitchinterval(SWITCH_SECONDS)
            self._thread = StoreThread(self._reactor)
            self._reading_thread = StoreThread(self._reactor, "store-reader")
        if store.nodes is not None:
            self._renewing_thread = StoreThread(self._reactor, "store-node")
        held, self._held = self._held, []
        for function, fires in held:
            self.execute(function).chainDeferred(fires)

    def execute(self, function: Callable[[], Any]) -> Deferred[Any]:
        """Run a function of the store; the Deferred fires in the reactor with its result."""
        return self._run(self._thread, function)

    def read(self, function: Callable[[], Any]) -> Deferred[Any]:
        """Run a function that only reads, as `execute` does; no write waits for it."""
        return self._run(self._reading_thread, function)

    def renew(self, function: Callable[[], Any]) -> Deferred[Any]:
        """Run a function of the store's nodes, as `execute` does; it waits for no write."""
        return self._run(self._renewing_thread, function)

    @property
    def nodes(self) -> NodeStore | None:
        """The nodes that share the store; None if it is not shared, or not open yet."""
        return self.store.nodes if self._is_open else None

    def _run(self, thread: StoreThread | None, function: Callable[[], Any]) -> Deferred[Any]:
        if thread is not None:
            return thread.execute(function)
        deferred: Deferred[Any] = Deferred()
        if not self._is_open and self.error is None:
            self._held.append((function, deferred))
            return deferred
        try:
            if self.error is not None:
                raise self.error
            deferred.callback(function())
        except Exception:
            deferred.errback()
        return deferred

    def give_up(self) -> None:
        """Open nothing any more: the daemon stops."""
        if not self._is_open and self.error is None:
            self.error = StoreError("the daemon stops before it has opened a store")
            self._fail_held()

    def _fail_held(self) -> None:
        held, self._held = self._held, []
        for _, fires in held:
            fires.errback(self.error)

    def end_threads(self) -> None:
        """End the threads, once the store is closed."""
        for thread in (self._thread, self._reading_thread, self._renewing_thread):
            if thread is not None:
                thread.end()
