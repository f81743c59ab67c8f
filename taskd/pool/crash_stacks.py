"""Finding the stack that faulthandler prints at a crash in a worker's output."""

from __future__ import annotations

import os
import re

from taskd.worker import messages

__all__ = ["StackCatcher"]

# Python/traceback.c, _Py_DumpTraceback: a heading, then a line for each frame.
_HEADING = "Current thread 0x"
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)$')

_WORKER_FILES = os.path.dirname(messages.__file__)
"""The folder of the code that calls functions: a stack is cut at the first frame of that code."""

MAX_FRAMES = 50
"""Frames kept of a stack: the innermost ones show what hung or crashed."""


class StackCatcher:
    """Finds stacks in a worker's output, and keeps the last one.

    `stack` has a text for each frame, ``file.py:12 in function``, the innermost
    first. Files are named without their directories, since callers are sent the stack.
    """

    def __init__(self) -> None:
        self.stack: list[str] = []
        self._inside = False

    def line(self, text: str) -> None:
        """Process one line of the worker's output."""
        if not self._inside:
            if _HEADING in text:
                self.stack = []
                self._inside = True
            return
        match = _FRAME.match(text)
        if match is None or match["file"].startswith(_WORKER_FILES) or len(self.stack) >= MAX_FRAMES:
            self._inside = False
            return
        self.stack.append(f"{os.path.basename(match['file'])}:{match['line']} in {match['function']}")
