"""The writing of the log: by a thread, from a bounded buffer, so that nobody waits for whoever reads it.

Standard output may be a pipe that nobody reads or a terminal that was stopped
(Ctrl-S), a disk may be full or slow, and syslog's socket blocks as well. A
thread serves all of them, where a non-blocking descriptor would not: files are
never non-blocking, and the flag would be shared with every other process that
has the same terminal or pipe.
"""

from __future__ import annotations

import atexit
import errno
import select
import signal
import syslog
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

__all__ = ["FINISH_SECONDS", "MAX_BUFFERED", "Entry", "LogWriter", "Sink", "SyslogSink", "TextSink"]

MAX_BUFFERED = 1024 * 1024
"""Characters of the log that may wait to be written: the tracebacks of about a thousand failures.
What comes after that is lost, and counted."""

ENTRY_OVERHEAD = 150
"""Characters for which each entry counts besides its text: about the memory of its objects."""

BATCH = 65536
"""Characters written at once: what a pipe holds."""

GATHER_SECONDS = 0.005
"""Seconds between two writes, in which the entries of a burst are gathered: nobody who reads a log
notices them, and a write for each line would cost the reactor a switch of threads each time."""

RETRY_SECONDS = 1.0
"""Seconds after which a write that has failed is tried again: a full disk may have room then."""

FINISH_SECONDS = 1.0
"""Seconds that the log has, at the end of the process, to be written if it is read slowly or not at all."""

TOO_SLOW = "they came faster than they were written"

Entry: TypeAlias = tuple[int, str]
"""A priority of syslog, and the text of one event: whole lines, with their LF."""


class Sink(Protocol):
    """The destination of a log. Only one thread uses it at a time."""

    def add(self, entries: Sequence[Entry]) -> None:
        """Take entries, which `flush` writes."""

    def flush(self, *, waits: bool = True) -> None:
        """Write what was added; may block if this `waits`. After an `OSError` another call goes on."""


