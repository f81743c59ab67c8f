"""A non-blocking socket that sends at once what the kernel takes: the base of taskd's transports.

Twisted's own transports buffer what is written, ask the reactor whether the
socket has room, and send in the next turn. taskd's protocols write once per
turn and connection: here `write` is one send(2), and the reactor watches for
writability only while something is unsent.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IProducer,
    IPushProducer,
    IReadWriteDescriptor,
    ISystemHandle,
)
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.net.reactor import Reactor
from taskd.net.traffic import Traffic

__all__ = [
    "CLOSED",
    "HIGH_WATER",
    "READ_SIZE",
    "SMALL_READ_SIZE",
    "BufferedSocket",
    "Handle",
    "StreamTransport",
    "socket_address",
    "socket_under",
]

READ_SIZE = 65536
"""Bytes read at once, as by Twisted's transports, so that a busy peer does not delay the others."""

SMALL_READ_SIZE = 4096
"""Bytes read at once while memory is scarce: a whole call, mostly, and little of a flood."""

HIGH_WATER = 65536
"""Unsent bytes above which the producer is paused, as by Twisted's transports."""

_RESET = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which a close resets the connection."""

_NOTHING = bytearray()
"""The unsent bytes of a socket that accepts no more writes. Nothing is ever appended to it."""

Handle = socket.SocketType
"""The type of a transport's socket: the C type under `socket.socket`, created in half the time."""


