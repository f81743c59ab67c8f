"""The stacks of a worker's threads, printed at a signal: taken out of its output, so that no log has them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from taskd.net.timers import Alarm
from taskd.worker import messages

__all__ = ["StackDump"]

WAIT_SECONDS = 1.0
"""Seconds in which a worker must have printed its stacks: it takes a millisecond if the machine is idle."""

QUIET_SECONDS = 0.1
"""Seconds after which stacks are whole if nothing follows: mostly it is seen where they end."""

MAX_LINES = 2000
"""Lines that are kept: 20 threads as deep as faulthandler goes."""

# Python/traceback.c, _Py_DumpTracebackThreads: for each thread a heading and a line for each frame, with
# blank lines between them. The main thread, which began first, comes last.
_HEADING = re.compile(r"^(Current thread|Thread) 0x[0-9a-f]+.*:$")
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?:\d+|\?\?\?) in (?P<function>.*)$')
_OTHERS = ("  ...", "  <no Python frame>", "  Garbage-collecting", "")
_OUTERMOST = "_run_module_as_main"
"""The outermost frame of a worker's main thread."""

_WORKER_FILES = os.path.dirname(messages.__file__)
"""The folder of the code that calls functions: a stack is cut at the first frame of that code."""


class StackDump:
    """Takes the lines of one dump out of a worker's output, and calls `done` with it, once.

    `done` gets the stacks as text, innermost frames first, without the frames of the worker's own
    code and without threads that have no others; None if none comes in time.
    """

    def __init__(self, clock: IReactorTime, done: Callable[[str | None], object]) -> None:
        self._clock = clock
        self._done = done
        self._threads: list[list[str]] = []
        self._is_cut = False
        self._lines = 0
        self._late = clock.seconds() + WAIT_SECONDS
        self._alarm = Alarm(clock, self._look)
        self._alarm.set(self._late)
        self.is_over = False
        """Whether `done` was called."""

    def line(self, text: str) -> bool:
        """Process one line of the output; return whether it belongs to the dump."""
        if self.is_over:
            return False
        match = _FRAME.match(text)
        if _HEADING.match(text):
            self._threads.append([text])
            self._is_cut = False
        elif not self._threads:
            return False
        elif match is not None or text in _OTHERS:
            if match is not None and match["file"].startswith(_WORKER_FILES):
                self._is_cut = True
            if text and not self._is_cut:
                self._threads[-1].append(text)
        else:
            self.end()
            return False
        self._lines += 1
        if (match is not None and match["function"] == _OUTERMOST) or self._lines >= MAX_LINES:
            self.end()
        else:
            self._late = self._clock.seconds() + QUIET_SECONDS
            self._alarm.set(self._late)
        return True

    def _look(self) -> None:
        if self.is_over:
            return
        if self._clock.seconds() < self._late:
            self._alarm.set(self._late)
        else:
            self.end()

    def end(self) -> None:
        """Call `done` with what there is."""
        if self.is_over:
            return
        self.is_over = True
        threads = ["\n".join(thread) for thread in self._threads if len(thread) > 1]
        self._done("\n\n".join(threads) if self._threads else None)
