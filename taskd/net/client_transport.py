"""Connecting to a server, through its endpoint or over a plain socket, and the client's transport.

For each connection, Twisted's endpoints make a factory, a connector, a client,
timers and a Deferred or two, and change the reactor's registrations four times.
If the server is given by its address, without TLS, a plain socket is enough.
"""

from __future__ import annotations

import os
import socket
from errno import EAGAIN, EALREADY, EINPROGRESS, EISCONN
from typing import Protocol

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionAborted, ConnectionDone, getConnectError
from twisted.internet.error import TimeoutError as ConnectingTooLong
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IReadWriteDescriptor,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.net.buffered_socket import CLOSED, BufferedSocket, Handle, StreamTransport, socket_address
from taskd.net.endpoints import CONNECT_TIMEOUT, PlainAddress, client_endpoint, keep_alive, plain_address
from taskd.net.reactor import Reactor

__all__ = ["ClientTransport", "Connecting", "Connector", "ServerConnection", "connector"]

RETRY = 0.01
"""Seconds before a unix socket with a full queue is tried again: the kernel does not report room."""

MAX_TRIES = round(CONNECT_TIMEOUT / RETRY)
"""Tries to enter such a queue: as many as fit into the time in which a connection must be made."""

_DONE, _ABORTED = Failure(ConnectionDone()), Failure(ConnectionAborted())


class ServerConnection(Protocol):
    """A connection to a server, as its connector needs it: a Twisted protocol with two more methods."""

    def plainly_made(self, transport: StreamTransport) -> None:
        """Begin the connection, which was made without TLS; called instead of `makeConnection`."""

    def failed(self, reason: Failure) -> object:
        """Report that the connection could not be made."""

    def makeConnection(self, transport: ITransport) -> None:
        """Begin the connection, which Twisted has made, possibly with TLS."""

    def dataReceived(self, data: bytes) -> None:
        """Process what has arrived."""

    def connectionLost(self, reason: Failure) -> None:
        """Report that the connection, once made, is lost."""


class Connecting(Protocol):
    """A connection that is being made."""

    def cancel(self) -> object:
        """Stop connecting; calls `failed` of the connection, unless it has been called."""


class Connector(Protocol):
    """Makes connections to one server."""

    def connect(self, connection: ServerConnection) -> Connecting:
        """Make this connection.

        Either the connection begins or its `failed` is called, the latter never
        before this method has returned.
        """


def connector(reactor: Reactor, server: str) -> Connector:
    """Return a connector to `server`, a client endpoint string.

    Raises `ValueError` if `server` is not a valid endpoint.
    """
    endpoint = client_endpoint(reactor, server)
    address = plain_address(server)
    return _ByEndpoint(endpoint) if address is None else _ByAddress(reactor, address)


# --- through an endpoint -----------------------------------------------------


class _ByEndpoint:
    """The general connector: host names, TLS, and whatever else an endpoint string can describe."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, connection: ServerConnection) -> Connecting:
        factory = Factory.forProtocol(lambda: connection)  # type: ignore[type-var]  # it is one of Twisted's
        factory.noisy = False
        connecting = self._endpoint.connect(factory)
        connecting.addErrback(connection.failed)
        return connecting


# --- by address --------------------------------------------------------------


class _ByAddress:
    """The fast path: a plain socket, which connects at once on this machine."""

    def __init__(self, reactor: Reactor, address: PlainAddress) -> None:
        self._reactor = reactor
        self._address = address

    def connect(self, connection: ServerConnection) -> Connecting:
        address = self._address
        try:
            # Non-blocking from the start, which saves a system call; and of the C
            # type, which is created and closed in half the time.
            sock = Handle(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            return _Refused(self._reactor, connection, _connect_error(error.args))
        try:
            code = sock.connect_ex(address.name)
            if code == EINPROGRESS:
                # On this machine the connection is usually made by now; a second call finds out.
                code = sock.connect_ex(address.name)
        except OSError as error:  # the name is not an address
            sock.close()
            return _Refused(self._reactor, connection, _connect_error(error.args))
        if code in (0, EISCONN):
            connection.plainly_made(ClientTransport(self._reactor, sock, address, connection))
            return _MADE
        if code in _PENDING or code == EAGAIN:
            return _PendingSocket(self._reactor, sock, address, connection, code)
        sock.close()
        return _Refused(self._reactor, connection, _connect_error((code, os.strerror(code))))


_PENDING = (EINPROGRESS, EALREADY)


class _Made:
    """A connection that was made at once."""

    def cancel(self) -> None:
        """Do nothing, since the connection has begun, and is closed through its transport."""


_MADE = _Made()


class _Refused:
    """A connection that was refused at once; the report follows in the reactor's next turn."""

    def __init__(self, reactor: Reactor, connection: ServerConnection, error: BaseException) -> None:
        self._connection = connection
        self._report = reactor.callLater(0, connection.failed, Failure(error))

    def cancel(self) -> None:
        """Report the cancellation instead."""
        if self._report.active():
            self._report.cancel()
            self._connection.failed(Failure(CancelledError()))


