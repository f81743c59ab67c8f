"""A TLS port that answers clients without TLS, where OpenSSL would only close the connection."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocolFactory, ITCPTransport
from twisted.internet.ssl import CertificateOptions
from twisted.internet.tcp import Port
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

from taskd.net.reactor import Reactor
from taskd.net.strangers import is_client_hello, refused_by_tls

__all__ = ["RefusingPlain", "TlsPortEndpoint"]

REFUSAL_GRACE = 2.0
"""Seconds in which a client without TLS can read the answer, while what it sends is dropped."""


class RefusingPlain(BufferingTLSTransport):
    """The server's end of a TLS connection, which answers a client that begins without TLS."""

    transport: ITCPTransport

    def __init__(self, reactor: Reactor, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._reactor = reactor
        self._has_begun = False
        self._giving_up: IDelayedCall | None = None

    def dataReceived(self, bytes: bytes) -> None:  # noqa: A002  # Twisted's name
        """Pass on TLS; answer a client whose first byte is of no TLS, and drop what follows."""
        if not self._has_begun:
            self._has_begun = True
            if not is_client_hello(bytes):
                self._refuse(bytes)
        if self._giving_up is None:
            super().dataReceived(bytes)

    def _refuse(self, first: bytes) -> None:
        self._giving_up = self._reactor.callLater(REFUSAL_GRACE, self.abortConnection)
        self.transport.write(refused_by_tls(first))
        # Closed at once, the connection would lose the answer to a reset.
        self.transport.loseWriteConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Forget the connection."""
        if self._giving_up is not None and self._giving_up.active():
            self._giving_up.cancel()
        super().connectionLost(reason)


class TlsPortEndpoint(SSL4ServerEndpoint):
    """Twisted's ``ssl:`` server, with `RefusingPlain` for its connections, over sockets of `transport`."""

    def __init__(
        self,
        reactor: Reactor,
        port: int,
        options: CertificateOptions,
        backlog: int,
        interface: str,
        transport: Callable[..., object] | None = None,
    ) -> None:
        super().__init__(reactor, port, options, backlog, interface)
        self._transport = transport
        self._connections = partial(RefusingPlain, reactor)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:  # noqa: N803
        """Listen as Twisted's endpoint does, then replace what makes the connections."""
        listening: Deferred[IListeningPort] = super().listen(protocolFactory)
        return listening.addCallback(self._listening)

    def _listening(self, port: IListeningPort) -> IListeningPort:
        if isinstance(port, Port) and isinstance(port.factory, TLSMemoryBIOFactory):
            port.factory.protocol = self._connections  # type: ignore[assignment]
            if self._transport is not None:
                port.transport = self._transport  # type: ignore[assignment]
        return port
