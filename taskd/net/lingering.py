"""The lingering close: an answer is not lost because its receiver still sends.

If a socket is closed while data is unread, or arrives later, the kernel resets
the connection, and the peer may lose what it has not read yet. So a connection
that this side closes has its sending side shut down first; then it is read on,
for a bounded time, and everything is dropped.
"""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.net.buffered_socket import READ_SIZE, Handle
from taskd.net.reactor import Reactor

__all__ = ["MAX_DROPPED", "MAX_LINGERING", "MAX_LINGERING_SECONDS", "Lingering"]

MAX_LINGERING_SECONDS = 2.0
"""Seconds that the peer has to read its answer: several round trips around the world."""

MAX_DROPPED = 16 * 1024 * 1024
"""Bytes from the peer that are dropped: more than it can have sent before it sees the
answer, of the longest message and of what the buffers between the two hold."""

MAX_LINGERING = 128
"""Connections that linger at once; for one more, the oldest is closed. Each holds a descriptor
and nothing else, and a process often has no more than 1 024 of them."""


@implementer(IReadDescriptor)
class _Closing:
    """A socket whose connection is over for everybody but the kernel."""

    __slots__ = ("_lingering", "_room", "_socket", "until")

    def __init__(self, lingering: Lingering, sock: Handle, until: float) -> None:
        self._lingering = lingering
        self._socket = sock
        self._room = MAX_DROPPED
        self.until = until

    def fileno(self) -> int:
        """Return the descriptor; -1 once the socket is closed."""
        return self._socket.fileno()

    def logPrefix(self) -> str:  # noqa: N802
        """Return the prefix for messages of Twisted's older log functions."""
        return "lingering"

    def doRead(self) -> None:
        """Drop what has arrived; close if it is too much, or the end."""
        try:
            size = self._socket.recv_into(self._lingering.scratch)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        self._room -= size
        if not size or self._room <= 0:
            self._lingering.forget(self)

    def connectionLost(self, reason: Failure) -> None:
        """Close: the reactor has seen the end."""
        self._lingering.forget(self)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Lingering:
    """Connections that linger: at most `most`, which may be changed while there are none."""

    def __init__(self, reactor: Reactor, most: int = MAX_LINGERING) -> None:
        self.most = most
        self._reactor = reactor
        self._sockets: deque[_Closing] = deque()
        self._timer: IDelayedCall | None = None
        self._ended: Deferred[None] | None = None
        self.scratch = bytearray(READ_SIZE)
        """Where everything that arrives is written, since nobody reads it."""

    def __len__(self) -> int:
        """Return how many connections linger."""
        return len(self._sockets)

    def take(self, sock: Handle) -> None:
        """Close a connected, non-blocking socket in order; it belongs to this instance from now on.

        Everything that was written must have been passed to the kernel, and the
        reactor must know the socket no longer.
        """
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # the connection is broken already
            sock.close()
            return
        if len(self._sockets) >= self.most:
            self.forget(self._sockets[0])
        closing = _Closing(self, sock, self._reactor.seconds() + MAX_LINGERING_SECONDS)
        self._sockets.append(closing)
        self._reactor.addReader(closing)
        if self._timer is None:
            self._timer = self._reactor.callLater(MAX_LINGERING_SECONDS, self._close_overdue)

    def forget(self, closing: _Closing) -> None:
        """Close a socket: its peer has ended, or had its time."""
        if closing.fileno() < 0:
            return
        self._reactor.removeReader(closing)
        closing.close()
        with suppress(ValueError):
            self._sockets.remove(closing)
        if not self._sockets:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._ended is not None and not self._ended.called:
                self._ended.callback(None)

    def _close_overdue(self) -> None:
        self._timer = None
        now = self._reactor.seconds()
        while self._sockets and self._sockets[0].until <= now:
            self.forget(self._sockets[0])
        if self._sockets:
            self._timer = self._reactor.callLater(self._sockets[0].until - now, self._close_overdue)

    # --- the stop: a `taskd.daemon.parts.Part` ---

    def stop_accepting(self) -> None:
        """Do nothing: what is closed at the stop lingers, too."""

    def drain(self) -> Deferred[None]:
        """Return a Deferred that fires when no connection lingers, after `MAX_LINGERING_SECONDS` at most."""
        self._ended = Deferred()
        if not self._sockets:
            self._ended.callback(None)
        return self._ended

    def abort(self) -> None:
        """Close every connection that lingers."""
        for closing in list(self._sockets):
            self.forget(closing)

    close = drain
