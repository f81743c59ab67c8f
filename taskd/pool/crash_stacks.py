"""The stack that faulthandler writes when a process crashes, found among what a worker prints."""

from __future__ import annotations

import os
import re

__all__ = ["StackCatcher"]

# Python/traceback.c, _Py_DumpTraceback: a heading, then a line for each frame.
_HEADING = "Current thread 0x"
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)$')

_OURS = os.path.dirname(__file__)
"""Frames from here on are taskd's own, and of no interest."""

MAX_FRAMES = 50
"""Frames that are kept: the innermost ones say what hung or crashed."""


class StackCatcher:
    """Keeps the stack that was written last.

    `stack` has a text for each frame, ``file.py:12 in function``, the innermost
    first. Files are named without their directory: callers are sent it.
    """

    def __init__(self) -> None:
        self.stack: list[str] = []
        self._inside = False

    def line(self, text: str) -> None:
        """One line of the worker's output."""
        if not self._inside:
            if _HEADING in text:
                self.stack = []
                self._inside = True
            return
        match = _FRAME.match(text)
        if match is None or match["file"].startswith(_OURS) or len(self.stack) >= MAX_FRAMES:
            self._inside = False
            return
        self.stack.append(f"{os.path.basename(match['file'])}:{match['line']} in {match['function']}")
