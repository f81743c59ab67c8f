"""``twistd taskd``: its options, and the service that they make."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from setproctitle import setproctitle
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.process import reapAllProcesses
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskd.daemon.options import DaemonOptions
from taskd.errors import StartError
from taskd.listeners.tcp import TaskFactory, TcpLimits
from taskd.net.endpoints import client_description, keep_alive, server_endpoint
from taskd.net.reactor import Reactor, installed_reactor
from taskd.net.server_transport import ServerTransport
from taskd.pool.pool import PoolConfig
from taskd.scheduler.config import SchedulerConfig
from taskd.server.task_server import ServerConfig, TaskServer
from taskd.worker.messages import WorkerConfig

if TYPE_CHECKING:
    # Imported where there is a gateway: without one, Autobahn and twisted.web
    # would be 9 MiB and 0.1 s of the start for nothing.
    from taskd.listeners.gateway import Gateway, GatewayConfig

__all__ = ["Options", "ServiceConfig", "TaskdService", "makeService"]

_log = Logger(namespace="taskd")

Options = DaemonOptions
"""By this name `twistd` finds the options of the plugin that names this module."""

FLUSH_TIMEOUT = 5.0
"""Seconds that clients have, at the end, to take the replies that they are owed."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What a service is made of; no `listen` means no task server, no `websocket` no gateway.

    `gateway` is None where there is none.
    """

    server: ServerConfig
    listen: Sequence[str]
    websocket: Sequence[str]
    gateway: GatewayConfig | None
    limits: TcpLimits
    stop_timeout: float

    @classmethod
    def of(cls, options: DaemonOptions, directory: str) -> ServiceConfig:
        """The configuration that the options describe; relative paths begin in `directory`."""
        # twistd may change to another directory before the app is imported.
        apps = [
            str(Path(directory, app)) if app.endswith(".py") or "/" in app else app for app in options["app"]
        ]
        config = WorkerConfig(
            apps,
            directory,
            options["name"],
            options["max-message"],
            bool(options["tracebacks"]),
            options["hard-memory"],
        )
        least, most = options["workers"]
        max_memory = options["max-memory"]
        return cls(
            server=ServerConfig(
                PoolConfig(most, config),
                SchedulerConfig(
                    min_workers=least,
                    max_workers=most,
                    max_queue=options["max-queue"],
                    idle_seconds=options["idle"],
                    max_tasks=options["max-tasks"],
                    processors=len(os.sched_getaffinity(0)),
                ),
                timeout=options["timeout"],
                max_memory=None if max_memory is None else max_memory // 1024,
            ),
            listen=options["listen"],
            websocket=options["websocket"],
            gateway=_gateway_config(options) if options["websocket"] else None,
            limits=TcpLimits(options["max-message"], options["max-outstanding"], options["max-unsent"]),
            stop_timeout=options["stop-timeout"],
        )


def _gateway_config(options: DaemonOptions) -> GatewayConfig:
    from taskd.listeners.gateway import GatewayConfig

    return GatewayConfig(
        options["task-server"], options["link"], options["allow-origin"], options["max-message"]
    )


def makeService(options: DaemonOptions) -> IService:
    """The service for ``twistd``."""
    return TaskdService(installed_reactor(), ServiceConfig.of(options, os.getcwd()))


# --- the service -------------------------------------------------------------


class TaskdService(Service):
    """A task server, or a gateway, or both.

    Listens before privileges are shed, imports the app and starts the pool
    after. Raises `StartError` where that cannot be done.
    """

    def __init__(self, reactor: Reactor, config: ServiceConfig) -> None:
        self._reactor = reactor
        self._config = config
        self._ports: list[IListeningPort] = []
        self._server: TaskServer | None = None
        self._tcp: TaskFactory | None = None
        self._gateway: Gateway | None = None
        self._had_terminal = False

    def privilegedStartService(self) -> None:
        """Bind every port."""
        super().privilegedStartService()
        config = self._config
        if config.listen:
            self._server = TaskServer(self._reactor, config.server)
            self._tcp = TaskFactory(self._reactor, self._server, config.limits)
            for description in config.listen:
                self._listen(description, self._tcp, ServerTransport)
        if config.gateway is not None:
            self._gateway = self._make_gateway(config.gateway)
            for description in config.websocket:
                self._listen(description, _site(self._reactor, self._gateway), ServerTransport)

    def _make_gateway(self, config: GatewayConfig) -> Gateway:
        if not config.task_servers:
            server = client_description(self._ports[0].getHost())
            if server is None or self._config.listen[0].lower().startswith("ssl:"):
                raise StartError(
                    f"taskd: the gateway cannot tell how to reach --listen {self._config.listen[0]}; "
                    "say it with --task-server (tls:HOST:PORT, with the name in the certificate)"
                )
            config = replace(config, task_servers=[server])
        try:
            return config.start(self._reactor)
        except ValueError as error:
            raise StartError(f"taskd: --task-server {error}") from error

    def _listen(
        self, description: str, factory: IProtocolFactory, transport: Callable[..., Any] | None = None
    ) -> None:
        try:
            endpoint = server_endpoint(self._reactor, description, transport)
            port = wait(self._reactor, endpoint.listen(factory))
        except ValueError as error:
            raise StartError(f"taskd: {error}") from error
        except CannotListenError as error:
            why = getattr(error.socketError, "strerror", None) or error.socketError
            raise StartError(f"taskd: cannot listen on {description}: {why}") from error
        except (OSError, OverflowError) as error:
            raise StartError(f"taskd: cannot listen on {description}: {error}") from error
        keep_alive(getattr(port, "socket", None))
        self._ports.append(port)
        _log.info("listening on {description} ({host})", description=description, host=port.getHost())

    def startService(self) -> None:
        """Import the app and start the pool.

        Before the reactor runs, as under twistd, that is waited for, so that
        an app which cannot be imported ends the start and not the server.
        """
        super().startService()
        self._had_terminal = _has_terminal()  # not before: a daemon has left it by now
        signal.signal(signal.SIGHUP, self._hung_up)
        if self._server is None:
            return
        setproctitle(f"{self._config.server.pool.config.name}: daemon")
        started = self._server.start()
        if not self._reactor.running:
            wait(self._reactor, started)
            # What is here now stays: no collection needs to look at it again.
            gc.freeze()
        else:
            started.addErrback(self._cannot_start)

    def _cannot_start(self, failure: Failure) -> None:
        _log.critical("{error}", error=str(failure.value))
        self._reactor.stop()

    def _hung_up(self, number: int, frame: object) -> None:
        """SIGHUP: reload; or stop, where it says that our terminal is gone."""
        self._reactor.callFromThread(self._reload_or_stop)

    def _reload_or_stop(self) -> None:
        if self._had_terminal and not _has_terminal():
            _log.warn("the terminal is gone: stopping")
            self._reactor.stop()
        elif self._server is not None:
            self._server.reload()

    async def _stop(self) -> None:
        """Take nothing more, wait for what runs, then end every process."""
        parts = [part for part in (self._gateway, self._server) if part is not None]
        drained = DeferredList([part.drain() for part in parts])
        await DeferredList([_closed(port) for port in self._ports])
        deadline = self._reactor.callLater(self._config.stop_timeout, self._give_up)
        await drained
        if deadline.active():
            deadline.cancel()
        if self._gateway is not None:
            await self._gateway.close()
        if self._tcp is not None:
            late = self._reactor.callLater(FLUSH_TIMEOUT, self._tcp.abort)
            await self._tcp.finish()
            if late.active():
                late.cancel()
        if self._server is not None:
            await self._server.stop()

    def stopService(self) -> Deferred[None]:
        """Stop in order. A second Ctrl-C, or SIGTERM, ends at once."""
        super().stopService()
        if self._server is not None or self._gateway is not None:
            self._catch_second_signal()
        return Deferred.fromCoroutine(self._stop())

    def _catch_second_signal(self) -> None:
        def end(number: int, frame: object) -> None:  # noqa: ARG001
            self._reactor.callFromThread(self._end_now)

        if self._reactor.running:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, end)

    def _give_up(self) -> None:
        _log.warn("tasks still run after {seconds} s: they are ended", seconds=self._config.stop_timeout)
        self._end_tasks()

    def _end_tasks(self) -> None:
        if self._server is not None:
            self._server.give_up()
        if self._gateway is not None:
            self._gateway.give_up()

    def _end_now(self) -> None:
        _log.warn("told again to stop: ending at once")
        self._end_tasks()
        if self._tcp is not None:
            self._tcp.abort()
        if self._server is not None:
            self._server.end_now()


def _site(reactor: Reactor, gateway: Gateway) -> IProtocolFactory:
    from twisted.web.server import Site

    from taskd.web import Root

    site = Site(Root(gateway), reactor=reactor)
    site.noisy = False
    return site


def _has_terminal() -> bool:
    """Whether this process can be reached from a terminal (tty(4): the device cannot be opened without)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _closed(port: IListeningPort) -> Deferred[None]:
    closed = port.stopListening()
    if closed is None:
        closed = Deferred()
        closed.callback(None)
    return closed


def wait(reactor: Reactor, deferred: Deferred[_Result]) -> _Result:
    """The result of `deferred`, for which the reactor is turned by hand where it does not run yet.

    twistd starts services before it runs the reactor, and only then can a
    start still fail with an exit status. Raises what `deferred` fails with.
    """
    results: list[_Result] = []
    failures: list[Failure] = []
    deferred.addCallbacks(results.append, failures.append)
    try:
        while not results and not failures:
            reactor.iterate(0.1)
            reapAllProcesses()  # no handler of SIGCHLD does it yet
    except KeyboardInterrupt:
        raise StartError("taskd: interrupted at the start") from None
    if failures:
        failures[0].raiseException()
    return results[0]
