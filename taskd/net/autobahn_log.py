"""The log of Autobahn, at a bounded rate: clients cause its lines as often as they like."""

from __future__ import annotations

from typing import Any

from taskd.net.log_rate import RatedLog

__all__ = ["AutobahnLog"]


class AutobahnLog:
    """The logger of websockets, with the methods that Autobahn calls.

    Lines for debugging are dropped; the rest is written as lines of one kind.
    """

    def __init__(self, log: RatedLog) -> None:
        self._log = log

    def trace(self, *args: Any, **values: Any) -> None:
        """Drop a line."""

    debug = trace

    def warn(self, line: object, /, **values: Any) -> None:
        """Write a line, whose format is that of Twisted's loggers, or count it."""
        try:
            text = str(line).format(**values)
        except (LookupError, ValueError, AttributeError):  # a text with braces, and no format
            text = str(line)
        self._log.warn("autobahn", "a websocket: {text}", text=text)

    info = error = critical = warn
