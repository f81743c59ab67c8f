"""How connections to a task server are made: by its endpoint, or by a short way behind it.

The endpoints of Twisted make a factory, a connector, a client, timers and a
Deferred or two for each connection, and ask the reactor four times. Where the
server is an address of this machine or of the network, and there is no TLS, a
socket is enough.
"""

from __future__ import annotations

import os
import socket
import struct
from errno import EAGAIN, EALREADY, EINPROGRESS, EISCONN
from typing import Any, Protocol

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionAborted, ConnectionDone, getConnectError
from twisted.internet.error import TimeoutError as ConnectingTooLong
from twisted.internet.interfaces import IDelayedCall, IReadWriteDescriptor, IStreamClientEndpoint
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.client.link import Connection, factory_for
from taskd.net.endpoints import CONNECT_TIMEOUT, PlainAddress, client_endpoint, keep_alive, plain_address
from taskd.net.reactor import Reactor

__all__ = ["Connecting", "Connector", "connector"]

READ_SIZE = 65536
"""Bytes read at once, as by Twisted's transports."""

RETRY = 0.01
"""Seconds until a unix socket whose queue is full is tried again: the kernel does not tell of room."""

MAX_TRIES = round(CONNECT_TIMEOUT / RETRY)

_DONE, _ABORTED = Failure(ConnectionDone()), Failure(ConnectionAborted())

_RESET = struct.pack("ii", 1, 0)
"""The SO_LINGER with which a close resets the connection."""


class Connecting(Protocol):
    """A connection that is being made."""

    def cancel(self) -> object:
        """Make it no more; its `failed` is called, or was called already."""


class Connector(Protocol):
    """Makes connections to one server."""

    def connect(self, connection: Connection) -> Connecting:
        """Make this one.

        Its `connectionMade` or its `failed` is called; `failed` never before
        this has returned.
        """


def connector(reactor: Reactor, server: str) -> Connector:
    """What makes connections to `server`, a client endpoint string. Raises `ValueError` where it is none."""
    endpoint = client_endpoint(reactor, server)
    address = plain_address(server)
    return _ByEndpoint(endpoint) if address is None else _ByAddress(reactor, address)


