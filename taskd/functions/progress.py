"""The function `progress`, with which a running task reports its progress, and where reports go."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["progress", "report_progress_to"]

_Sink = Callable[[float, float | None, str | None], None]


def _nowhere(done: float, total: float | None, message: str | None) -> None:
    """Ignore a report: outside a worker, a registered function is an ordinary function."""


_sink: _Sink = _nowhere


def progress(done: float, total: float | None = None, message: str | None = None) -> None:
    """Report the progress of the running task to its caller.

    `done` and `total` are finite numbers in any unit, the same for both;
    `message` is a short text for people. Calling this for every row is fine: at
    most 20 reports a second are sent for a task, and the last one always is.
    Outside a worker this does nothing. In a worker it raises `ValueError` if a
    number is not finite, and `TypeError` if an argument has the wrong type.
    """
    _sink(done, total, message)


def report_progress_to(sink: _Sink | None) -> _Sink:
    """Send the reports of `progress` in this process to `sink`; None drops them.

    `sink` is called with `done`, `total` and `message`. Returns the previous sink.
    """
    global _sink
    before, _sink = _sink, sink or _nowhere
    return before
