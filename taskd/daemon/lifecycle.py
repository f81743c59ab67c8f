"""A daemon before its start and after it, and the order in which it stops."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from taskd.daemon.config import ServiceConfig
from taskd.daemon.default_app import announcement
from taskd.daemon.listening import BoundPort, bind
from taskd.errors import StartError
from taskd.listeners.tcp import TaskFactory
from taskd.net.endpoints import client_description
from taskd.net.reactor import Reactor
from taskd.net.server_transport import ServerTransport
from taskd.server.task_server import TaskServer

if TYPE_CHECKING:
    from taskd.listeners.gateway import Gateway, GatewayConfig

__all__ = ["RunningDaemon", "UnstartedDaemon"]

_log = Logger(namespace="taskd")

FLUSH_TIMEOUT = 5.0
"""Seconds that clients have, at the end, to take the replies that they are owed:
enough for one that reads, and one that does not must not keep a server from ending."""


class Part(Protocol):
    """A part of a daemon, as far as stopping the daemon needs it.

    Each method is called at most once, in this order, except for `abort`: it
    may come at any time, before and during `close`, and more than once.
    """

    def stop_accepting(self) -> None:
        """Refuse new work from now on; what was taken goes on."""

    def drain(self) -> Deferred[None]:
        """Fire when everything that was taken has ended."""

    def abort(self) -> None:
        """End at once what is left, so that `drain` or `close` fires soon."""

    def close(self) -> Deferred[None]:
        """Release everything; fire when nothing is left."""


class UnstartedDaemon:
    """A daemon whose ports can be bound, and nothing more; `start` makes a `RunningDaemon` of it."""

    def __init__(self, reactor: Reactor, config: ServiceConfig) -> None:
        self._reactor = reactor
        self._config = config
        self._task_ports: list[BoundPort] = []
        self._gateway_ports: list[BoundPort] = []

    def bind(self) -> None:
        """Bind every port, while the process may still be privileged. Raises `StartError`."""
        config = self._config
        if config.listen and config.is_default_app:
            for line in announcement(os.environ):
                _log.info("{line}", line=line)
        for description in config.listen:
            port = bind(self._reactor, description, "task server", ServerTransport)
            self._task_ports.append(port)
        for description in config.websocket:
            self._gateway_ports.append(bind(self._reactor, description, "gateway", ServerTransport))

    def start(self) -> RunningDaemon:
        """Start the pool, which begins to import the app, and serve the ports. Raises `StartError`."""
        reactor, config = self._reactor, self._config
        server = tcp = gateway = None
        loaded: Deferred[None] = succeed(None)
        if config.listen:
            server = config.server.start(reactor)
            loaded = server.loaded
            tcp = TaskFactory(reactor, server, config.limits)
            _serve(self._task_ports, tcp)
        if config.gateway is not None:
            gateway = self._start_gateway(config.gateway, server)
            _serve(self._gateway_ports, _site(reactor, gateway))
        ports = [*self._task_ports, *self._gateway_ports]
        return RunningDaemon(reactor, ports, server, tcp, gateway, config.stop_timeout, loaded)

    def _start_gateway(self, config: GatewayConfig, server: TaskServer | None) -> Gateway:
        if config.link != "local" and not config.task_servers:
            config = replace(config, task_servers=[self._own_task_server()])
        try:
            return config.start(self._reactor, server)
        except ValueError as error:
            raise StartError(f"taskd: --task-server {error}") from error

    def _own_task_server(self) -> str:
        """Return the client endpoint string of this daemon's own task server."""
        description = self._config.listen[0]
        server = client_description(self._task_ports[0].address)
        if server is None or description.lower().startswith("ssl:"):
            raise StartError(
                f"taskd: the gateway cannot tell how to reach --listen {description}; name it with "
                "--task-server (tls:HOST:PORT, with the name in the certificate), or use --link local"
            )
        return server

    def close(self) -> Deferred[None]:
        """Close the ports that are bound; fire when they are closed."""
        return Deferred.fromCoroutine(_close_ports([*self._task_ports, *self._gateway_ports]))


class RunningDaemon:
    """A daemon that was started.

    Without a task server (`server` and `tcp` are None) it is a gateway alone,
    and without a gateway it is a task server alone. `loaded` fires when the
    app is imported, and fails with `StartError` if it cannot be.
    """

    def __init__(
        self,
        reactor: Reactor,
        ports: Sequence[BoundPort],
        server: TaskServer | None,
        tcp: TaskFactory | None,
        gateway: Gateway | None,
        stop_timeout: float,
        loaded: Deferred[None],
    ) -> None:
        self.loaded = loaded
        self._reactor = reactor
        self._ports = ports
        self._server = server
        self._stop_timeout = stop_timeout
        self._is_aborted = False
        self._gateways: list[Part] = [gateway] if gateway is not None else []
        self._listeners: list[Part] = [tcp] if tcp is not None else []
        self._servers: list[Part] = [server] if server is not None else []

    def reload(self) -> None:
        """Have the task server, if there is one, import its app anew."""
        if self._server is not None:
            self._server.reload()

    def close(self) -> Deferred[None]:
        """Stop in order; fire when nothing is left. To be called once.

        Refuse new connections and new tasks; wait for the tasks, at most for
        the stop timeout; close the websockets; close the other connections
        when their clients have what they are owed, or have had their time to
        take it; end every process.
        """
        return Deferred.fromCoroutine(self._stop())

    def abort(self) -> None:
        """End at once whatever `close` still waits for."""
        self._is_aborted = True
        for part in self._parts:
            part.abort()

    @property
    def _parts(self) -> list[Part]:
        """The parts in the order in which they are closed: a gateway's calls may use connections."""
        return [*self._gateways, *self._listeners, *self._servers]

    async def _stop(self) -> None:
        for part in self._parts:
            part.stop_accepting()
        await _close_ports(self._ports)
        await self._drain()
        await self._close(self._gateways)
        await self._close(self._listeners, FLUSH_TIMEOUT)
        await self._close(self._servers)

    async def _drain(self) -> None:
        """Wait until no task is in flight, and abort what is left after the stop timeout."""
        parts = [*self._gateways, *self._servers]
        drained = DeferredList([part.drain() for part in parts])

        def time_is_over() -> None:
            _log.warn("tasks still run after {seconds} s: they are ended", seconds=self._stop_timeout)
            _abort(parts)

        deadline = self._reactor.callLater(self._stop_timeout, time_is_over)
        if self._is_aborted:
            _abort(parts)
        await drained
        if deadline.active():
            deadline.cancel()

    async def _close(self, parts: Sequence[Part], seconds: float | None = None) -> None:
        """Close the parts, one after the other, and abort each that is not closed after so many seconds."""
        for part in parts:
            closed = part.close()
            deadline = None if seconds is None else self._reactor.callLater(seconds, part.abort)
            if self._is_aborted:
                part.abort()
            await closed
            if deadline is not None and deadline.active():
                deadline.cancel()


def _abort(parts: Sequence[Part]) -> None:
    for part in parts:
        part.abort()


def _serve(ports: Sequence[BoundPort], factory: IProtocolFactory) -> None:
    for port in ports:
        port.serve(factory)


async def _close_ports(ports: Sequence[BoundPort]) -> None:
    await DeferredList([port.close() for port in ports])


def _site(reactor: Reactor, gateway: Gateway) -> IProtocolFactory:
    from twisted.web.server import Site

    from taskd.web import Root

    site = Site(Root(gateway), reactor=reactor)
    site.noisy = False
    return site
