"""The transport of a connection that a server has accepted: small, and it sends at once.

Twisted's own keeps what is written, asks the reactor whether the socket takes
it, and sends it in the next turn. Our protocols write once for each turn and
connection: here `write` is one send(2), and the reactor is asked only about
what the kernel did not take.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IProducer,
    IPushProducer,
    IReadWriteDescriptor,
    ITransport,
)
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.net.reactor import Reactor

__all__ = ["ServerConnection"]

_log = Logger(namespace="taskd.transport")

READ_SIZE = 65536
"""Bytes read at once, as by Twisted's transports: who sends much does not hold up the others."""

HIGH_WATER = 65536
"""Unsent bytes past which the producer is paused, as by Twisted's transports."""

_RESET = struct.pack("ii", 1, 0)
"""The SO_LINGER with which a close resets the connection."""


@implementer(IReadWriteDescriptor, IHalfCloseableDescriptor, ITransport, IConsumer, IPushProducer)
class ServerConnection:
    """One accepted connection, of TCP or of a unix socket.

    To be set as `transport` of a Twisted port, which calls it as its own.
    Takes streaming producers only. The protocol is told once that the
    connection is lost, and never from within a call that it makes here.
    """

    __slots__ = (
        "_client",
        "_in_protocol",
        "_paused",
        "_producer",
        "_protocol",
        "_reactor",
        "_socket",
        "_unsent",
        "connected",
        "disconnecting",
    )

    def __init__(
        self, sock: socket.socket, protocol: Any, client: Any, port: object, number: int, reactor: Reactor
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._protocol = protocol
        self._client = client
        self._reactor = reactor
        self._producer: Any = None
        self._paused = False
        # What the kernel has not taken; None while there is nothing, and no need to be told of room.
        self._unsent: bytearray | None = None
        self._in_protocol = False
        self.connected = True
        self.disconnecting = False
        reactor.addReader(self)

    # --- what the reactor asks and tells ---

    def fileno(self) -> int:
        """The descriptor; -1 once the connection is lost."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """What Twisted's older log messages begin with."""
        return "ServerConnection"

    def doRead(self) -> Any:
        """Pass on what has come."""
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self._in_protocol = True
        self._protocol.dataReceived(data)
        self._in_protocol = False
        return CONNECTION_DONE if self._is_done else None

    def readConnectionLost(self, reason: Failure) -> None:
        """The peer has shut down its sending side, or `doRead` saw that we are done."""
        if not self.disconnecting:
            if not IHalfCloseableProtocol.providedBy(self._protocol):
                self.connectionLost(reason)
                return
            self._in_protocol = True
            try:
                self._protocol.readConnectionLost()
            except Exception:
                failure = Failure()
                _log.failure("a protocol failed at the end of what it reads", failure)
                self.connectionLost(failure)
                return
            self._in_protocol = False
        if self._is_done:
            self.connectionLost(reason)

    def doWrite(self) -> Any:
        """Send more of what the kernel did not take; then let the producer go on, or close."""
        if self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                return None
            except OSError:
                return CONNECTION_LOST
            del self._unsent[:sent]
            if self._unsent:
                return None
        self._unsent = None
        if self._paused:
            self._paused = False
            self._producer.resumeProducing()
        if self._unsent is None and self.connected:
            self._reactor.removeWriter(self)
            return CONNECTION_DONE if self.disconnecting else None
        return None

    def writeConnectionLost(self, reason: Failure) -> None:
        """Part of the interface; no reactor calls it."""
        self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket, and tell the producer and the protocol."""
        if self.fileno() < 0:
            return
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        self._socket.close()
        self.connected = False
        self._unsent = None
        if self._producer is not None:
            self._producer.stopProducing()
            self.unregisterProducer()
        protocol = self._protocol
        del self._protocol  # it refers to us: this way no garbage is left that only the collector would find
        protocol.connectionLost(reason)

    @property
    def _is_done(self) -> bool:
        return self.disconnecting and self._unsent is None

    # --- what the protocol asks ---

    @property
    def flushed(self) -> bool:
        """Whether the kernel has taken all that was written."""
        return self._unsent is None

    def write(self, data: bytes) -> None:
        """Send at once what the kernel takes, and the rest when it does; nothing after `loseConnection`."""
        if self.disconnecting or not self.connected:
            return
        if self._unsent is None:
            try:
                sent = self._socket.send(data)
            except OSError:
                sent = 0  # if this was not for want of room, `doWrite` will be told as well
            if sent == len(data):
                return
            self._unsent = bytearray(memoryview(data)[sent:])
            self._reactor.addWriter(self)
        else:
            self._unsent += data
        if self._producer is not None and not self._paused and len(self._unsent) > HIGH_WATER:
            self._paused = True
            self._producer.pauseProducing()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send these together."""
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        """Close, once all that was written is sent."""
        if self.disconnecting or not self.connected:
            return
        self.disconnecting = True
        if self._in_protocol and self._unsent is None:
            return  # whoever called the protocol closes when it returns
        self._reactor.removeReader(self)
        self._reactor.addWriter(self)

    def abortConnection(self) -> None:
        """Reset the connection, whatever is unsent."""
        if not self.connected:
            return
        self.connected = False
        self._unsent = None
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._reactor.callLater(0, self.connectionLost, Failure(ConnectionAborted()))

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:  # noqa: FBT001
        """Have a producer paused while too much is unsent."""
        if not streaming:
            raise ValueError("only streaming producers can be registered here")
        if self._producer is not None:
            raise RuntimeError(f"{self._producer} is still registered; so {producer} cannot be")
        if not self.connected:
            producer.stopProducing()
            return
        self._producer = producer

    def unregisterProducer(self) -> None:
        """No producer is to be paused any more."""
        self._producer = None
        self._paused = False

    def pauseProducing(self) -> None:
        """Read nothing more."""
        if self.connected:
            self._reactor.removeReader(self)

    def resumeProducing(self) -> None:
        """Read again."""
        if self.connected and not self.disconnecting:
            self._reactor.addReader(self)

    def stopProducing(self) -> None:
        """Close, as `loseConnection`."""
        self.loseConnection()

    def getPeer(self) -> IAddress:
        """The address of the other side."""
        return _address(self._client)

    def getHost(self) -> IAddress:
        """The address of this side. Raises `OSError` once the connection is lost."""
        return _address(self._socket.getsockname())


def _address(name: Any) -> IAddress:
    """The address that a socket has: a tuple for IPv4 (two members) and IPv6 (four), else a path."""
    if not isinstance(name, tuple):
        return UNIXAddress(name or None)
    return IPv4Address("TCP", *name) if len(name) == 2 else IPv6Address("TCP", *name)
