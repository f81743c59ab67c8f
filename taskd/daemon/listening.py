"""Listening ports, which are bound while the process is privileged and served once the daemon starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    ILoggingContext,
    IProtocol,
    IProtocolFactory,
    IProtocolNegotiationFactory,
)
from twisted.internet.protocol import Factory
from twisted.internet.tcp import Port
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from taskd.daemon.before_reactor import wait_for
from taskd.errors import StartError
from taskd.net.acceptor import ACCEPTS, DEAR_ACCEPTS, Acceptor, Door
from taskd.net.endpoints import keep_alive, server_endpoint
from taskd.net.passed_sockets import NO_SOCKETS, PassedSockets
from taskd.net.reactor import Reactor
from taskd.net.server_transport import ServerTransport
from taskd.net.tls_port import REFUSED_FOR_ROOM, RenewableCertificates

__all__ = ["BoundPort", "LateFactory", "bind"]

_log = Logger(namespace="taskd")


class _RefusingFactory(Factory):  # not subscripted: the oldest Twisted could not
    """The factory of a port that is not served yet: Twisted closes a connection without a protocol."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> None:
        """Return no protocol."""


@implementer(IProtocolFactory, IProtocolNegotiationFactory, ILoggingContext)
class LateFactory:
    """A factory that passes connections to another one, which is set after the port is bound.

    A port of Twisted gets its factory when it is bound, and TLS wraps that
    factory. So this factory stays, and its target changes. `name` stands for
    the port in Twisted's log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._target: IProtocolFactory = _RefusingFactory()

    def serve(self, factory: IProtocolFactory) -> None:
        """Pass connections to `factory` from now on."""
        factory.doStart()
        self._target = factory

    def logPrefix(self) -> str:
        """Return the name for the log."""
        return self._name

    def doStart(self) -> None:
        """Do nothing: `serve` starts the factory."""

    def doStop(self) -> None:
        """Stop the target factory, since the port is closed."""
        self._target.doStop()

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        """Return the target factory's protocol for a new connection."""
        return self._target.buildProtocol(addr)

    def acceptableProtocols(self) -> list[bytes]:
        """Return the protocols that the target factory lets TLS negotiate (ALPN), if any."""
        if IProtocolNegotiationFactory.providedBy(self._target):
            return IProtocolNegotiationFactory(self._target).acceptableProtocols()
        return []


class BoundPort:
    """A bound port, whose connections go to the factory given to `serve`.

    The kernel accepts connections from the start. They wait until the reactor
    runs.
    """

    def __init__(self, reactor: Reactor, port: IListeningPort, factory: LateFactory) -> None:
        self._reactor = reactor
        self._port = port
        self._factory = factory
        self._acceptor: Acceptor | None = None

    @property
    def address(self) -> IAddress:
        """The local address, with the actual number of a TCP port that was bound as 0."""
        return self._port.getHost()

    def serve(
        self,
        factory: IProtocolFactory,
        door: Door,
        refusal: bytes,
        make_room: Callable[[], bool] = lambda: False,
        *,
        has_handshake: bool = False,
    ) -> None:
        """Pass connections to `factory`, for as many as the `door` has room. Call this once.

        The others are sent `refusal`, or on a TLS port an alert, unless `make_room` can close another one.
        Ports of kinds that taskd does not know accept whatever they accept. `has_handshake` says that each
        connection begins with a handshake, apart from that of TLS.
        """
        self._factory.serve(factory)
        port = self._port
        if isinstance(port, Port) and getattr(port.transport, "func", None) is ServerTransport:
            is_tls = isinstance(port.factory, TLSMemoryBIOFactory)
            self._acceptor = Acceptor(
                self._reactor,
                port,
                door,
                self._factory.logPrefix(),
                REFUSED_FOR_ROOM if is_tls else refusal,
                make_room,
                DEAR_ACCEPTS if is_tls or has_handshake else ACCEPTS,
            )

    def close(self) -> Deferred[None]:
        """Stop listening; fires when the port is closed."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        return self._port.stopListening() or succeed(None)


def bind(
    reactor: Reactor,
    description: str,
    name: str,
    transport: Callable[..., Any] | None = None,
    certificates: list[RenewableCertificates] | None = None,
    passed: PassedSockets = NO_SOCKETS,
) -> BoundPort:
    """Bind the port that a server's endpoint string describes, and log its address.

    `name` stands for the port in the log; for `transport`, `certificates` and `passed`
    see `taskd.net.endpoints.server_endpoint`. Raises `StartError`, which names the
    endpoint and the reason.
    """
    factory = LateFactory(name)
    try:
        port = wait_for(
            reactor, server_endpoint(reactor, description, transport, certificates, passed).listen(factory)
        )
    except ValueError as error:
        raise StartError(f"taskd: {error}") from error
    except CannotListenError as error:
        why = getattr(error.socketError, "strerror", None) or error.socketError
        raise StartError(f"taskd: cannot listen on {description}: {why}") from error
    except (OSError, OverflowError) as error:
        raise StartError(f"taskd: cannot listen on {description}: {error}") from error
    keep_alive(getattr(port, "socket", None))
    _log.info("listening on {description} ({host})", description=description, host=port.getHost())
    return BoundPort(reactor, port, factory)
