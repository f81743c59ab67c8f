"""The end of a peer whose connection is not being read.

A transport that reads nothing has its descriptor taken out of the reactor, so
that nothing reports that the peer has closed or reset the connection. Here the
descriptors of such transports are in an epoll of their own, whose descriptor
the reactor reads. The kernel reports the end even behind data that is unread.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.net.buffered_socket import StreamTransport
from taskd.net.reactor import Reactor

__all__ = ["EndWatch", "PausedConnections", "descriptor_of"]

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


def descriptor_of(transport: object) -> int:
    """Return the descriptor under a transport, through TLS if need be; -1 if it is closed or has none."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    fileno: Callable[[], int] = getattr(transport, "fileno", lambda: -1)
    return fileno()


class _Watch:
    """One connection: its descriptor, and whom to tell."""

    __slots__ = ("_connections", "descriptor", "ended", "lost")

    def __init__(
        self,
        connections: PausedConnections,
        descriptor: int,
        ended: Callable[[], object],
        lost: Callable[[], object],
    ) -> None:
        self._connections = connections
        self.descriptor = descriptor
        self.ended: Callable[[], object] | None = ended
        self.lost = lost

    def stop(self) -> None:
        """Watch no more."""
        self._connections.forget(self)


@implementer(IReadDescriptor)
class PausedConnections:
    """The connections that are not being read, whose ends are reported all the same.

    One for each listener. The reactor reads it while any connection is watched.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        self._watched: dict[int, _Watch] = {}

    def __len__(self) -> int:
        """Return how many connections are watched."""
        return len(self._watched)

    def watch(
        self,
        transport: StreamTransport,
        ended: Callable[[], object],
        lost: Callable[[], object],
    ) -> EndWatch | None:
        """Report the end of the peer of `transport`, which has just stopped reading.

        `ended` is called, at most once, when the peer has shut down its sending
        side or closed: what it sent before may still be read. `lost` is called,
        at most once and last, when the connection was reset or timed out. Returns None
        if the transport is closed, or the kernel cannot watch any more.

        Stop the watch before the descriptor is closed, or in the same turn.
        """
        descriptor = descriptor_of(transport)
        if descriptor < 0:
            return None
        watch = _Watch(self, descriptor, ended, lost)
        try:
            self._epoll.register(descriptor, _ENDED | _ONCE)
        except FileExistsError:  # an earlier watch of this descriptor was not stopped
            self._epoll.modify(descriptor, _ENDED | _ONCE)
        except OSError:  # ENOSPC and ENOMEM, documented in epoll_ctl(2)
            return None
        if not self._watched:
            self._reactor.addReader(self)
        self._watched[descriptor] = watch
        return watch

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
            watch.lost()
            return
        if not events & select.EPOLLHUP:
            # A reset may still follow. But after EPOLLHUP nothing does, and it would be reported for ever.
            self._epoll.modify(watch.descriptor, _ONCE)
        ended, watch.ended = watch.ended, None
        if ended is not None:
            ended()

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing: the epoll is no connection, and is never lost."""
