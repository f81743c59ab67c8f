"""Timers: what is called at the end of the reactor's turn, or at a time that may still change."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["Alarm", "TurnEnd"]

_log = Logger(namespace="taskd")


class TurnEnd:
    """A list of functions to call at the end of the reactor's turn.

    With it, code that writes to a connection several times in a turn sends
    everything in one piece.
    """

    __slots__ = ("_clock", "_functions")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._functions: list[Callable[[], None]] = []

    def call(self, function: Callable[[], None]) -> None:
        """Call `function` once at the end of this turn; an exception is logged, and the others still run."""
        if not self._functions:
            self._clock.callLater(0, self._run)
        self._functions.append(function)

    def _run(self) -> None:
        functions, self._functions = self._functions, []
        for function in functions:
            try:
                function()
            except Exception:
                _log.failure("a bug in taskd")


class Alarm:
    """A call of one function, at the earliest of the times that `set` is given.

    The call may come too early, never too late: the function then sets the
    next time. So a deadline that keeps moving a few seconds ahead needs no new
    timer for each move.
    """

    __slots__ = ("_at", "_call", "_clock", "_function")

    def __init__(self, clock: IReactorTime, function: Callable[[], None]) -> None:
        self._clock = clock
        self._function = function
        self._at = inf
        self._call: IDelayedCall | None = None

    def set(self, when: float) -> None:
        """Call the function at `when` (in the clock's seconds), or earlier."""
        if when >= self._at:
            return
        self._at = when
        delay = max(when - self._clock.seconds(), 0)
        if self._call is not None:
            self._call.reset(delay)
        else:
            self._call = self._clock.callLater(delay, self._ring)

    def _ring(self) -> None:
        self._call = None
        self._at = inf
        self._function()
