"""A task server within a test: all of it is the real one, except for its workers, which are threads."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from threading import Event, Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.pollreactor import PollReactor
from twisted.python.failure import Failure

from taskd.durable.opening import StoreChoice
from taskd.durable.start import StorePart
from taskd.functions.registry import Registry, registry
from taskd.listeners.gate import Gate
from taskd.listeners.tcp import TaskFactory
from taskd.net.endpoints import server_endpoint
from taskd.net.paused import PausedConnections
from taskd.net.reactor import Reactor, use_steady_time
from taskd.net.server_transport import ServerTransport
from taskd.pool.pool import PoolConfig
from taskd.protocol.framing import MAX_MESSAGE
from taskd.scheduler.config import SchedulerConfig
from taskd.server.task_server import ServerConfig, TaskServer
from taskd.store.descriptions import MEMORY
from taskd.testing.pool import ThreadPoolConfig
from taskd.testing.tokens import GivenTokens, MemoryVerifier
from taskd.worker.messages import WorkerConfig

if TYPE_CHECKING:
    from twisted.internet.interfaces import IListeningPort

__all__ = ["WORKERS", "MemoryServer"]

WORKERS = 4
"""Functions that run at once, unless another number is given."""

START_SECONDS = STOP_SECONDS = 10.0
"""Seconds after which a start or a stop has failed: each takes some milliseconds."""


class _OwnReactor(PollReactor):
    """A reactor for a thread, beside the one that the program may have."""

    _registerAsIOThread = False  # noqa: N815  # that is the program's own

    def __init__(self) -> None:
        self._waking = Lock()
        super().__init__()

    def wakeUp(self) -> None:  # noqa: N802
        """Wake the reactor, unless it has been released: a function that was left alone may end later."""
        with self._waking:
            super().wakeUp()

    def release(self) -> None:
        """Close what the reactor has open, after it has stopped."""
        with self._waking:
            waker, self.waker = self.waker, None
        waker.connectionLost(None)


class MemoryServer:
    """A task server in this process, for the tests of one program. It listens on a unix socket of its own.

    ::

        with MemoryServer() as server:
            client = taskd.client.Client(server.address)

    Protocol, checks, queue, options and stored tasks are those of `twistd taskd` with
    ``--store memory``. The functions run in threads of this process, `workers` at once, so that
    a test can replace what they use, and the debugger stops in them. `functions` are
    those that can be called, by default those of all apps that were imported. `socket` is the
    path of the socket, by default one in a temporary directory. With `tokens`, each text of these is a
    token, with what it grants: a client that shows one has these rights, and any other is refused.
    (A client that shows none is trusted, as everywhere on a unix socket of the same user.) With `labels`,
    functions that need other ones are refused, as by a server with these ``--label`` options; without, the
    server has every label.

    The server runs until `close`, and begins with no stored task. Hooks for the start of a worker are run
    once, in the calling thread. Raises `ValueError` if there is no function, `TypeError` if one cannot
    be served, `OSError` if it cannot listen on the socket.
    """

    def __init__(
        self,
        functions: Registry = registry,
        *,
        workers: int = WORKERS,
        socket: str | None = None,
        tokens: GivenTokens | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is a number of functions that run at once, 1 or more, not {workers!r}")
        if not len(functions):
            raise ValueError("no function is registered: import the module with those marked with @task")
        self._functions = functions
        self._tokens = tokens
        config = WorkerConfig([], os.getcwd(), "TaskWorker", MAX_MESSAGE)
        pool = cast(PoolConfig, ThreadPoolConfig(functions, config))
        self._config = ServerConfig(pool, SchedulerConfig(1, workers), labels=labels)
        self._directory = None if socket is not None else tempfile.mkdtemp(prefix="taskd-")
        self.address = f"unix:{socket or os.path.join(self._directory or '', 'socket')}"
        """The server's address, as all clients take it; for ``TASKD_SERVER``, too."""
        self._own = own = _OwnReactor()
        self._reactor = cast(Reactor, own)
        use_steady_time(self._reactor)
        self._thread = Thread(target=own.run, args=(False,), name="taskd server", daemon=True)
        self._thread.start()
        try:
            self._wait_for(self._start, START_SECONDS)
        except BaseException:
            self._end()
            raise
        for hook in functions.start_hooks:
            hook()

    def __enter__(self) -> MemoryServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    def close(self) -> None:
        """End the server: tasks that wait are dropped, and those that run are interrupted."""
        if not self._thread.is_alive():
            return
        try:
            self._wait_for(self._stop, STOP_SECONDS)
        finally:
            self._end()
            for hook in self._functions.stop_hooks:
                hook()

    def _end(self) -> None:
        self._reactor.callFromThread(self._reactor.stop)
        self._thread.join(STOP_SECONDS)
        if not self._thread.is_alive():
            self._own.release()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    # --- in the thread of the reactor ---

    async def _start(self) -> None:
        reactor = self._reactor
        self._server: TaskServer = self._config.start(reactor)
        self._store = StorePart(reactor, self._server, StoreChoice(MEMORY))
        paused = PausedConnections(reactor, self._server.budget)
        gate = None if self._tokens is None else Gate(reactor, MemoryVerifier(self._tokens))
        self._connections = TaskFactory(reactor, self._server, paused=paused, gate=gate)
        endpoint = server_endpoint(reactor, self.address, ServerTransport)
        await self._server.loaded
        try:
            self._port: IListeningPort = await endpoint.listen(self._connections)
        except (CannotListenError, OSError) as error:
            await self._close_parts()
            raise OSError(f"cannot listen on {self.address}: {error}") from error

    async def _stop(self) -> None:
        await (self._port.stopListening() or succeed(None))
        await self._close_parts()

    async def _close_parts(self) -> None:
        for part in (self._connections, self._store, self._server):
            part.stop_accepting()
        self._server.abort()
        await self._server.drain()
        self._connections.abort()
        await self._connections.close()
        await self._store.close()
        closed = self._server.close()
        self._server.abort()
        await closed

    # --- in any other thread ---

    def _wait_for(self, what: Callable[[], Coroutine[Deferred[Any], Any, None]], seconds: float) -> None:
        """Have a coroutine run by the reactor, and wait for its end; raise what it raises."""
        ended = Event()
        failures: list[Failure] = []

        def begin() -> None:
            done = Deferred.fromCoroutine(what())
            done.addErrback(failures.append).addBoth(lambda _: ended.set())

        self._reactor.callFromThread(begin)
        if not ended.wait(seconds):
            raise RuntimeError(f"{self!r} does not answer within {seconds:g} s")
        for failure in failures:
            failure.raiseException()
