"""The function `progress`, with which a running task reports its progress, and where reports go."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from numbers import Integral

from taskd.functions.hiding import Hide, unhidden
from taskd.functions.raised import MAX_TEXT, encodable, type_name

__all__ = ["check_report", "progress", "report_progress_to"]

_Sink = Callable[[float, float | None, str | None], None]


def _nowhere(done: float, total: float | None, message: str | None) -> None:
    """Ignore a report: outside a worker, a registered function is an ordinary function."""


_sink: _Sink = _nowhere


def progress(done: float, total: float | None = None, message: str | None = None) -> None:
    """Report the progress of the running task to its caller.

    `done` and `total` are finite numbers in any unit, the same for both;
    `message` is a short text for people. Without `total` it is unknown, even if
    an earlier report had one. Calling this for every row is fine: at most 20 reports a second
    are sent for a task, and the last one always is. Outside a worker this does
    nothing. In a worker it raises `ValueError` if a number is not finite, and
    `TypeError` if an argument has the wrong type.
    """
    _sink(done, total, message)


def report_progress_to(sink: _Sink | None) -> _Sink:
    """Send the reports of `progress` in this process to `sink`; None drops them.

    `sink` is called with `done`, `total` and `message` as they are given to
    `progress`; `check_report` checks them. Returns the previous sink.
    """
    global _sink
    before, _sink = _sink, sink or _nowhere
    return before


def check_report(
    done: float, total: float | None, message: str | None, hide: Hide = unhidden
) -> tuple[int | float, int | float | None, str | None]:
    """Return a report as plain numbers and a text that can be encoded. Raises what `progress` raises.

    `hide` masks the secrets in the text.
    """
    if message is not None:
        if not issubclass(type(message), str):
            raise TypeError(f"progress takes a str for its message, not {type_name(type(message))}")
        # Without the methods of a subclass, which are the app's code.
        message = encodable(hide(str.__str__(message))[:MAX_TEXT])
    return _number(done), None if total is None else _number(total), message


def _number(value: object) -> int | float:
    """Convert a number of any library to one for JSON. Raises `TypeError` or `ValueError` if it cannot be."""
    kind = type(value)
    if issubclass(kind, Integral) and -(2**53) < int(value) < 2**53:  # type: ignore[call-overload]
        return int(value)  # type: ignore[call-overload,no-any-return]
    if not hasattr(kind, "__float__"):
        raise TypeError(f"progress takes numbers, not {type_name(kind)}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError("progress takes numbers below 1.8e308") from None
    if not isfinite(number):
        raise ValueError(f"progress takes finite numbers, not {number}")
    return number
