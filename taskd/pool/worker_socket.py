"""The daemon's end of the socket to one worker."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure

from taskd.worker.messages import RECEIVE_SIZE, WholeLines

__all__ = ["WorkerSocket"]


class WorkerSocket(FileDescriptor):
    """Sends at once what the kernel takes.

    Twisted's own transports keep what is written until the reactor's next
    turn, and ask it twice for that turn: here it is most of what a task costs.

    Takes over `end`, a connected unix stream socket. `received` gets the
    whole lines of each read, as they came; `closed` is called once, when the socket has closed.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        end: socket.socket,
        received: Callable[[bytes], None],
        closed: Callable[[], None],
    ) -> None:
        super().__init__(reactor)
        end.setblocking(False)
        self._socket = end
        self._received = received
        self._closed = closed
        self._lines = WholeLines()
        self._backlog = bytearray()
        self._ending = False
        self.connected = 1
        self.startReading()

    def fileno(self) -> int:
        """The socket's descriptor, -1 once it is closed."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Send now what can be sent now, the rest when the worker has read on."""
        if self._backlog:
            self._backlog += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # it has gone; its end of the socket will be read in a moment
            return
        if sent < len(data):
            self._backlog += memoryview(data)[sent:]
            self.startWriting()

    def end_sending(self) -> None:
        """Let the worker see the end of what it is sent. It then ends in order."""
        self._ending = True
        if self.connected and not self._backlog:
            self._shut_down(socket.SHUT_WR)

    def end_receiving(self) -> None:
        """Have the socket end behind what the worker has sent, whoever else still holds its other end."""
        if self.connected:
            self._shut_down(socket.SHUT_RD)

    def _shut_down(self, how: int) -> None:
        with suppress(OSError):  # the other end may be closed already
            self._socket.shutdown(how)

    def doRead(self) -> Exception | None:
        """Called by the reactor when there is something to read."""
        try:
            data = self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        lines = self._lines.receive(data)
        if lines:
            self._received(lines)
        return None

    def doWrite(self) -> Exception | None:
        """Called by the reactor when more can be sent."""
        try:
            sent = self._socket.send(self._backlog)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        del self._backlog[:sent]
        if not self._backlog:
            self.stopWriting()
            if self._ending:
                self._shut_down(socket.SHUT_WR)
        return None

    def connectionLost(self, reason: Failure) -> None:
        """The worker has closed its end, or the socket is broken."""
        if not self.connected:
            return
        super().connectionLost(reason)
        self._socket.close()
        self._closed()
