"""What workers print, on its way to the log."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet import fdesc, main
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

__all__ = ["OutputReader"]

MAX_LINE = 8192
"""Bytes of one logged line; a longer one is cut into several."""


class OutputReader(FileDescriptor):
    """Reads one worker's stdout and stderr from a pipe, and hands on its lines.

    Owns the read end, `descriptor`, and closes it at its end.
    """

    def __init__(self, reactor: Any, descriptor: int, deliver: Callable[[str], None]) -> None:
        super().__init__(reactor)
        fdesc.setNonBlocking(descriptor)
        self._descriptor = descriptor
        self._deliver = deliver
        self._rest = b""
        self._clock: IReactorTime = reactor
        self._count = 0
        self.connected = 1
        self.startReading()

    def fileno(self) -> int:
        """The pipe's read end, -1 once it is closed."""
        return self._descriptor

    def doRead(self) -> Exception | None:
        """Called by the reactor when there is output."""
        reason: Exception | None = fdesc.readFromFD(self._descriptor, self._received)
        return reason

    def finish_job(self, *, more: bool) -> None:
        """A job has ended: what it wrote is delivered now, a last line without LF too.

        `more` tells whether there is anything still to be read.
        """
        while more and self.connected:
            more = self._read_once()
        if self._rest:
            self._line(self._rest)
            self._rest = b""

    def _read_once(self) -> bool:
        before = self._count
        if self.doRead() is not None:
            return False
        return self._count > before

    def _received(self, data: bytes) -> None:
        self._count += len(data)
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        while len(rest) >= MAX_LINE:
            self._line(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._rest = rest

    def _line(self, line: bytes) -> None:
        for start in range(0, len(line), MAX_LINE) or (0,):
            self._deliver(line[start : start + MAX_LINE].decode("utf-8", "backslashreplace").rstrip("\r"))

    def connectionLost(self, reason: Failure) -> None:
        """The worker has closed its end, or we give up: deliver the rest, close ours."""
        if not self.connected:
            return
        super().connectionLost(reason)
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        os.close(self._descriptor)
        self._descriptor = -1

    def close(self) -> None:
        """Read what is there, then close."""
        if self.connected:
            self.finish_job(more=True)
            self.stopReading()
            # Not before this turn of the reactor is over: it may have an event
            # for this descriptor at hand, and a new one of the same number
            # would get it.
            self._clock.callLater(0, self.connectionLost, Failure(main.CONNECTION_DONE))
