"""The lifecycle of a daemon: bind, start its parts, and stop them in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IReactorTime
from twisted.logger import Logger

from taskd.daemon.access import PublicPorts
from taskd.daemon.access_files import AccessFiles, in_thread
from taskd.daemon.certificates import read_certificates_again
from taskd.daemon.config import ServiceConfig
from taskd.daemon.default_app import announcement
from taskd.daemon.listening import BoundPort, bind
from taskd.daemon.parts import Part, Parts
from taskd.daemon.source_watch import SourceWatch
from taskd.daemon.stop_report import StopReport
from taskd.daemon.supervisor import Supervisor
from taskd.durable.start import StorePart
from taskd.errors import StartError
from taskd.listeners.gate import Gate
from taskd.listeners.idle_connections import IdleConnections
from taskd.listeners.no_room import BUSY_LINE, UNAVAILABLE
from taskd.listeners.tcp import TaskFactory
from taskd.net.acceptor import Door
from taskd.net.admission import Admission
from taskd.net.descriptors import NO_FILES, ConnectionLimits, connection_limits, open_files
from taskd.net.endpoints import client_description
from taskd.net.lag import LagMeter
from taskd.net.lingering import Lingering
from taskd.net.passed_sockets import NO_SOCKETS, PassedSockets
from taskd.net.paused import PausedConnections
from taskd.net.reactor import Reactor
from taskd.net.server_transport import ServerTransport
from taskd.net.tls_port import RenewableCertificates
from taskd.net.traffic import Traffic
from taskd.server.task_server import ServerConfig, TaskServer
from taskd.store.base import StoreError
from taskd.store.descriptions import without_password

if TYPE_CHECKING:
    from taskd.listeners.gateway import Gateway, GatewayConfig

__all__ = ["RunningDaemon", "UnstartedDaemon"]

_log = Logger(namespace="taskd")

FLUSH_TIMEOUT = 5.0
"""Seconds that clients have, at the end, to take the replies that they are owed: enough for
one that reads, while one that does not read must not keep a server from ending."""


ENDING_SECONDS = 45.0
"""Seconds that the steps of a stop after the tasks take at most: replies that are not read (twice
`FLUSH_TIMEOUT`), a store whose disk fails (20), workers that do not exit (5), and some to spare."""


SLOW_SECONDS = 1.0
"""Seconds after which the log mentions that workers still run their stop hooks."""


class AppServer(Protocol):
    """A task server, as far as the app and its processes are concerned."""

    def reload(self) -> Deferred[str]:
        """Import the app again; fires with the result in words."""

    def kill(self) -> None:
        """Kill every process that runs the app, at once and without the reactor."""


class UnstartedDaemon:
    """A daemon that has not been started: `bind` binds its ports, `start` makes a `RunningDaemon`.

    `log_lines_lost` is called for `taskd.status`. `passed` sockets are there already.
    """

    def __init__(
        self,
        reactor: Reactor,
        config: ServiceConfig,
        log_lines_lost: Callable[[], int],
        passed: PassedSockets = NO_SOCKETS,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._log_lines_lost = log_lines_lost
        self._passed = passed
        self._lingering = Lingering(reactor)
        self._certificates: list[RenewableCertificates] = []
        self._task_ports: list[BoundPort] = []
        self._gateway_ports: list[BoundPort] = []
        self._access = AccessFiles(partial(in_thread, reactor))
        self._traffic = {"task_server": Traffic(), "gateway": Traffic()}

    def bind(self) -> None:
        """Read tokens and keys and bind every port, while still privileged. Raises `StartError`."""
        config = self._config
        self._access = AccessFiles.open(config, partial(in_thread, self._reactor))
        public = PublicPorts(asks_for_tokens=config.access.asks_for_tokens, is_insecure=config.is_insecure)
        if config.listen and config.is_default_app:
            for line in announcement(os.environ, config.command):
                _log.info("{line}", line=line)
        if config.uses_tracebacks:
            _log.warn("--tracebacks is now called --error-details traceback")
        transport = partial(ServerTransport, lingering=self._lingering, traffic=self._traffic["task_server"])
        for description in config.listen:
            self._task_ports.append(self._bind(description, "task server", transport))
            public.check("--listen", description, self._task_ports[-1].address)
        transport = partial(ServerTransport, lingering=self._lingering, traffic=self._traffic["gateway"])
        for description in config.websocket:
            self._gateway_ports.append(self._bind(description, "gateway", transport))
            public.check("--websocket", description, self._gateway_ports[-1].address)
        if left := self._passed.left:
            _log.warn(
                "sockets were passed on by systemd that nothing serves: {names}; use --listen systemd:NAME "
                "or --websocket systemd:NAME",
                names=", ".join(left),
            )

    def _bind(self, description: str, name: str, transport: Callable[..., Any]) -> BoundPort:
        return bind(self._reactor, description, name, transport, self._certificates, self._passed)

    def start(self, supervisor: Supervisor) -> RunningDaemon:
        """Start the pool, which begins to import the app, and serve the ports. Raises `StartError`."""
        reactor, config = self._reactor, self._config
        limits = self._connection_limits()
        self._lingering.most = limits.lingering
        door = Door(reactor, limits.at_most(config.max_connections), config.max_per_address)
        gate = self._gate()
        parts = Parts(lingering=[self._lingering, door.lingering])
        server: TaskServer | None = None
        loaded: Deferred[None] = succeed(None)
        watched, watch = _watched(reactor, config.server)
        if config.listen:
            server = watched.start(reactor)
            if watch is not None:
                watch.start(server.reload)
            server.log_lines_lost = self._log_lines_lost
            if gate is not None:
                gate.audit = server.operation.audit
            store = self._open_store(server)
            parts = replace(parts, store=[store])
            loaded = server.loaded
            loaded.addCallback(_check_open, store)
            paused = PausedConnections(reactor, server.budget)
            tcp = TaskFactory(reactor, server, config.limits, paused, gate, door.own)
            idle = IdleConnections(reactor, tcp.peers)
            for port in self._task_ports:
                port.serve(tcp, door, BUSY_LINE, idle.close_one)
            parts = replace(parts, server=[server], connections=[tcp])
        if config.gateway is not None:
            gateway = self._start_gateway(
                replace(config.gateway, max_connections=limits.links, own_ends=door.own), server, gate
            )
            site = _site(reactor, gateway, server, door.admission, self._traffic)
            for port in self._gateway_ports:
                port.serve(site, door, UNAVAILABLE, has_handshake=True)
            parts = replace(parts, gateway=[gateway])
            self._certificates.extend(gateway.certificates)
        daemon = RunningDaemon(
            reactor,
            [*self._task_ports, *self._gateway_ports],
            parts,
            config.stop_timeout,
            loaded,
            server,
            supervisor,
            self._certificates,
            config.drain_time,
            watch,
            self._access,
        )
        if server is not None:
            server.operation.reload_all = daemon.reload
        return daemon

    def _gate(self) -> Gate | None:
        verifier = self._access.verifier
        if verifier is None:
            return None
        shared = self._config.server.scheduler.shared_priorities
        self._access.gate = gate = Gate(self._reactor, verifier, shared_priorities=shared)
        return gate

    def _open_store(self, server: TaskServer) -> StorePart:
        try:
            return StorePart(self._reactor, server, self._config.store, self._access.sealer)
        except StoreError as error:
            description = without_password(self._config.store.description)
            raise StartError(f"taskd: --store {description}: {error}") from error

    def _connection_limits(self) -> ConnectionLimits:
        """Return how many connections there may be. Call this before the first fork server is started."""
        config = self._config
        needs = config.server.pool.files if config.listen else NO_FILES
        gateway = config.gateway
        link_ends = 0
        if gateway is not None and gateway.link != "local":
            # If both ends are here, one may be in use again before the other has been closed.
            link_ends = 1 if gateway.task_servers else 3
        limit, in_use = open_files()
        limits = connection_limits(limit, in_use, needs, link_ends)
        if in_use + needs.least + limits.lingering + limits.accepted + limits.links * link_ends > limit:
            _log.warn(
                "ulimit -n {limit} leaves too few open files for {workers} workers and connections: raise it",
                limit=limit,
                workers=config.server.pool.max_workers,
            )
        return limits

    def _start_gateway(self, config: GatewayConfig, server: TaskServer | None, gate: Gate | None) -> Gateway:
        config = replace(config, server_token=self._access.server_token)
        if config.link != "local" and not config.task_servers:
            config = replace(config, task_servers=[self._own_task_server()], calls_own_server=True)
        try:
            return config.start(self._reactor, server, gate)
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
        """Close the bound ports; fires when they are closed."""
        return Deferred.fromCoroutine(_close_ports([*self._task_ports, *self._gateway_ports]))


class RunningDaemon:
    """A daemon that has been started: its `ports`, and its `parts` that stop in steps.

    `stop_timeout` is in seconds. `loaded` fires when the app is imported, and
    fails with `StartError` if it cannot be. `server` is None for a gateway alone,
    which has no app and no other processes. `supervisor` is kept informed.
    `certificates` are those of the ports and of the gateway's links. For
    `drain_time` seconds before the stop, everything goes on. The app's files are
    under `watch`, if they are watched. `access` has the tokens and keys.
    """

    def __init__(
        self,
        clock: IReactorTime,
        ports: Sequence[BoundPort],
        parts: Parts,
        stop_timeout: float,
        loaded: Deferred[None],
        server: AppServer | None,
        supervisor: Supervisor,
        certificates: Sequence[RenewableCertificates] = (),
        drain_time: float = 0.0,
        watch: SourceWatch | None = None,
        access: AccessFiles | None = None,
    ) -> None:
        self._watch = watch
        self._access = access
        self.loaded = loaded
        self._server = server
        self._certificates = certificates
        self._clock = clock
        self._ports = ports
        self._parts = parts
        self._stop_timeout = stop_timeout
        self._is_aborted = False
        self._is_stopping = False
        self._supervisor = supervisor
        self._reloads = 0
        """Reloads that have not ended."""
        self._drain_time = drain_time
        self._drained: Deferred[None] | None = None
        """Fires at the end of the time before the stop; None when that is not going on."""

    def reload(self) -> Deferred[str]:
        """Read certificates, tokens and keys again, and import the app again.

        Fires with the result of that in words, when all of it is done.
        """
        self._reloads += 1
        self._supervisor.reloading("reloading; meanwhile the old code serves")
        read_certificates_again(self._certificates)
        read = self._access.read_again() if self._access is not None else succeed(None)
        if self._server is not None:
            loaded = self._server.reload()
        else:
            loaded = succeed("ready")
            if not self._certificates and not self._access:
                _log.info("there is nothing to reload: a gateway without certificates, tokens and an app")
        return loaded.addCallback(lambda how: read.addCallback(lambda _: self._reloaded(how)))

    def _reloaded(self, how: str) -> str:
        self._reloads -= 1
        if not self._reloads and not self._is_stopping:
            self._supervisor.ready(how)
        return how

    def announce_stop(self) -> None:
        """Have every health check report that a stop is near; everything is served as before."""
        for part in self._parts.with_tasks:
            part.announce_stop()

    def close(self) -> Deferred[None]:
        """Stop in order; fires when nothing is left. Call this once.

        For the drain time, goes on serving, and only says that a stop is near. Then
        refuses new connections and new tasks; waits for the tasks, at most for the
        stop timeout; closes the websockets; closes the other connections when their
        clients have taken what they are owed, or have had `FLUSH_TIMEOUT` to do so;
        ends every process.
        """
        return Deferred.fromCoroutine(self._close_in_order())

    def skip_draining(self) -> bool:
        """Begin the stop proper now; return whether the drain time was going on."""
        if self._drained is None:
            return False
        drained, self._drained = self._drained, None
        drained.callback(None)
        return True

    def abort(self) -> None:
        """End at once everything that `close` still waits for."""
        self._is_aborted = True
        self.skip_draining()
        _abort(self._parts.present)

    def kill(self) -> None:
        """Kill every other process of the daemon's at once; may be called in a signal handler."""
        if self._server is not None:
            self._server.kill()

    async def _close_in_order(self) -> None:
        parts = self._parts
        self._is_stopping = True
        if self._watch is not None:
            self._watch.stop()
        await self._serve_on()
        for part in parts.present:
            part.stop_accepting()
        await _close_ports(self._ports)
        await self._drain_tasks()
        self._supervisor.finishing("stopping: all tasks have ended", ENDING_SECONDS)
        # A gateway's calls may use the connections, so it is closed before them.
        for connections in (parts.gateway, parts.connections):
            await self._limited(
                _close(connections),
                connections,
                FLUSH_TIMEOUT,
                lambda: f"clients have left replies unread for {FLUSH_TIMEOUT:g} s: they are disconnected",
            )
        slow = self._clock.callLater(SLOW_SECONDS, _log.info, "stopping: waiting for the workers to exit")
        await self._hastened(_close(parts.store), parts.store)
        await self._hastened(_close(parts.server), parts.server)
        await self._hastened(_close(parts.lingering), parts.lingering)
        _cancel([slow])
        self._supervisor.close()

    async def _serve_on(self) -> None:
        """Announce the stop, and go on for the drain time, unless that is skipped."""
        self.announce_stop()
        if not self._drain_time or self._is_aborted:
            self._supervisor.stopping("stopping")
            return
        line = (
            f"draining: everything is served for {self._drain_time:g} s more, and /readyz sends new work "
            "elsewhere; a second Ctrl-C or SIGTERM begins the stop at once"
        )
        _log.info("{line}", line=line)
        self._supervisor.stopping(line)
        drained: Deferred[None] = Deferred()
        self._drained = drained
        ending = self._clock.callLater(self._drain_time, self.skip_draining)
        await drained
        _cancel([ending])

    async def _drain_tasks(self) -> None:
        """Wait for the tasks in flight, and report that: what for, and how it goes on."""
        parts, report = self._parts, StopReport(self._stop_timeout)
        reports: list[IDelayedCall] = []
        if (tasks := parts.in_flight()) and self._stop_timeout and not self._is_aborted:
            self._report(report.begin(tasks))
            for due in report.times():
                line = partial(self._report_progress, report, due)
                reports.append(self._clock.callLater(due, line))
        await self._limited(
            _drain(parts.with_tasks),
            parts.with_tasks,
            self._stop_timeout,
            lambda: report.give_up(parts.in_flight()),
        )
        _cancel(reports)

    def _report_progress(self, report: StopReport, elapsed: float) -> None:
        if not self._is_aborted:
            self._report(report.go_on(self._parts.in_flight(), elapsed))

    def _report(self, line: str) -> None:
        _log.info("{line}", line=line)
        self._supervisor.status(line)

    async def _limited(
        self,
        step: Coroutine[Deferred[Any], Any, None],
        parts: Sequence[Part],
        seconds: float,
        warning: Callable[[], str],
    ) -> None:
        """Wait for a step; after `seconds`, log what `warning` returns and abort the step's parts."""

        def time_is_over() -> None:
            _log.warn("{line}", line=warning())
            _abort(parts)

        deadline = self._clock.callLater(seconds, time_is_over)
        await self._hastened(step, parts)
        if deadline.active():
            deadline.cancel()

    async def _hastened(self, step: Coroutine[Deferred[Any], Any, None], parts: Sequence[Part]) -> None:
        """Wait for a step; if `abort` was called before, abort the step's parts once it has begun."""
        ended = Deferred.fromCoroutine(step)
        if self._is_aborted:
            _abort(parts)
        await ended


