"""The gateway: passes websocket messages on as calls to task servers, and sends the outcomes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from taskd.auth.caller import Verifier
from taskd.errors import ShuttingDown
from taskd.listeners.gate import Gate, GatedBackend
from taskd.listeners.origins import Origins
from taskd.listeners.peers import Peers
from taskd.listeners.readiness import LocalReadiness, Readiness
from taskd.listeners.remote_backend import RemoteBackend
from taskd.listeners.websocket import WebSocketFactory
from taskd.listeners.wire import Backend
from taskd.model import Failure
from taskd.net.paused import PausedConnections
from taskd.net.pressure import watch_budget
from taskd.net.reactor import Reactor
from taskd.net.tls_port import RenewableCertificates
from taskd.protocol.framing import MAX_MESSAGE
from taskd.scheduler.budget import MAX_BUFFERED, Budget
from taskd.server.task_server import TaskServer
from taskd.server.unanswered import Unanswered

__all__ = ["Gateway", "GatewayConfig", "LinkKind", "link_kind"]

_log = Logger(namespace="taskd.gateway")

MAX_MESSAGES_IN_FLIGHT = 100
"""Messages of one websocket in flight at once: more than a page ever has, and
few enough that one user cannot fill a pool's queue."""

MAX_CONNECTIONS = 100
"""Connections to task servers at once, if nobody has counted how many there may be: with both ends in one
process they take a fifth of the usual limit of 1024 open files."""

_GIVEN_UP = Failure.of(ShuttingDown("the gateway shut down before the task had ended"))

LinkKind = Literal["per-message", "pooled", "local"]
"""The way in which a gateway reaches task servers: over a connection for each message, over
kept connections, or, if the server is in its own process, by calling it."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The configuration of a gateway: where it sends its calls, and whom it lets in.

    `task_servers` are client endpoint strings; `allow_origins` and `hostnames`
    are the patterns and names of `taskd.listeners.origins.Origins`.
    `max_message` is in bytes, `max_in_flight` in messages of one websocket.
    There are at most `max_connections` to task servers, apart from the kept ones
    of a pooled link, and `own_ends` has the addresses of their own ends.
    `max_buffered`, in bytes, is for a gateway without a task server.
    `calls_own_server` says that the one task server is that of this process.
    With a `verifier`, callers must show tokens. Of each websocket, at most `message_rate` messages a
    second are read; if the gateway `compresses`, its messages may be compressed. `server_token`
    returns the token that is shown to the task servers, if they want one.
    """

    task_servers: Sequence[str]
    link: LinkKind = "per-message"
    allow_origins: Sequence[str] = ()
    hostnames: Sequence[str] = ()
    max_message: int = MAX_MESSAGE
    max_in_flight: int = MAX_MESSAGES_IN_FLIGHT
    max_connections: int = MAX_CONNECTIONS
    own_ends: set[object] = field(default_factory=set)
    max_buffered: int = MAX_BUFFERED
    calls_own_server: bool = False
    verifier: Verifier | None = None
    message_rate: float | None = None
    compresses: bool = False
    server_token: Callable[[], str] | None = None

    def start(self, reactor: Reactor, local: TaskServer | None = None, gate: Gate | None = None) -> Gateway:
        """Start a gateway; `local` is the task server of this process, for a local link.

        Whoever connects needs a token if there is a `gate`, or else a verifier, for which one is made;
        task servers then get what the token grants.

        Raises `ValueError` if one of `task_servers` is not a valid endpoint, if
        a pattern or a name is not valid, or if the link is local and `local` is None.
        """
        backend: Backend[Any]
        if gate is None and self.verifier is not None:
            gate = Gate(reactor, self.verifier)
        if local is None:
            unanswered, budget = Unanswered(reactor), Budget(self.max_buffered, self.max_message)
            watch_budget(reactor, budget)
        else:
            unanswered, budget = local.unanswered, local.budget
        readiness: Readiness | None = None
        if local is not None and (self.link == "local" or self.calls_own_server):
            readiness = LocalReadiness(local.unready)
        if self.link == "local":
            if local is None:
                raise ValueError("a local link needs a task server in the same process")
            backend = local
        else:
            backend = RemoteBackend(reactor, self, unanswered, budget, has_tokens=gate is not None)
            readiness = readiness or backend.readiness
        assert readiness is not None
        return Gateway(reactor, self, backend, readiness, gate)


def link_kind(text: str) -> LinkKind:
    """Return the kind of link with this name. Raises `ValueError` if there is none."""
    if text == "per-message":
        return "per-message"
    if text == "pooled":
        return "pooled"
    if text == "local":
        return "local"
    raise ValueError(f"a gateway's link is per-message, pooled or local, not {text!r}")


class Gateway:
    """A running gateway: its websockets, and the backend that they share. `GatewayConfig.start` makes one."""

    def __init__(
        self,
        reactor: Reactor,
        config: GatewayConfig,
        backend: Backend[Any],
        readiness: Readiness,
        gate: Gate | None = None,
    ) -> None:
        self._backend = backend
        self.readiness = readiness
        """Whether a task would be taken now."""
        self.on_announced: list[Callable[[], object]] = []
        """What is called when a stop is near."""
        self._peers = Peers(reactor, backend.budget, PausedConnections(reactor, backend.budget))
        front = backend
        if gate is not None:
            functions = backend.known_functions if isinstance(backend, TaskServer) else None
            front = GatedBackend(gate, backend, functions)
        self.factory = WebSocketFactory(
            reactor,
            front,
            self._peers,
            origins=Origins(config.allow_origins, config.hostnames),
            max_message=config.max_message,
            max_in_flight=config.max_in_flight,
            gate=gate,
            message_rate=config.message_rate,
            compresses=config.compresses,
        )

    @property
    def certificates(self) -> list[RenewableCertificates]:
        """The certificates of the links to task servers by TLS."""
        return self._backend.certificates if isinstance(self._backend, RemoteBackend) else []

    def announce_stop(self) -> None:
        """Be unready from now on; everything is served as before."""
        self.readiness.announce_stop()
        for call in self.on_announced:
            call()

    def stop_accepting(self) -> None:
        """Refuse new websockets and new messages."""
        self.readiness.announce_stop()
        self._peers.stop_accepting()
        if isinstance(self._backend, RemoteBackend):
            self._backend.stop_accepting()

    def drain(self) -> Deferred[None]:
        """Return a Deferred that fires when every message has been answered."""
        return self._peers.drain()

    def in_flight(self) -> Counter[str]:
        """Count the messages in flight, by function."""
        return self._peers.in_flight()

    def abort(self) -> None:
        """Answer every message in flight with a failure, while its task goes on; during `close`, hang up."""
        self._peers.give_up(_GIVEN_UP)
        if self._peers.is_closing:
            self._peers.abort()

    def close(self) -> Deferred[None]:
        """Close every websocket, after what is being sent; fires when all are closed.

        A client that does not answer the close is disconnected after Autobahn's
        `closeHandshakeTimeout`.
        """
        self.readiness.close()
        if isinstance(self._backend, RemoteBackend):
            self._backend.close()
        return self._peers.close()