class TextSink:
    """A sink for a file or a stream: `write` writes some of the bytes that it gets, and returns how many."""

    def __init__(self, write: Callable[[bytes], int], descriptor: int = -1, encoding: str = "utf-8") -> None:
        self._write = write
        self._descriptor = descriptor
        self._encoding = encoding
        self._rest = b""

    def add(self, entries: Sequence[Entry]) -> None:
        """Take entries."""
        text = "".join(text for _, text in entries)
        self._rest += text.encode(self._encoding, "backslashreplace")

    def flush(self, *, waits: bool = True) -> None:
        """Write all of them. Unless this `waits`, raises `BlockingIOError` if not all is taken at once."""
        while self._rest:
            piece = self._rest
            if not waits and self._descriptor >= 0:
                if not self._takes_more(0.0):
                    raise BlockingIOError(errno.EAGAIN, "it takes no more for now")
                piece = piece[: select.PIPE_BUF]  # a pipe that takes anything takes so much without waiting
            try:
                self._rest = self._rest[self._write(piece) :]
            except BlockingIOError:  # another process has made the stream non-blocking
                if not waits:
                    raise
                self._takes_more(RETRY_SECONDS)

    def _takes_more(self, seconds: float) -> bool:
        """Return whether the stream takes more, after so many seconds at most."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))


class SyslogSink:
    """A sink for syslog(3), which gets a message for each line."""

    def __init__(self) -> None:
        self._messages: deque[Entry] = deque()

    def add(self, entries: Sequence[Entry]) -> None:
        """Take entries."""
        for priority, text in entries:
            self._messages.extend((priority, line) for line in text.strip().split("\n"))

    def flush(self, *, waits: bool = True) -> None:
        """Send all of them."""
        while self._messages:
            syslog.syslog(*self._messages[0])
            self._messages.popleft()


class LogWriter:
    """The writer of a log: `write` takes an entry from any thread, and from a signal handler.

    Until `start`, entries are written at once, because twistd forks when it goes
    into the background, and a fork has no copies of threads. After `finish`,
    `write` waits until the entry is written, for what is left of that time.
    `lost_notice` makes the entry that says how many lines were lost, and why.
    `lost` is their number so far.
    """

    def __init__(self, sink: Sink, lost_notice: Callable[[int, str], Entry]) -> None:
        self.lost = 0
        self._sink = sink
        self._lost_notice = lost_notice
        # Its lock is reentrant: a signal handler that logs may have interrupted `write`.
        self._changed = threading.Condition()
        self._entries: deque[Entry] = deque()
        self._size = 0
        """The size of what waits: of `_entries`, and of what the sink has."""
        self._size_in_sink = 0
        self._room = MAX_BUFFERED
        self._unreported = 0
        self._why_lost = ""
        self._trouble = ""
        """The reason why the last attempt to write has failed, "" if it has not."""
        self._thread: threading.Thread | None = None
        self._is_idle = False
        """Whether the thread waits for something to do."""
        self._errand: Callable[[], None] | None = None
        self._before_errand = 0
        """Entries that are older than the errand."""
        self._deadline: float | None = None

    def write(self, text: str, priority: int = syslog.LOG_INFO) -> None:
        """Write an entry soon, or lose it if too much waits already. Never raises `OSError`."""
        with self._changed:
            if self._size > self._room:
                self._lose(text)
            else:
                if self._unreported:
                    self._report_lost()
                self._append((priority, text))
            if self._is_idle:
                self._is_idle = False
                self._changed.notify_all()
            elif self._thread is None:
                self._write_at_once()
            if self._deadline is not None:
                self._wait_until_written(self._deadline)

    def start(self) -> None:
        """Write in a thread from now on, in a process that does not fork any more. Idempotent."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads can be started: the log goes on as before
            self._thread = None
        else:
            atexit.register(self.finish)

    def finish(self, seconds: float = FINISH_SECONDS) -> None:
        """Wait until everything is written, for so many seconds at most, or until that fails. Idempotent."""
        with self._changed:
            if self._deadline is None:
                self._deadline = time.monotonic() + seconds
            self._wait_until_written(self._deadline)

    def run_between_writes(self, errand: Callable[[], None]) -> None:
        """Call a function that touches the sink, in the thread, once everything before it is written.

        If writing fails it is called without delay, and the write is tried again after it.
        """
        if self._thread is None:
            errand()
            return
        with self._changed:
            self._errand, self._before_errand = errand, len(self._entries)
            self._is_idle = False
            self._changed.notify_all()

    @property
    def _is_errand_due(self) -> bool:
        return self._errand is not None and self._before_errand <= 0

    def _append(self, entry: Entry) -> None:
        size = len(entry[1]) + ENTRY_OVERHEAD
        self._entries.append(entry)
        self._size += size  # in one step: a signal handler may append, too

    def _lose(self, text: str) -> None:
        lines = text.count("\n")
        self.lost += lines
        self._unreported += lines
        self._why_lost = self._trouble or TOO_SLOW
        # Not for every line for which there happens to be room: each gap costs a line, too.
        self._room = MAX_BUFFERED // 2

    def _report_lost(self) -> None:
        lines, self._unreported = self._unreported, 0
        self._room = MAX_BUFFERED
        self._append(self._lost_notice(lines, self._why_lost))

    def _wait_until_written(self, deadline: float) -> None:
        while self._entries or self._size_in_sink:
            left = deadline - time.monotonic()
            if left <= 0 or self._trouble or self._thread is None:
                return
            self._changed.wait(left)

    def _pass_to_sink(self) -> None:
        """Pass the next entries to the sink."""
        entries: list[Entry] = []
        size = 0
        while self._entries and size < BATCH and not self._is_errand_due:
            entry = self._entries.popleft()
            self._before_errand -= 1
            entries.append(entry)
            size += len(entry[1]) + ENTRY_OVERHEAD
        self._size_in_sink += size
        self._sink.add(entries)

    def _flushed(self) -> None:
        """Note that the sink has written what it had."""
        self._size -= self._size_in_sink
        self._size_in_sink = 0
        if self._unreported and not self._entries:
            self._report_lost()
        if self._deadline is not None:
            self._changed.notify_all()

    def _write_at_once(self) -> None:
        """Write in the caller's thread what can be written at once; the rest waits."""
        while self._entries or self._size_in_sink:
            self._pass_to_sink()
            if not self._try_to_flush(waits=False):
                return
            self._flushed()

    def _try_to_flush(self, *, waits: bool = True) -> bool:
        try:
            self._sink.flush(waits=waits)
        except OSError as error:
            self._trouble = error.strerror or str(error)
            return False
        self._trouble = ""
        return True

    # --- in the thread ---

    def _run(self) -> None:
        # Signals are for the main thread, whose system calls they interrupt.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            self._wait(None)
            with self._changed:
                self._pass_to_sink()
            while not self._try_to_flush():
                self._wait(RETRY_SECONDS)
            with self._changed:
                self._flushed()
            if self._deadline is None:
                time.sleep(GATHER_SECONDS)

    def _wait(self, seconds: float | None) -> None:
        """Wait for so many seconds, or (None) for entries; in either case no longer than for an errand."""
        has_failed = seconds is not None
        errand = None
        with self._changed:
            if self._errand is None and (has_failed or not (self._entries or self._size_in_sink)):
                self._is_idle = not has_failed
                self._changed.wait(seconds)
                self._is_idle = False
            if self._is_errand_due or has_failed:
                errand, self._errand = self._errand, None
        if errand is not None:
            errand()