def _check_open(_: None, store: StorePart) -> None:
    if store.error is not None:
        raise StartError(f"taskd: {store.error}")


def _cancel(calls: Sequence[IDelayedCall]) -> None:
    for call in calls:
        if call.active():
            call.cancel()


async def _drain(parts: Sequence[Part]) -> None:
    await DeferredList([part.drain() for part in parts])


async def _close(parts: Sequence[Part]) -> None:
    await DeferredList([part.close() for part in parts])


def _abort(parts: Sequence[Part]) -> None:
    for part in parts:
        part.abort()


async def _close_ports(ports: Sequence[BoundPort]) -> None:
    await DeferredList([port.close() for port in ports])


def _watched(reactor: Reactor, config: ServerConfig) -> tuple[ServerConfig, SourceWatch | None]:
    """Return the configuration and the watch on the app's files, if the configuration wants one."""
    if not config.pool.config.reports_folders:
        return config, None
    watch = SourceWatch(reactor)
    return replace(config, pool=replace(config.pool, found_folders=watch.add)), watch


def _site(
    reactor: Reactor,
    gateway: Gateway,
    server: TaskServer | None,
    admission: Admission,
    traffic: dict[str, Traffic],
) -> IProtocolFactory:
    from taskd.web import Root
    from taskd.web.channel import GatewaySite
    from taskd.web.metrics import Measured

    websockets = gateway.factory
    measured = Measured(server, LagMeter(reactor), admission, traffic)
    root = Root(gateway, measured)
    site = GatewaySite(
        reactor, root, websockets.backend.budget, websockets.max_message - 1, root.access.admit
    )
    measured.site = site
    websockets.peers.on_stopping.append(site.stop_accepting)
    gateway.on_announced.append(site.announce_stop)
    return site
