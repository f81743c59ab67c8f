"""A TLS port that answers clients without TLS, where OpenSSL would only close the connection."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.interfaces import IListeningPort, IProducer, IProtocolFactory, ITCPTransport
from twisted.internet.ssl import CertificateOptions
from twisted.internet.tcp import Port
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory

from taskd.net.reactor import Reactor
from taskd.net.strangers import is_client_hello, refused_by_tls

__all__ = ["RefusingPlain", "TlsPortEndpoint"]


class RefusingPlain(BufferingTLSTransport):
    """The server's end of a TLS connection, which answers a client that begins without TLS.

    It does not wait for the client's alert when it closes: Twisted's own would wait
    for ever, while a client goes on to send. The connection below sees to it that
    the last reply is not lost.
    """

    transport: ITCPTransport
    _has_begun = _is_refused = _has_producer = False

    def dataReceived(self, bytes: bytes) -> None:  # noqa: A002  # Twisted's name
        """Pass on TLS; answer a client whose first byte is of no TLS, and drop what follows."""
        if not self._has_begun:
            self._has_begun = True
            if not is_client_hello(bytes):
                self._is_refused = True
                self.transport.write(refused_by_tls(bytes))
                self.transport.loseConnection()
        if not self._is_refused:
            super().dataReceived(bytes)

    def loseConnection(self) -> None:  # noqa: N802
        """Close TLS, and then the connection below, once everything written has been sent."""
        super().loseConnection()
        self._close_below()

    def _close_below(self) -> None:
        if self.disconnecting and not self._has_producer:
            self.transport.loseConnection()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:  # noqa: FBT001, N802
        """Pause this producer while too much is unsent."""
        super().registerProducer(producer, streaming)
        self._has_producer = True

    def unregisterProducer(self) -> None:  # noqa: N802
        """Forget the producer; it may have been what a close waited for."""
        super().unregisterProducer()
        self._has_producer = False
        self._close_below()


class TlsPortEndpoint(SSL4ServerEndpoint):
    """Twisted's ``ssl:`` server, with `RefusingPlain` for its connections."""

    def __init__(
        self, reactor: Reactor, port: int, options: CertificateOptions, backlog: int, interface: str
    ) -> None:
        super().__init__(reactor, port, options, backlog, interface)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:  # noqa: N803
        """Listen as Twisted's endpoint does, then replace what makes the connections."""
        listening: Deferred[IListeningPort] = super().listen(protocolFactory)
        return listening.addCallback(self._listening)

    def _listening(self, port: IListeningPort) -> IListeningPort:
        if isinstance(port, Port) and isinstance(port.factory, TLSMemoryBIOFactory):
            port.factory.protocol = RefusingPlain
        return port
