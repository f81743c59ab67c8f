"""`progress`, by which a running function reports how far it is, and where the reports go."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["progress", "report_progress_to"]

_Sink = Callable[[float, float | None, str | None], None]


def _nowhere(done: float, total: float | None, message: str | None) -> None:
    """Ignore a report: outside a worker a function may be called as a plain one."""


_sink: _Sink = _nowhere


def progress(done: float, total: float | None = None, message: str | None = None) -> None:
    """Report the progress of the running task to its caller.

    `done` and `total` are finite numbers in any unit, the same for both;
    `message` is a short text for people. It may be called for every row: at
    most 20 reports a second are sent for a task, and the last one always.
    Outside a worker it does nothing. In a worker it raises `TypeError` or
    `ValueError` if a number is not finite or an argument has another type.
    """
    _sink(done, total, message)


def report_progress_to(sink: _Sink | None) -> _Sink:
    """Send what `progress` reports in this process to `sink`, or nowhere if it is None.

    `sink` is called with the arguments `done`, `total` and `message`. Returns the sink before it.
    """
    global _sink
    before, _sink = _sink, sink or _nowhere
    return before
