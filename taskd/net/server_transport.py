"""The transport of connections that a server has accepted, in place of Twisted's."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IProtocol,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.net.buffered_socket import READ_SIZE, BufferedSocket, Handle, socket_address
from taskd.net.lingering import Lingering
from taskd.net.reactor import Reactor
from taskd.net.read_ahead import Ahead, AheadRoom
from taskd.net.traffic import Traffic

__all__ = ["ServerTransport"]

_log = Logger(namespace="taskd.transport")

_DONE = Failure(ConnectionDone())


@implementer(IHalfCloseableDescriptor, ITransport)
class ServerTransport(BufferedSocket):
    """The transport of one accepted connection, over TCP or a unix socket.

    Set this class as the `transport` of a Twisted port, which calls it like its
    own. It accepts streaming producers only. It reports the loss of the
    connection once, and never from within a call by the protocol. The protocol
    may be replaced, as a websocket's replaces twisted.web's.

    With `lingering`, `loseConnection` is a lingering close: the end is reported
    to the protocol as soon as everything is sent, and `lingering` then has the
    socket, unless the peer has ended first. `when_closed` is called once the connection is
    closed, as far as its protocol is concerned. `traffic` counts the bytes of the port's connections.
    """

    __slots__ = ("_ahead", "_client", "_lingering", "_protocol", "when_closed")

    def __init__(
        self,
        sock: Handle,
        protocol: IProtocol,
        client: object,
        port: object,
        number: int,
        reactor: Reactor,
        lingering: Lingering | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        sock.setblocking(False)
        self._client = client
        self._lingering = lingering
        self._ahead: Ahead | None = None
        self._protocol = protocol
        self.when_closed: Callable[[], object] | None = None
        super().__init__(reactor, sock, protocol.dataReceived, traffic)

    @property
    def protocol(self) -> IProtocol:
        """The protocol that receives the data, and the report of the end."""
        return self._protocol

    @protocol.setter
    def protocol(self, protocol: IProtocol) -> None:
        self._protocol = protocol
        if self._ahead is None:
            self._receive = protocol.dataReceived

    @property
    def host(self) -> str | None:
        """The IP address of the other side, None on a unix socket."""
        client = self._client
        return client[0] if isinstance(client, tuple) else None

    def getPeer(self) -> IAddress:
        """Return the address of the other side."""
        return socket_address(self._client)

    # --- called by the reactor ---

    def readConnectionLost(self, reason: Failure) -> None:
        """Handle the end of input: the peer has shut down its sending side, or the close is due."""
        if self._ahead is not None and not self.disconnecting:
            return  # the protocol has yet to get what came before
        self._is_reading = False
        if not self.disconnecting:
            if not IHalfCloseableProtocol.providedBy(self._protocol):
                self.connectionLost(reason)
                return
            self._is_receiving = True
            try:
                self._protocol.readConnectionLost()
            except Exception:
                failure = Failure()
                _log.failure("a protocol failed at the end of what it reads", failure)
                self.connectionLost(failure)
                return
            self._is_receiving = False
        if self.disconnecting and not self._unsent:
            self.connectionLost(reason)

    def writeConnectionLost(self, reason: Failure) -> None:
        """End the connection. The interface requires this method, but no reactor calls it."""
        self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket, then stop the producer and report the end to the protocol."""
        if self.fileno() < 0:
            return
        if self._ahead is not None:
            self._ahead.clear()
        if (
            not self._peer_has_ended
            and self._lingering is not None
            and self.disconnecting
            and self.connected
            and reason.check(ConnectionDone)
        ):
            self._release(self._lingering.take)
        else:
            self._release()
        if self.when_closed is not None:
            self.when_closed()
        protocol = self._protocol
        del self._protocol
        protocol.connectionLost(reason)

    def _is_lost_when_sending_fails(self) -> bool:
        return True  # what a client sends is of no use if it cannot be answered

    # --- reading ahead of the protocol, so that the end of the peer arrives ---

    def read_ahead(self, room: AheadRoom, *, drops: bool = False) -> None:
        """Read on although the protocol has paused this, into `room`, or into nothing if that `drops` it.

        The protocol gets what was read when it resumes this. Of what is dropped, a call reads a part.
        """
        if self._is_reading or self.disconnecting or self._peer_has_ended or not self.connected:
            return
        if self._ahead is None:
            self._ahead = Ahead(room, drops=drops)
            self._receive = self._receive_ahead
        self._ahead.drop_more()
        if self._ahead.has_room:
            self._reactor.addReader(self)

    @property
    def is_full_ahead(self) -> bool:
        """Whether no more is read ahead for want of room, so that the end of the peer may be kept back."""
        ahead = self._ahead
        return ahead is not None and not ahead.drops and not ahead.has_room and not self._peer_has_ended

    def refuse_rest(self, refused: Callable[[], object]) -> None:
        """Drop what comes behind the data that waits; call `refused` once the protocol has got that."""
        if self._ahead is not None and not self._is_reading and not self.disconnecting and self.connected:
            self._ahead.cut(refused)
            self._reactor.addReader(self)

    @property
    def ahead(self) -> int:
        """The number of bytes that have been read ahead while this was paused."""
        return self._ahead.arrived if self._ahead is not None else 0

    def _receive_ahead(self, data: bytes) -> None:
        assert self._ahead is not None
        self._ahead.add(data)
        if not self._ahead.has_room:
            self._reactor.removeReader(self)

    def resumeProducing(self) -> None:
        """Read again, first what was read ahead: a part in each turn, as it would come from the socket."""
        if self._ahead is None:
            super().resumeProducing()
        elif self.connected and not self.disconnecting and not self._is_reading:
            self._is_reading = True
            self._reactor.removeReader(self)
            self._reactor.callLater(0, self._deliver)

    def _deliver(self) -> None:
        ahead = self._ahead
        if ahead is None or not self._is_reading or self.disconnecting or not self.connected:
            return
        if data := ahead.take(READ_SIZE):
            self._is_receiving = True
            try:
                self._protocol.dataReceived(data)
            except Exception:
                failure = Failure()
                _log.failure("a protocol failed at what was read ahead", failure)
                self.connectionLost(failure)
                return
            self._is_receiving = False
            if self.disconnecting and not self._unsent:
                self.connectionLost(_DONE)
                return
        if len(ahead):
            self._reactor.callLater(0, self._deliver)
        elif self.connected:
            self._delivered(ahead)

    def _delivered(self, ahead: Ahead) -> None:
        """Read from the socket again, or report that what would follow was dropped."""
        if ahead.is_cut:
            # The protocol can read nothing more, as the next bytes are missing. So this stays as it is.
            if self._is_reading and ahead.on_cut is not None:
                on_cut, ahead.on_cut = ahead.on_cut, None
                on_cut()
            return
        self._ahead = None
        self._receive = self._protocol.dataReceived
        if self._is_reading and self._peer_has_ended:
            self.readConnectionLost(_DONE)
        elif self._is_reading:
            self._reactor.addReader(self)

    # --- called by the protocol ---

    def loseConnection(self) -> None:
        """Close, once everything written has been sent."""
        if self.disconnecting or not self.connected:
            return
        self.disconnecting = True
        if not self._take_no_more() and self._is_receiving:
            return  # the caller of the protocol closes when the protocol returns
        self._reactor.removeReader(self)
        self._reactor.addWriter(self)

    def abortConnection(self) -> None:
        """Reset the connection, whatever is unsent."""
        if not self.connected:
            return
        self._take_no_more(drop=True)
        self.connected = False
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        self._reset_when_closed()
        self._reactor.callLater(0, self.connectionLost, Failure(ConnectionAborted()))