def _closed_socket() -> Handle:
    sock = Handle(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.close()
    return sock


CLOSED = _closed_socket()
"""The replacement for a socket that has been handed on."""


class StreamTransport(Protocol):
    """The methods of every stream transport: Twisted's for TCP, unix sockets and TLS, and taskd's own."""

    def write(self, data: bytes) -> None:
        """Send these bytes, after those written before."""

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send these pieces together."""

    def loseConnection(self) -> None:
        """Close the connection once everything written has been sent."""

    def loseWriteConnection(self) -> None:
        """Shut down the sending side once everything written has been sent; the peer may still send."""

    def abortConnection(self) -> None:
        """Reset the connection."""

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:  # noqa: FBT001
        """Pause this producer while too much is unsent."""

    def unregisterProducer(self) -> None:
        """Forget the producer."""

    def pauseProducing(self) -> None:
        """Read nothing more."""

    def resumeProducing(self) -> None:
        """Read again."""

    def getPeer(self) -> IAddress:
        """Return the address of the other side."""

    def getHost(self) -> IAddress:
        """Return the address of this side."""

    def getHandle(self) -> Handle:
        """Return the socket."""

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: FBT001
        """Let TCP send at once; may raise `OSError` if this is not a TCP socket."""


@implementer(IReadWriteDescriptor, IConsumer, IPushProducer, ISystemHandle)
class BufferedSocket:
    """A connected, non-blocking stream socket under a reactor.

    The instance takes over `sock`, starts to read at once, and passes what it
    reads to `receive`. A subclass decides how the connection ends: it provides
    `connectionLost`, and `loseConnection` if a protocol uses the socket.
    """

    __slots__ = (
        "_ends_sending",
        "_is_reading",
        "_is_receiving",
        "_peer_has_ended",
        "_producer",
        "_producer_is_paused",
        "_reactor",
        "_receive",
        "_socket",
        "_traffic",
        "_unsent",
        "connected",
        "disconnecting",
        "high_water",
        "read_size",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: Handle,
        receive: Callable[[bytes], object],
        traffic: Traffic | None = None,
    ) -> None:
        self._traffic = traffic
        self._reactor = reactor
        self._socket = sock
        self._receive = receive
        # The bytes that the kernel has not taken. None if the next bytes may go
        # straight to the kernel: nothing is unsent, and the socket is open.
        self._unsent: bytearray | None = None
        self._producer: IPushProducer | None = None
        self._producer_is_paused = False
        self._is_reading = True
        self._is_receiving = False
        self._ends_sending = False
        self._peer_has_ended = False
        self.connected = True
        self.disconnecting = False
        self.read_size = READ_SIZE
        """The bytes that are read at once."""
        self.high_water = HIGH_WATER
        """The unsent bytes above which the producer is paused."""
        reactor.addReader(self)

    # --- called by the reactor ---

    def fileno(self) -> int:
        """Return the descriptor; -1 once the socket is closed."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Return the prefix for messages of Twisted's older log functions."""
        return type(self).__name__

    # Twisted declares that these two return failures. Its own transports return
    # exceptions, as these do, and its reactors expect exceptions.

    def doRead(self) -> Exception | None:  # type: ignore[override]
        """Pass on what has arrived."""
        try:
            data = self._socket.recv(self.read_size)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            self._peer_has_ended = True
            return CONNECTION_DONE
        if self._traffic is not None:
            self._traffic.received += len(data)
        self._is_receiving = True
        self._receive(data)
        self._is_receiving = False
        return CONNECTION_DONE if self.disconnecting and not self._unsent else None

    def doWrite(self) -> Exception | None:  # type: ignore[override]
        """Send more of the unsent bytes; once all are sent, resume the producer or close."""
        if self._unsent:
            why = self._send_more(self._unsent)
            if why is not None or self._unsent:
                return why
        return self._all_sent() if self.connected else None

    def _send_more(self, unsent: bytearray) -> Exception | None:
        try:
            sent = self._socket.send(unsent)
        except BlockingIOError:
            return None
        except OSError:
            if self._is_lost_when_sending_fails():
                return CONNECTION_LOST
            sent = len(unsent)
        if self._traffic is not None:
            self._traffic.sent += sent
        del unsent[:sent]
        return None

    def _all_sent(self) -> Exception | None:
        if not self.disconnecting:
            self._unsent = None
        if self._producer_is_paused:
            self._resume_producer()
            if self._unsent or not self.connected:
                return None
        self._reactor.removeWriter(self)
        if self.disconnecting:
            return CONNECTION_DONE
        if self._ends_sending:
            self._shut_down(socket.SHUT_WR)
        return None

    def connectionLost(self, reason: Failure) -> None:
        """Release the socket and report the end."""
        raise NotImplementedError

    # --- sending ---

    @property
    def flushed(self) -> bool:
        """Whether the kernel has taken everything that was written."""
        return not self._unsent

    @property
    def unsent(self) -> int:
        """The number of bytes that were written and that the kernel has not taken."""
        return len(self._unsent) if self._unsent is not None else 0

    def write(self, data: bytes) -> None:
        """Send at once what the kernel takes, and the rest when it has room; do nothing after the close."""
        if self._unsent is None:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                if not self._is_lost_when_sending_fails():
                    return
                sent = 0  # `doWrite` fails as well, and ends the connection
            if self._traffic is not None:
                self._traffic.sent += sent
            if sent == len(data):
                return
            self._unsent = bytearray(memoryview(data)[sent:])
            self._reactor.addWriter(self)
        elif self.disconnecting or not self.connected:
            return
        else:
            self._unsent += data
        if (
            self._producer is not None
            and not self._producer_is_paused
            and len(self._unsent) > self.high_water
        ):
            self._producer_is_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send these pieces together."""
        self.write(b"".join(iovec))

    def _is_lost_when_sending_fails(self) -> bool:
        """Return whether a failed send ends the connection now.

        While the socket is read, it does not: the peer's data is read first, and
        then the end of it ends the connection. The unsent bytes are dropped.
        """
        return not self._is_reading

    def loseWriteConnection(self) -> None:
        """Shut down the sending side once everything is sent; the peer may still send."""
        self._ends_sending = True
        if self.connected and not self._unsent:
            self._shut_down(socket.SHUT_WR)

    def _shut_down(self, how: int) -> None:
        with suppress(OSError):  # the other end may be closed already
            self._socket.shutdown(how)

    # --- IConsumer ---

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:  # noqa: FBT001
        """Pause this producer while more than `HIGH_WATER` bytes are unsent.

        Raises `ValueError` unless it is a streaming producer, and `RuntimeError`
        if another one is registered.
        """
        if not streaming:
            raise ValueError("only streaming producers can be registered here")
        if self._producer is not None:
            raise RuntimeError(f"{self._producer} is still registered; so {producer} cannot be")
        if not self.connected:
            producer.stopProducing()
            return
        self._producer = cast(IPushProducer, producer)

    def unregisterProducer(self) -> None:
        """Forget the producer, without pausing, resuming or stopping it again."""
        self._producer = None
        self._producer_is_paused = False

    def _resume_producer(self) -> None:
        assert self._producer is not None
        self._producer_is_paused = False
        self._producer.resumeProducing()

    # --- IPushProducer ---

    def pauseProducing(self) -> None:
        """Read nothing more."""
        self._is_reading = False
        if self.connected:
            self._reactor.removeReader(self)

    def resumeProducing(self) -> None:
        """Read again."""
        if self.connected and not self.disconnecting:
            self._is_reading = True
            self._reactor.addReader(self)

    def stopProducing(self) -> None:
        """Close once everything is sent, as `loseConnection` does."""
        self.loseConnection()

    # --- the end ---

    def loseConnection(self) -> None:
        """Close the connection once everything written has been sent."""
        raise NotImplementedError

    def _take_no_more(self, *, drop: bool = False) -> bool:
        """Ignore further writes, and with `drop` also the unsent ones; return whether any are unsent."""
        if self._unsent is None or drop:
            self._unsent = _NOTHING
        return bool(self._unsent)

    def _reset_when_closed(self) -> None:
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _release(self, take_over: Callable[[Handle], object] | None = None) -> None:
        """Close the socket, stop the producer, and drop every reference to the owner.

        These references are cycles, which only the garbage collector would free.
        `take_over` gets the socket instead, and closes it some time.
        """
        self._reactor.removeReader(self)
        if self._unsent is not None:
            self._reactor.removeWriter(self)
        if take_over is None:
            self._socket.close()
        else:
            sock, self._socket = self._socket, CLOSED
            take_over(sock)
        self.connected = False
        self._unsent = _NOTHING
        del self._receive
        producer = self._producer
        if producer is not None:
            self.unregisterProducer()
            producer.stopProducing()

    # --- addresses and options ---

    def getHandle(self) -> Handle:
        """Return the socket, for its options."""
        return self._socket

    def getHost(self) -> IAddress:
        """Return the address of this side. Raises `OSError` once the socket is closed."""
        return socket_address(self._socket.getsockname())

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: FBT001
        """Let TCP send without waiting for earlier acknowledgements; do nothing on a unix socket."""
        if self.connected and self._socket.family != socket.AF_UNIX:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)


def socket_under(transport: object) -> BufferedSocket | None:
    """Return the socket of a transport, which may be one of TLS; None if it has none of this class."""
    below = transport.transport if isinstance(transport, TLSMemoryBIOProtocol) else transport
    return below if isinstance(below, BufferedSocket) else None


def socket_address(name: object) -> IAddress:
    """Return the address for a socket's name: a tuple of two (IPv4) or four (IPv6), or a path."""
    if isinstance(name, tuple):  # no `match`, which takes longer than the address
        return IPv4Address("TCP", *name) if len(name) == 2 else IPv6Address("TCP", *name)
    return UNIXAddress((name or None) if isinstance(name, str | bytes) else None)
