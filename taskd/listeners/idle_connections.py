"""Room for newcomers: the connections to the task server's port that nobody uses."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IReactorTime

from taskd.listeners.peer import Peer

__all__ = ["IdleConnections"]

SILENT_GRACE = 1.0
"""Seconds after which a connection may be closed on which nothing has ever been asked."""

IDLE_GRACE = 5.0
"""Seconds without a request after which any other may be closed: who calls more rarely can connect again."""

LOOK_INTERVAL = 0.25
"""Seconds between two looks at all connections, which take a few microseconds each."""

_TCP_INFO = struct.Struct("=52xI72xQ")
"""What the kernel knows of a TCP connection (struct tcp_info, linux/tcp.h): the milliseconds since data
was received, and the bytes that were received."""


class IdleConnections:
    """The connections of `peers` that have been idle for longest, to be closed to make room for others.

    Servers of HTTP do the same with connections that are kept. Only those count of which nothing is
    outstanding, no request in flight and no reply unread, so that nothing is lost. The kernel is asked
    when something was received last, so that a connection that is busy costs nothing.
    """

    def __init__(self, clock: IReactorTime, peers: Iterable[Peer[Any]]) -> None:
        self._clock = clock
        self._peers = peers
        self._looked = float("-inf")
        self._found: list[Peer[Any]] = []

    def close_one(self) -> bool:
        """Close the connection that has been idle for longest; return whether there is one."""
        now = self._clock.seconds()
        if not self._found and now - self._looked >= LOOK_INTERVAL:
            self._looked = now
            idle = [(seconds, peer) for peer in self._peers if (seconds := _idle_seconds(peer)) > 0]
            self._found = [peer for _, peer in sorted(idle, key=lambda found: found[0])]
        while self._found:
            peer = self._found.pop()
            if _idle_seconds(peer) > 0:
                peer.close()
                return True
        return False


def _idle_seconds(peer: Peer[Any]) -> float:
    """Return for how long a connection could have been closed; 0 if it may not be."""
    handle = peer.idle_handle
    if handle is None or handle.fileno() < 0 or handle.family == socket.AF_UNIX:
        return 0.0
    with suppress(OSError):
        milliseconds, received = _TCP_INFO.unpack(
            handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        )
        return float(max(milliseconds / 1000 - (IDLE_GRACE if received else SILENT_GRACE), 0.0))
    return 0.0
