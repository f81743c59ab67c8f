"""The end of a peer whose connection is not being read.

A transport that reads nothing has its descriptor taken out of the reactor, so
that nothing reports that the peer has closed or reset the connection. Here the
descriptors of such transports are in an epoll of their own, whose descriptor
the reactor reads. The kernel reports the end even behind data that is unread.

It reports only what has arrived. So if anything depends on the end of a
connection that is paused for longer, what its peer cannot send is read ahead.
If that is too much, and the peer does not show otherwise that it is there, the
rest is refused.
"""

from __future__ import annotations

import select
import socket
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.net.buffered_socket import StreamTransport
from taskd.net.reactor import Reactor
from taskd.net.read_ahead import AheadRoom
from taskd.net.server_transport import ServerTransport
from taskd.scheduler.budget import Budget

__all__ = ["EndWatch", "PausedConnections", "Watched", "arrived", "descriptor_of", "unacknowledged", "unread"]

LONG = 1.0
"""Seconds of a pause after which the peer's data is read ahead, so that its end arrives in time.
Most pauses are shorter, and cost nothing."""

SILENCE = 2.0
"""Seconds without any sign of the peer after which more than can be read ahead is refused: the end of
the peer may be behind it."""

_BYTES_ACKED = slice(120, 128)
"""The place of `tcpi_bytes_acked` in the kernel's struct tcp_info: since Linux 4.1, it is always there."""

ENDS_PER_TURN = 256
"""Ends that are reported in one turn of the reactor: each may cancel a thousand tasks."""

_ENDED = select.EPOLLRDHUP
_ONCE = select.EPOLLONESHOT
"""EPOLLHUP and EPOLLERR are always reported, without being asked for."""

_log = Logger(namespace="taskd.transport")


class EndWatch(Protocol):
    """The watch over one connection that is not being read."""

    def stop(self) -> None:
        """Watch no more: the connection is read again, or gone. Does nothing the second time."""


class Watched(Protocol):
    """Whoever has to know of the end of a connection's peer."""

    def peer_has_ended(self) -> None:
        """Note that the peer sends nothing more, or is gone: what it sent before may still be read."""

    def peer_is_lost(self) -> None:
        """Close: the connection was reset, or timed out."""

    @property
    def depends_on_peer(self) -> bool:
        """Whether anything is cancelled when the peer ends."""

    @property
    def reads_no_more(self) -> bool:
        """Whether what the peer still sends is of no use."""

    def probe(self) -> None:
        """Send something that means nothing, if there is such a thing: a kernel acknowledges or resets."""

    def rest_is_refused(self) -> None:
        """Note that what the peer has sent behind that which was received is lost, for want of room."""


def _below(transport: object) -> object:
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def descriptor_of(transport: object) -> int:
    """Return the descriptor under a transport, through TLS if need be; -1 if it is closed or has none."""
    fileno: Callable[[], int] = getattr(_below(transport), "fileno", lambda: -1)
    return fileno()


def arrived(transport: object) -> int:
    """Return how many bytes from the peer of a paused transport have arrived and are not used."""
    below = _below(transport)
    return unread(below) + (below.ahead if isinstance(below, ServerTransport) else 0)


def unread(transport: object) -> int:
    """Return how many bytes from the peer of a transport the kernel keeps."""
    return _queued(_below(transport), termios.FIONREAD)


def unacknowledged(transport: object) -> int:
    """Return how many bytes the peer's kernel has not acknowledged."""
    return _queued(_below(transport), termios.TIOCOUTQ)


def acknowledged(transport: ServerTransport) -> int:
    """Return how many bytes the peer's kernel has acknowledged since the beginning; 0 if that is unknown.

    It acknowledges only what its program may still read. Once that has closed the socket, it resets.
    """
    try:
        info = transport.getHandle().getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop)
    except OSError:
        return 0
    return int.from_bytes(info[_BYTES_ACKED], sys.byteorder)


def _queued(transport: object, which: int) -> int:
    descriptor = descriptor_of(transport)
    if descriptor < 0:
        return 0
    return int.from_bytes(ioctl(descriptor, which, bytes(4)), sys.byteorder)


class _Watch:
    """One connection: its descriptor, its transport, whom to tell, and since when it is paused and silent."""

    __slots__ = (
        "_connections",
        "acknowledged",
        "descriptor",
        "has_ended",
        "owner",
        "silent_since",
        "since",
        "transport",
    )

    def __init__(
        self,
        connections: PausedConnections,
        descriptor: int,
        transport: object,
        owner: Watched,
        since: float,
    ) -> None:
        self._connections = connections
        self.descriptor = descriptor
        self.transport = transport
        self.owner = owner
        self.since = self.silent_since = since
        self.acknowledged = -1
        self.has_ended = False

    def stop(self) -> None:
        """Watch no more."""
        self._connections.forget(self)


