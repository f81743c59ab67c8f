"""Reading the output of workers (stdout and stderr) for the log, at a bounded rate."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet import fdesc, main
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from taskd.net.reactor import Reactor
from taskd.pool.crash_stacks import StackCatcher

__all__ = ["LineRate", "OutputReader"]

MAX_LOGGED_LINE = 8192
"""Bytes of one logged line; a longer one is cut into several."""

LINES_PER_SECOND = 100.0
"""Lines logged of one worker in the long run: even a hundred workers that print without
end cost the daemon less than one processor, and the log remains readable."""

BURST = 1000
"""Lines of one worker that may be logged in a burst: enough for a whole traceback or table."""

REST_SECONDS = 0.05
"""Seconds for which the output of a worker that prints too much is not read. Meanwhile its
output fits into the pipe, or the worker waits."""

PIPE_READS = 9
"""Reads that empty a pipe: it holds 64 KiB (pipe(7)), and Twisted reads 8 KiB at a time."""


class LineRate:
    """A token bucket for logged lines: it holds `BURST` tokens and gains `LINES_PER_SECOND`.

    `left_out` counts the lines that were not allowed.
    """

    def __init__(self, now: float) -> None:
        self._tokens = float(BURST)
        self._at = now
        self.left_out = 0

    def allows(self, now: float) -> bool:
        """Return whether one more line may be logged; if not, count it in `left_out`."""
        self._tokens = min(self._tokens + (now - self._at) * LINES_PER_SECOND, BURST)
        self._at = now
        if self._tokens < 1:
            self.left_out += 1
            return False
        self._tokens -= 1
        return True


class OutputReader(FileDescriptor):
    """The reader of one worker's stdout and stderr, which come through one pipe.

    `deliver` is called with each line, without its LF. Lines above the rate are
    left out, and `deliver` is then called with a line that says how many. The
    reader owns `descriptor`, the read end, and closes it when the output ends.
    """

    def __init__(self, reactor: Reactor, descriptor: int, deliver: Callable[[str], None]) -> None:
        super().__init__(reactor)
        fdesc.setNonBlocking(descriptor)
        self._descriptor = descriptor
        self._deliver = deliver
        self._rest = b""
        self._clock: IReactorTime = reactor
        self._count = 0
        self._resting = False
        self._rate = LineRate(self._clock.seconds())
        self._stacks = StackCatcher()
        self.connected = 1
        self.startReading()

    def fileno(self) -> int:
        """The pipe's read end, -1 once it is closed."""
        return self._descriptor

    @property
    def stack(self) -> list[str]:
        """The stack that a crash printed, innermost frame first; see `StackCatcher`."""
        return self._stacks.stack

    def doRead(self) -> Exception | None:
        """Read some output; the reactor calls this when there is some."""
        reason = self._read()
        if self._rate.left_out and reason is None and not self._resting:
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
        if not self._rest and not self._rate.left_out:
            return
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        self._report_left_out()

    def _received(self, data: bytes) -> None:
        self._count += len(data)
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        while len(rest) >= MAX_LOGGED_LINE:
            self._line(rest[:MAX_LOGGED_LINE])
            rest = rest[MAX_LOGGED_LINE:]
        self._rest = rest

    def _line(self, line: bytes) -> None:
        for start in range(0, len(line), MAX_LOGGED_LINE) or (0,):
            text = line[start : start + MAX_LOGGED_LINE].decode("utf-8", "backslashreplace").rstrip("\r")
            self._stacks.line(text)
            if self._rate.allows(self._clock.seconds()):
                self._report_left_out()
                self._deliver(text)

    def _report_left_out(self) -> None:
        if self._rate.left_out:
            count, self._rate.left_out = self._rate.left_out, 0
            self._deliver(f"({count} lines left out: over {LINES_PER_SECOND:.0f} a second)")

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
