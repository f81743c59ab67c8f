"""Reading the output of workers (stdout and stderr) for the log, at a bounded rate."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from twisted.internet import fdesc, main
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from taskd.net.reactor import Reactor
from taskd.pool.output_lines import Deliver, OutputLines
from taskd.pool.stack_dumps import StackDump

__all__ = ["OutputReader"]

REST_SECONDS = 0.05
"""Seconds for which the output of a worker that prints too much is not read. Meanwhile its
output fits into the pipe, or the worker waits."""

PIPE_READS = 9
"""Reads that empty a pipe: it holds 64 KiB (pipe(7)), and Twisted reads 8 KiB at a time."""


class OutputReader(FileDescriptor):
    """The reader of one worker's stdout and stderr, which come through one pipe.

    `deliver` and `see` are called with each line; see `OutputLines`. The reader owns
    `descriptor`, the read end, and closes it when the output ends, or at once if
    the constructor raises: `OSError`, if the reactor cannot watch it.
    """

    def __init__(
        self, reactor: Reactor, descriptor: int, deliver: Deliver, see: Callable[[str], object] = bool
    ) -> None:
        with ExitStack() as undo:
            undo.callback(os.close, descriptor)
            super().__init__(reactor)
            fdesc.setNonBlocking(descriptor)
            self._descriptor = descriptor
            self._clock: IReactorTime = reactor
            self._count = 0
            self._resting = False
            self._lines = OutputLines(self._clock.seconds, deliver, see)
            self.connected = 1
            self.startReading()
            undo.pop_all()

    def fileno(self) -> int:
        """The pipe's read end, -1 once it is closed."""
        return self._descriptor

    @property
    def stack(self) -> list[str]:
        """The stack that a crash printed, innermost frame first; see `StackCatcher`."""
        return self._lines.stack

    def dump(self, dump: StackDump) -> None:
        """Give the stacks that the process was asked for to `dump`; one before it ends."""
        if self._lines.dump is not None:
            self._lines.dump.end()
        self._lines.dump = dump

    def doRead(self) -> Exception | None:
        """Read some output; the reactor calls this when there is some."""
        reason = self._read()
        if self._lines.has_left_out and reason is None and not self._resting:
            reason = self._read_pipe()
            self._resting = True
            self.stopReading()
            self._clock.callLater(REST_SECONDS, self._rested)
        return reason

    def _rested(self) -> None:
        self._resting = False
        if self.connected:
            self.startReading()

    def _read(self) -> Exception | None:
        reason: Exception | None = fdesc.readFromFD(self._descriptor, self._received)
        return reason

    def _read_pipe(self) -> Exception | None:
        """Read the pipe until it is empty, but no more than a pipe holds, however fast it is filled."""
        for _ in range(PIPE_READS):
            before = self._count
            if (reason := self._read()) is not None:
                return reason
            if self._count == before:
                break
        return None

    def finish_task(self, *, more: bool) -> None:
        """Deliver the rest of an ended task's output, including a last line without LF.

        `more` says that some of it may still be in the pipe.
        """
        if more and self.connected:
            self._read_pipe()
        self._lines.finish()

    def _received(self, data: bytes) -> None:
        self._count += len(data)
        self._lines.receive(data)

    def connectionLost(self, reason: Failure) -> None:
        """Deliver the rest and close the read end, since the worker has closed its end or is gone."""
        if not self.connected:
            return
        super().connectionLost(reason)
        self.finish_task(more=False)
        os.close(self._descriptor)
        self._descriptor = -1

    def close(self) -> None:
        """Read what is left in the pipe, then close it. Idempotent."""
        if self.connected:
            self.finish_task(more=True)
            self.stopReading()
            # Closed after this turn of the reactor: it may already have an event for this
            # descriptor, which a new descriptor of the same number would get.
            self._clock.callLater(0, self.connectionLost, Failure(main.CONNECTION_DONE))