class _ByEndpoint:
    """The long way: names, TLS, and whatever else an endpoint string can say."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, connection: Connection) -> Connecting:
        connecting = self._endpoint.connect(factory_for(connection))
        connecting.addErrback(connection.failed)
        return connecting


class _ByAddress:
    """The short way."""

    def __init__(self, reactor: Reactor, address: PlainAddress) -> None:
        self._reactor = reactor
        self._address = address

    def connect(self, connection: Connection) -> Connecting:
        transport = PlainTransport(self._reactor, self._address, connection)
        transport.connect()
        return transport


@implementer(IReadWriteDescriptor)
class PlainTransport:
    """A connection to a TCP or unix address: from its making to its end the transport of a `Connection`.

    `write` sends at once what the kernel takes. `connectionLost` of the
    connection is called once it was made, also from within `loseConnection`
    and `abortConnection`.
    """

    __slots__ = (
        "_address",
        "_connection",
        "_is_closing",
        "_is_connected",
        "_reactor",
        "_socket",
        "_timer",
        "_tries_left",
        "_unsent",
    )

    def __init__(self, reactor: Reactor, address: PlainAddress, connection: Connection) -> None:
        self._reactor = reactor
        self._address = address
        self._connection: Connection | None = connection
        self._socket: socket.SocketType | None = None
        self._timer: IDelayedCall | None = None
        self._is_connected = False
        self._is_closing = False
        self._tries_left = MAX_TRIES
        self._unsent: bytearray | None = None  # None: nothing, and the reactor is not asked for room

    # --- connecting ---

    def connect(self) -> None:
        """Begin."""
        try:
            # Not blocking from the start: that saves a system call. And the
            # plain type: it is made and closed in half the time.
            self._socket = socket.SocketType(self._address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            failed: BaseException | None = _failure(error.args)
        else:
            failed = self._try()
        if failed is not None:
            self._timer = self._reactor.callLater(0, self._fail, failed)

    def _try(self) -> BaseException | None:
        """Go on connecting; the error where that cannot be."""
        assert self._socket is not None
        try:
            code = self._socket.connect_ex(self._address.name)
            if code == EINPROGRESS:
                # On this machine it is there all the same by now; a second call tells.
                code = self._socket.connect_ex(self._address.name)
        except OSError as error:  # it is no address
            return _failure(error.args)
        if code in (0, EISCONN):
            self._made()
        elif code in (EINPROGRESS, EALREADY):
            if self._timer is None:
                self._timer = self._reactor.callLater(CONNECT_TIMEOUT, self._too_late)
                # For reading too: it is what tells of a refusal.
                self._reactor.addReader(self)
                self._reactor.addWriter(self)
        elif code == EAGAIN and self._tries_left:
            self._tries_left -= 1
            self._timer = self._reactor.callLater(RETRY, self._go_on)
        else:
            return _failure((code, os.strerror(code)))
        return None

    def _go_on(self) -> None:
        failed = self._try()
        if failed is not None:
            self._fail(failed)

    def _made(self) -> None:
        assert self._socket is not None
        assert self._connection is not None
        if self._timer is not None:
            self._stop_timer()
            self._reactor.removeWriter(self)
        self._is_connected = True
        self._reactor.addReader(self)
        if self._address.is_remote:
            keep_alive(self._socket)
        self._connection.plainly_made(self)

    def _too_late(self) -> None:
        self._fail(ConnectingTooLong())

    def _fail(self, error: BaseException | None) -> None:
        connection = self._connection
        self._close()
        if connection is not None:
            connection.failed(Failure(error))

    def cancel(self) -> None:
        """Connect no more. As `Connecting.cancel`."""
        if not self._is_connected:
            self._fail(CancelledError())

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _close(self) -> None:
        self._stop_timer()
        if self._socket is not None:
            self._reactor.removeReader(self)
            if self._unsent is not None or not self._is_connected:
                self._reactor.removeWriter(self)
            self._socket.close()
            self._socket = None
        self._unsent = None
        # It refers to us: no garbage is to be left that only the collector would find.
        self._connection = None

    # --- what the reactor asks and tells ---

    def fileno(self) -> int:
        """The descriptor; -1 where there is none any more."""
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        """What Twisted's older log messages begin with."""
        return "PlainTransport"

    def doRead(self) -> Any:
        """Pass on what has come."""
        if self._socket is None:
            return None
        if not self._is_connected:
            self._go_on()
            return None
        assert self._connection is not None
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self._connection.dataReceived(data)
        return None

    def doWrite(self) -> Any:
        """Send more of what the kernel did not take."""
        if self._socket is None:
            return None
        if not self._is_connected:
            self._go_on()
            return None
        if self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                return None
            except OSError:
                return CONNECTION_LOST
            del self._unsent[:sent]
        if not self._unsent:
            self._reactor.removeWriter(self)
            self._unsent = None
            if self._is_closing:
                self._lose(_DONE)
        return None

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has found out that the connection is lost, or cannot be made."""
        connection = self._connection
        if connection is None:
            return
        if self._is_connected:
            self._close()
            connection.connectionLost(reason)
            return
        assert self._socket is not None
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._fail(_failure((code, os.strerror(code))) if code else reason.value)

    # --- what the connection asks ---

    def write(self, data: bytes) -> None:
        """Send at once what the kernel takes, and the rest when it does."""
        if self._socket is None or self._is_closing:
            return
        if self._unsent is not None:
            self._unsent += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # what the peer has sent is still to be read; then comes the end
        if sent < len(data):
            self._unsent = bytearray(memoryview(data)[sent:])
            self._reactor.addWriter(self)

    def loseConnection(self) -> None:
        """Close, once all that was written is sent."""
        if self._unsent is None:
            self._lose(_DONE)
        elif not self._is_closing:
            self._is_closing = True
            self._reactor.removeReader(self)

    def abortConnection(self) -> None:
        """Reset the connection, whatever is unsent."""
        if self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._lose(_ABORTED)

    def _lose(self, why: Failure) -> None:
        connection = self._connection
        if connection is not None:
            self._close()
            connection.connectionLost(why)

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: FBT001
        """Have TCP send what is written without waiting for an answer to what it sent before."""
        if self._socket is not None and self._address.family != socket.AF_UNIX:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)


def _failure(error: tuple[object, ...]) -> BaseException:
    """The exception that Twisted's own clients have for an error number and its text."""
    failure: BaseException = getConnectError(error)
    return failure