@implementer(IReadDescriptor)
class PausedConnections:
    """The connections that are not being read, whose ends are reported all the same.

    One for each listener. The reactor reads it while any connection is watched.
    What is read ahead counts in `budget`.
    """

    def __init__(self, reactor: Reactor, budget: Budget) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        self._watched: dict[int, _Watch] = {}
        self._room = AheadRoom(budget)
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        """Return how many connections are watched."""
        return len(self._watched)

    def watch(self, transport: StreamTransport, owner: Watched) -> EndWatch | None:
        """Report the end of the peer of `transport`, which has just stopped reading, to `owner`.

        Its methods are called at most once each, `peer_is_lost` as the last.
        Returns None if the transport is closed, or the kernel cannot watch any more.

        Stop the watch before the descriptor is closed, or in the same turn.
        """
        descriptor = descriptor_of(transport)
        if descriptor < 0:
            return None
        watch = _Watch(self, descriptor, _below(transport), owner, self._reactor.seconds())
        try:
            self._epoll.register(descriptor, _ENDED | _ONCE)
        except FileExistsError:  # an earlier watch of this descriptor was not stopped
            self._epoll.modify(descriptor, _ENDED | _ONCE)
        except OSError:  # ENOSPC and ENOMEM, documented in epoll_ctl(2)
            return None
        if not self._watched:
            self._reactor.addReader(self)
        self._watched[descriptor] = watch
        if self._timer is None:
            self._timer = self._reactor.callLater(LONG, self._read_ahead)
        return watch

    def _read_ahead(self) -> None:
        """Read ahead of the connections that are paused for long, if anything depends on their ends."""
        self._timer = None
        if not self._watched:
            return
        before = self._reactor.seconds() - LONG
        for watch in list(self._watched.values()):
            transport, owner = watch.transport, watch.owner
            if (
                watch.since <= before
                and not watch.has_ended
                and isinstance(transport, ServerTransport)
                and transport.getHandle().family != socket.AF_UNIX  # whose end waits behind nothing
                and owner.depends_on_peer
            ):
                self._look_ahead(watch, transport)
        self._timer = self._reactor.callLater(LONG, self._read_ahead)

    def _look_ahead(self, watch: _Watch, transport: ServerTransport) -> None:
        """Read ahead of one connection, or refuse the rest if it is too much and its peer may be gone."""
        now, count = self._reactor.seconds(), acknowledged(transport)
        if count != watch.acknowledged:
            watch.acknowledged, watch.silent_since = count, now
        transport.read_ahead(self._room, drops=watch.owner.reads_no_more)
        if transport.is_full_ahead:
            if now - watch.silent_since >= SILENCE:
                transport.refuse_rest(watch.owner.rest_is_refused)
            else:
                watch.owner.probe()

    def forget(self, watch: EndWatch) -> None:
        """Watch a connection no more."""
        if not isinstance(watch, _Watch) or self._watched.get(watch.descriptor) is not watch:
            return
        del self._watched[watch.descriptor]
        with suppress(OSError):  # a closed descriptor has left the epoll by itself
            self._epoll.unregister(watch.descriptor)
        if not self._watched:
            self._reactor.removeReader(self)

    # --- called by the reactor ---

    def fileno(self) -> int:
        """Return the descriptor of the epoll."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:  # noqa: N802
        """Return the prefix for messages of Twisted's older log functions."""
        return "paused connections"

    def doRead(self) -> None:
        """Report the ends that have come."""
        found = [(self._watched.get(at), events) for at, events in self._epoll.poll(0, ENDS_PER_TURN)]
        for watch, events in found:
            # What is reported for one connection may end another, and its descriptor be used anew.
            if watch is None or self._watched.get(watch.descriptor) is not watch:
                continue
            try:
                self._report(watch, events)
            except Exception:
                _log.failure("a bug in taskd")

    def _report(self, watch: _Watch, events: int) -> None:
        if events & select.EPOLLERR:
            self.forget(watch)
            watch.owner.peer_is_lost()
            return
        if not events & select.EPOLLHUP:
            # A reset may still follow. But after EPOLLHUP nothing does, and it would be reported for ever.
            self._epoll.modify(watch.descriptor, _ONCE)
        if not watch.has_ended:
            watch.has_ended = True
            watch.owner.peer_has_ended()

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing: the epoll is no connection, and is never lost."""
