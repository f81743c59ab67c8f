"""The daemon's end of the socket to one worker, which delivers whole lines."""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.python.failure import Failure

from taskd.net.buffered_socket import BufferedSocket
from taskd.net.reactor import Reactor
from taskd.worker.messages import WholeLines

__all__ = ["WorkerSocket"]


class WorkerSocket(BufferedSocket):
    """The socket to one worker, which cuts its input into whole lines.

    It takes over `end`, a connected unix stream socket. `received` is called
    with the whole lines of each read, as bytes; `closed` is called once, when
    the socket has closed.
    """

    __slots__ = ("_closed", "_has_rest", "_lines", "_received")

    def __init__(
        self,
        reactor: Reactor,
        end: socket.socket,
        received: Callable[[bytes], None],
        closed: Callable[[], None],
    ) -> None:
        end.setblocking(False)
        self._received = received
        self._closed = closed
        self._lines = WholeLines()
        self._has_rest = False
        super().__init__(reactor, end, self._cut)

    send = BufferedSocket.write
    end_sending = BufferedSocket.loseWriteConnection

    def _cut(self, data: bytes) -> None:
        if data[-1] == _LF and not self._has_rest:  # nearly always: saves a call
            self._received(data)
            return
        self._has_rest = data[-1] != _LF
        lines = self._lines.receive(data)
        if lines:
            self._received(lines)

    def end_receiving(self) -> None:
        """End the input behind what the worker has sent, even if other processes have its end open."""
        if self.connected:
            self._shut_down(socket.SHUT_RD)

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket and report that: the worker has closed its end, or the socket is broken."""
        if self.connected:
            self._release()
            self._closed()


_LF = ord("\n")
