"""Calls at the end of the reactor's turn (`TurnEnd`), and at a time that keeps moving (`Alarm`)."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["Alarm", "TurnEnd"]

_log = Logger(namespace="taskd")


class TurnEnd:
    """A list of functions to call at the end of the reactor's turn.

    So code that writes to a connection several times in a turn can send
    everything together.
    """

    __slots__ = ("_clock", "_functions")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._functions: list[Callable[[], None]] = []

    def call(self, function: Callable[[], None]) -> None:
        """Call `function` once, at the end of this turn. An exception is logged, and the others still run."""
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
    """A call of one function at the earliest of the times given to `set`.

    The call may come too early, but never too late: the function then sets the
    next time. So a deadline that keeps moving ahead needs no new timer for each
    move.
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
