"""The output of a process as lines for the log: whole, readable, with a level, at a bounded rate. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from taskd.pool.crash_stacks import StackCatcher
from taskd.pool.stack_dumps import StackDump
from taskd.printable import printable
from taskd.worker.logs import MARK, MAX_RECORD, NEWLINE

__all__ = ["BURST", "LINES_PER_SECOND", "MAX_LOGGED_LINE", "LineRate", "OutputLines"]

MAX_LOGGED_LINE = 8192
"""Bytes of one logged line; a longer one is cut into several. Log records have a limit of their own."""

LINES_PER_SECOND = 100.0
"""Lines logged of one process in the long run: even a hundred workers that print without
end cost the daemon less than one processor, and the log remains readable."""

BURST = 1000
"""Lines of one process that may be logged in a burst: enough for a whole traceback or table."""

_MAX_RECORD_BYTES = 4 * (MAX_RECORD + 1024)
"""Bytes of a record, which is never cut: a character has at most four, and an escaped one hardly more."""

_MARK = MARK.encode()

_LEVELS = {
    "1": "debug",
    "2": "info",
    "3": "warn",
    "4": "error",
    "5": "critical",
}
"""The names of the levels of Twisted's log, by the digit of `taskd.worker.logs.marked`."""

_SEVERE = frozenset({"warn", "error", "critical"})

Deliver: TypeAlias = Callable[[str, str], None]


class LineRate:
    """A token bucket for logged lines: it holds `BURST` tokens and gains `LINES_PER_SECOND`.

    `left_out` counts the lines that were not allowed.
    """

    def __init__(self, now: float) -> None:
        self._tokens = float(BURST)
        self._at = now
        self.left_out = 0

    def allows(self, now: float, lines: int = 1) -> bool:
        """Return whether so many more lines may be logged; if not, count them in `left_out`."""
        self._tokens = min(self._tokens + (now - self._at) * LINES_PER_SECOND, BURST)
        self._at = now
        if self._tokens < min(lines, BURST):
            self.left_out += lines
            return False
        self._tokens -= lines
        return True


class OutputLines:
    """Takes what a process has printed, in pieces, and calls `deliver` with each line and its level.

    What is printed has the level info; a log record (`taskd.worker.logs`) has
    its own, and stays in one piece. Of a line that was written over and over
    with CR, as progress bars are, the last state counts. Lines above the rate
    are left out, and a line then says how many; warnings and errors have a rate
    of their own, so that a flood of other lines does not hide them. `seconds`
    is the clock. `see` is called with every line, also with those that are left out.
    """

    def __init__(
        self, seconds: Callable[[], float], deliver: Deliver, see: Callable[[str], object] = bool
    ) -> None:
        self._seconds = seconds
        self._deliver = deliver
        self._see = see
        self._rest = b""
        self._rate = LineRate(seconds())
        self._severe_rate = LineRate(seconds())
        self._stacks = StackCatcher()
        self.dump: StackDump | None = None
        """The dump that the process was asked for: its lines are not delivered."""

    @property
    def has_left_out(self) -> bool:
        """Whether lines were left out that have not been reported yet."""
        return bool(self._rate.left_out or self._severe_rate.left_out)

    @property
    def stack(self) -> list[str]:
        """The stack that a crash printed, innermost frame first; see `StackCatcher`."""
        return self._stacks.stack

    def receive(self, data: bytes) -> None:
        """Take some output; deliver the lines that are whole."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        if b"\r" in rest:
            rest = rest[max(rest.rstrip(b"\r").rfind(b"\r"), 0) :]  # what CR has overwritten is over
        limit = _MAX_RECORD_BYTES if _MARK in rest else MAX_LOGGED_LINE
        while len(rest) >= limit:
            self._line(rest[:limit])
            rest = rest[limit:]
        self._rest = rest

    def finish(self) -> None:
        """Deliver the rest, a last line without LF, and how many lines were left out."""
        if self._rest:
            rest, self._rest = self._rest, b""
            self._line(rest)
        if self.has_left_out:
            self._report_left_out()

    def _line(self, line: bytes) -> None:
        if _MARK not in line:
            self._printed(line)
            return
        # A record may follow what was printed without LF, or a record that was interrupted.
        printed, *records = line.split(_MARK)
        if printed:
            self._printed(printed)
        for record in records:
            self._record(record.decode("utf-8", "backslashreplace"))

    def _record(self, text: str) -> None:
        level = _LEVELS.get(text[:1], "info")
        lines = text[1:].split(NEWLINE)
        self._log(level, "\n".join(map(printable, lines)), len(lines))

    def _printed(self, line: bytes) -> None:
        line = line.rstrip(b"\r")
        if b"\r" in line:
            line = line[line.rfind(b"\r") + 1 :]
            if not line.strip():
                return  # a progress bar that has removed itself
        for start in range(0, len(line), MAX_LOGGED_LINE) or (0,):
            text = printable(line[start : start + MAX_LOGGED_LINE].decode("utf-8", "backslashreplace"))
            if self.dump is not None and self.dump.line(text):
                continue
            self._stacks.line(text)
            self._log("info", text, 1)

    def _log(self, level: str, text: str, lines: int) -> None:
        self._see(text)
        rate = self._severe_rate if level in _SEVERE else self._rate
        if rate.allows(self._seconds(), lines):
            if rate.left_out:
                self._report_left_out()
            self._deliver(level, text)

    def _report_left_out(self) -> None:
        count = self._rate.left_out + self._severe_rate.left_out
        self._rate.left_out = self._severe_rate.left_out = 0
        self._deliver("warn", f"({count} lines left out: over {LINES_PER_SECOND:.0f} a second)")
