"""`progress`: what a running function reports."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["progress", "report_progress_to"]

_Sink = Callable[[float, float | None, str | None], None]


def _nowhere(done: float, total: float | None, message: str | None) -> None:
    """Where progress goes outside a worker: a task may be called as a plain function."""


_sink: _Sink = _nowhere


def progress(done: float, total: float | None = None, message: str | None = None) -> None:
    """Tell whoever waits for the running task how far it is.

    `done` and `total` are in any unit, the same for both. Cheap enough to be
    called for every row: at most 20 reports a second are sent for a task,
    the last one always. Outside a worker it does nothing.
    """
    _sink(done, total, message)


def report_progress_to(sink: _Sink | None) -> _Sink:
    """Set where `progress` goes in this process, None for nowhere; returns where it went before."""
    global _sink
    before, _sink = _sink, sink or _nowhere
    return before
