"""When a stored task is tried again: the exception `Retry`, and `retry_for` of a function."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from typing import Any

import msgspec

from taskd.functions.raised import type_name
from taskd.functions.stops import TaskTimeout

__all__ = [
    "RETRY_FOR",
    "Retry",
    "RetryFor",
    "Verdict",
    "checked_retry_for",
    "covers_timeouts",
    "names_of",
    "verdict_on",
]

RetryFor = tuple[type[BaseException], ...]
"""The exceptions of a function after which a stored task is tried again."""

RETRY_FOR: RetryFor = (Exception,)
"""The default. It has no `SystemExit` and no `KeyboardInterrupt`: whoever raises one wants to end."""

# Read from `type` itself: a metaclass of the app may replace this attribute for its classes.
_mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__


class Retry(Exception):
    """Raised by a function that wants its stored task to be tried again, `after` seconds from now.

    Without `after` the time is that of the function's `backoff`. Each such attempt
    counts as one of the `retries`: after the last one, and for calls that are not
    stored, this is a failure like any other. Raise it ``from`` the error that was
    the reason, and the log has both. Raises `ValueError` if `after` is not a number
    of seconds, 0 or more.
    """

    def __init__(self, message: str | None = None, *, after: float | None = None) -> None:
        if after is not None and not _is_seconds(after):
            raise ValueError(f"after is a number of seconds, 0 or more, not {after!r}")
        self.after = after
        when = "" if after is None else f" after {after:g} s"
        super().__init__(message if message is not None else f"to be tried again{when}")


class Verdict(msgspec.Struct, frozen=True):
    """A judgement on an exception: whether it is a reason to try the task again.

    `after` is the number of seconds that the function has asked for, None for the back-off.
    """

    may_retry: bool
    after: float | None = None


def verdict_on(error: BaseException, wanted: RetryFor) -> Verdict:
    """Judge an exception of a function, by `Retry` and by the function's `retry_for`."""
    bases = _mro_of(type(error))
    if Retry in bases:
        try:
            after = error.after  # type: ignore[attr-defined]
        except BaseException:  # a subclass of the app, which may do anything
            after = None
        return Verdict(True, float(after) if _is_seconds(after) else None)
    return Verdict(any(kind in bases for kind in wanted))


def checked_retry_for(wanted: Any) -> RetryFor:
    """Return the argument `retry_for` of `task` as a tuple. Raises `ValueError` if it is wrong."""
    kinds = wanted if isinstance(wanted, tuple) else (wanted,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ValueError(f"retry_for has classes of exceptions, not {kind!r}")
    if not kinds:
        raise ValueError(
            "retry_for names at least one class of exceptions; to try nothing again, use retries=0"
        )
    return kinds


def names_of(wanted: RetryFor) -> tuple[str, ...]:
    """Return the names of classes of exceptions, for people."""
    return tuple(type_name(kind) for kind in wanted)


def covers_timeouts(wanted: RetryFor) -> bool:
    """Return whether a task is tried again that has run over its time limit: by default, or if asked for."""
    return wanted == RETRY_FOR or any(issubclass(TaskTimeout, kind) for kind in wanted)


def _is_seconds(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value < inf
        and isfinite(value)
    )
