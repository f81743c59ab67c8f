"""A TLS port that answers clients without TLS, where OpenSSL would only close the connection."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IProducer,
    IProtocolFactory,
    IReactorTime,
    ITCPTransport,
    ITransport,
)
from twisted.internet.tcp import Port
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

from taskd.net.reactor import Reactor
from taskd.net.strangers import is_client_hello, refused_by_tls
from taskd.net.time_limits import OPENING_SECONDS

__all__ = [
    "KEY_UPDATE_SECONDS",
    "MAX_KEY_UPDATES",
    "PIECE",
    "REFUSED_FOR_ROOM",
    "RefusingPlain",
    "RenewableCertificates",
    "TlsPortEndpoint",
    "note_handshakes",
]

PIECE = 8192
"""Bytes of ciphertext that OpenSSL gets at once: it sees to all the handshake messages of a piece, about 300
at most, before anybody can interfere. That takes some 5 ms. Shorter pieces would slow long messages down."""

MAX_KEY_UPDATES = 100
"""Key updates of a connection in `KEY_UPDATE_SECONDS`: no client needs more than a few in its life, and
each of them costs a hundred times what its bytes cost otherwise."""

KEY_UPDATE_SECONDS = 60.0
"""Seconds after which the key updates of a connection are counted from the start."""

_EXITS = 2
"""How often OpenSSL reports the end of a step for one key update: it was read, and it was answered."""

REFUSED_FOR_ROOM = b"\x15\x03\x03\0\x02\x02\x50"
"""The answer to a connection for which there is no room: a fatal alert (internal_error), since before a
handshake nothing else can be said."""


class RenewableCertificates(Protocol):
    """The certificates of a port, whose files can be read again."""

    def read_again(self) -> None:
        """Use for new connections what the files have now, or raise an exception and change nothing."""


def note_handshakes(context: SSL.Context) -> None:
    """Tell each connection of a context, if it is a `RefusingPlain`, about its handshake messages."""

    def note(connection: SSL.Connection, where: int, _: int) -> None:
        if where == SSL.SSL_CB_ACCEPT_EXIT:
            protocol = connection.get_app_data()
            if isinstance(protocol, RefusingPlain):
                protocol.handshake_rests()

    context.set_info_callback(note)


class RefusingPlain(BufferingTLSTransport):
    """The server's end of a TLS connection, which answers a client that begins without TLS.

    It does not wait for the client's alert when it closes: Twisted's own would wait
    for ever, while a client goes on to send. The transport below lingers, so that
    the last reply is not lost. A client whose handshake is not finished
    `OPENING_SECONDS` after the connection was accepted is disconnected, and so is
    one that floods this end with key updates, which `note_handshakes` counts.
    """

    transport: ITCPTransport
    _has_begun = _is_refused = _has_producer = False
    _opening: IDelayedCall | None = None
    _exits = 0
    _counted_since = 0.0

    def __init__(self, reactor: IReactorTime, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._reactor = reactor

    def makeConnection(self, transport: ITransport) -> None:  # noqa: N802  # Twisted's name
        """Begin with the handshake, and limit its time."""
        self._opening = self._reactor.callLater(OPENING_SECONDS, self._opening_is_over)
        self._counted_since = self._reactor.seconds()
        super().makeConnection(transport)

    def _opening_is_over(self) -> None:
        self._opening = None
        if self.connected and self.getHandle().get_peer_finished() is None:
            self.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Forget the connection."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        handle = self.getHandle()
        super().connectionLost(reason)
        handle.set_app_data(None)  # breaks a reference cycle

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:  # noqa: N802  # Twisted's name
        """End as Twisted does, then drop the frames of the reason, which refer to it and to this object.

        Without this override, which is of a private method, the garbage collector has to free both.
        """
        super()._tlsShutdownFinished(reason)
        if reason is not None:
            reason.cleanFailure()

    def dataReceived(self, bytes: bytes) -> None:  # noqa: A002  # Twisted's name
        """Pass on TLS; answer a client whose first byte is of no TLS, and drop what follows."""
        if not self._has_begun:
            self._has_begun = True
            if not is_client_hello(bytes):
                self._is_refused = True
                self.transport.write(refused_by_tls(bytes))
                self.transport.loseConnection()
        if self._is_refused:
            return
        if len(bytes) <= PIECE:
            super().dataReceived(bytes)
            self._check_key_updates()
            return
        data = memoryview(bytes)
        for start in range(0, len(data), PIECE):
            super().dataReceived(data[start : start + PIECE].tobytes())
            self._check_key_updates()
            if self._aborted or self._lostTLSConnection:
                return

    def handshake_rests(self) -> None:
        """Count a report of OpenSSL's, while it works; the first handshake has a limit of its own."""
        if self._handshakeDone:
            self._exits += 1

    def _check_key_updates(self) -> None:
        if not self._exits:
            return
        now = self._reactor.seconds()
        if now - self._counted_since > KEY_UPDATE_SECONDS:
            self._counted_since = now
            self._exits = 0
        elif self._exits > MAX_KEY_UPDATES * _EXITS and not self._aborted:
            self.abortConnection()

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
        self,
        reactor: Reactor,
        port: int,
        certificates: RenewableCertificates,
        backlog: int,
        interface: str,
    ) -> None:
        super().__init__(reactor, port, certificates, backlog, interface)
        self.certificates = certificates
        self._connections = partial(RefusingPlain, reactor)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:  # noqa: N803
        """Listen as Twisted's endpoint does, then replace what makes the connections."""
        listening: Deferred[IListeningPort] = super().listen(protocolFactory)
        return listening.addCallback(self._listening)

    def _listening(self, port: IListeningPort) -> IListeningPort:
        if isinstance(port, Port) and isinstance(port.factory, TLSMemoryBIOFactory):
            port.factory.protocol = self._connections  # type: ignore[assignment]
        return port