@implementer(IReadWriteDescriptor)
class _PendingSocket:
    """A socket whose connection the kernel is still making."""

    __slots__ = ("_address", "_connection", "_reactor", "_socket", "_timer", "_tries_left")

    def __init__(
        self, reactor: Reactor, sock: Handle, address: PlainAddress, connection: ServerConnection, code: int
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self._address = address
        self._connection = connection
        self._tries_left = MAX_TRIES
        self._timer: IDelayedCall
        if code == EAGAIN:
            self._try_later()
        else:
            self._wait()

    def _wait(self) -> None:
        self._timer = self._reactor.callLater(CONNECT_TIMEOUT, self._fail, ConnectingTooLong())
        self._reactor.addReader(self)  # a refusal makes the socket readable
        self._reactor.addWriter(self)

    def _try_later(self) -> None:
        self._tries_left -= 1
        self._timer = self._reactor.callLater(RETRY, self._try)

    def _try(self) -> None:
        if self._socket.fileno() < 0:
            return  # the reactor reported several events, and the first was enough
        code = self._socket.connect_ex(self._address.name)
        if code in (0, EISCONN):
            self._stop_waiting()
            sock, self._socket = self._socket, CLOSED
            transport = ClientTransport(self._reactor, sock, self._address, self._connection)
            self._connection.plainly_made(transport)
        elif code == EAGAIN and self._tries_left:
            self._try_later()
        elif code in _PENDING:
            if not self._timer.active():
                self._wait()
        else:
            self._fail(_connect_error((code, os.strerror(code))))

    def _fail(self, error: BaseException) -> None:
        self._stop_waiting()
        self._socket.close()
        self._connection.failed(Failure(error))

    def _stop_waiting(self) -> None:
        if self._timer.active():
            self._timer.cancel()
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)

    def cancel(self) -> None:
        """Stop connecting. As `Connecting.cancel`."""
        if self._socket.fileno() >= 0:
            self._fail(CancelledError())

    # --- called by the reactor ---

    def fileno(self) -> int:
        """Return the descriptor; -1 once the connection is made or has failed."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Return the prefix of messages that Twisted's older log functions write."""
        return "connecting"

    def doRead(self) -> None:
        """Find out whether the connection is made or refused."""
        self._try()

    def doWrite(self) -> None:
        """Find out whether the connection is made or refused."""
        self._try()

    def connectionLost(self, reason: Failure) -> None:
        """Report why the connection cannot be made, preferably the socket's own error."""
        if self._socket.fileno() < 0:
            return
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._fail(_connect_error((code, os.strerror(code))) if code else _exception(reason))


@implementer(ITransport)
class ClientTransport(BufferedSocket):
    """The transport of a connection to a TCP or unix address.

    It calls `connectionLost` of the connection once, possibly from within
    `loseConnection` (if nothing is unsent) and `abortConnection`. This saves a
    turn of the reactor for a client that opens a connection for each call.
    """

    __slots__ = ("_address", "_connection")

    def __init__(
        self, reactor: Reactor, sock: Handle, address: PlainAddress, connection: ServerConnection
    ) -> None:
        self._address = address
        self._connection = connection
        super().__init__(reactor, sock, connection.dataReceived)
        if address.is_remote:
            keep_alive(sock)

    def getPeer(self) -> IAddress:
        """Return the address of the server."""
        return socket_address(self._address.name)

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket and report the end to the connection, unless that has happened."""
        if self.fileno() >= 0:
            self._release()
            connection = self._connection
            del self._connection
            connection.connectionLost(reason)

    def loseConnection(self) -> None:
        """Close at once, or as soon as everything written has been sent."""
        if not self._unsent:
            self.connectionLost(_DONE)
        elif not self.disconnecting:
            self.disconnecting = True
            self.pauseProducing()

    def abortConnection(self) -> None:
        """Reset the connection at once, whatever is unsent."""
        if self.connected:
            self._reset_when_closed()
            self.connectionLost(_ABORTED)


def _exception(reason: Failure) -> BaseException:
    assert reason.value is not None
    return reason.value


def _connect_error(error: tuple[object, ...]) -> BaseException:
    """Return the exception with which Twisted's own clients report an error number and its text."""
    failure: BaseException = getConnectError(error)
    return failure
