"""The daemon's end of the socket to one worker, which delivers whole lines."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

from twisted.python.failure import Failure

from taskd.net.buffered_socket import READ_SIZE, BufferedSocket
from taskd.net.reactor import Reactor
from taskd.worker.messages import WholeLines

__all__ = ["WorkerSocket", "shortened"]

_DONE = re.compile(rb'\["(?:done|dropped)",(\d+),([^,]+),(true|false)')
_FAILED = re.compile(rb'\["failed",(\d+),([^,]+),(true|false),(-?\d+),')


def shortened(start: bytes) -> bytes:
    """Return a line in place of a long one that begins with `start`; b"" if it need not be replaced.

    Only outcomes need a replacement.
    """
    if (done := _DONE.match(start)) is not None:
        return b'["dropped",%b,%b,%b]\n' % done.groups()
    if (failed := _FAILED.match(start)) is not None:
        return b'["failed",%b,%b,%b,%b,"its message was too long",null,null]\n' % failed.groups()
    return b""


class WorkerSocket(BufferedSocket):
    """The socket to one worker, which cuts its input into whole lines.

    It takes over `end`, a connected unix stream socket. `received` is called
    with the whole lines of each read, as bytes; `closed` is called once, when
    the socket has closed. `grows` is called with the bytes received of a long
    line, and returns whether to read on; `arrived` is called when it is complete.
    """

    __slots__ = (
        "_arrived",
        "_closed",
        "_grows",
        "_has_rest",
        "_is_dropping",
        "_is_long",
        "_lines",
        "_received",
    )

    def __init__(
        self,
        reactor: Reactor,
        end: socket.socket,
        received: Callable[[bytes], None],
        closed: Callable[[], None],
        grows: Callable[[int], bool],
        arrived: Callable[[], None],
    ) -> None:
        end.setblocking(False)
        self._received = received
        self._closed = closed
        self._grows = grows
        self._arrived = arrived
        self._lines = WholeLines()
        self._has_rest = self._is_long = self._is_dropping = False
        super().__init__(reactor, end, self._cut)

    send = BufferedSocket.write
    end_sending = BufferedSocket.loseWriteConnection

    def _cut(self, data: bytes) -> None:
        if data[-1] == _LF and not self._has_rest:  # nearly always: saves a call
            self._received(data)
            return
        if self._is_dropping:
            end = data.find(b"\n") + 1
            if not end:
                return
            self._is_dropping = False
            data = shortened(bytes(self._lines.rest)) + data[end:]
            self._lines.drop_rest()
            if not data:
                self._has_rest = False
                return
        self._has_rest = data[-1] != _LF
        lines = self._lines.receive(data)
        if lines:
            if self._is_long:
                self._is_long = False
                self._arrived()
            self._received(lines)
        rest = len(self._lines.rest)
        if rest > READ_SIZE and self.connected:
            self._is_long = True
            if not self._grows(rest):
                self.pauseProducing()

    def read_on(self) -> None:
        """Read again, after `grows` has returned False."""
        self.resumeProducing()

    def drop_line(self) -> None:
        """Keep only the beginning of the long line that is being received, and read on."""
        self._is_dropping, self._is_long = True, False
        start = bytes(self._lines.rest[:START])
        self._lines.drop_rest()
        self._lines.receive(start)
        self.resumeProducing()

    def end_receiving(self) -> None:
        """End the input behind what the worker has sent, even if other processes have its end open."""
        if self.connected:
            self._shut_down(socket.SHUT_RD)
            self.resumeProducing()

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket and report that: the worker has closed its end, or the socket is broken."""
        if self.connected:
            self._release()
            self._closed()


START = 200
"""Bytes of a dropped line that are kept: enough to tell which task it ends."""

_LF = ord("\n")
