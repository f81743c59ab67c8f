"""What is to be done later: at the end of the reactor's turn, or at a time that may still change."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["Alarm", "TurnEnd"]

_log = Logger(namespace="taskd")


class TurnEnd:
    """Calls functions at the end of the reactor's turn in which they were given.

    So whoever writes to a connection several times in a turn sends it all in
    one piece.
    """

    __slots__ = ("_clock", "_functions")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._functions: list[Callable[[], None]] = []

    def call(self, function: Callable[[], None]) -> None:
        """Have `function` called once for this call; what it raises harms no other."""
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
    """Calls a function when the earliest of the times has come that it was given.

    It may call it too early, never too late: the function then sets it anew.
    So a time that is always some seconds ahead costs no timer each time.
    """

    __slots__ = ("_at", "_call", "_clock", "_function")

    def __init__(self, clock: IReactorTime, function: Callable[[], None]) -> None:
        self._clock = clock
        self._function = function
        self._at = inf
        self._call: IDelayedCall | None = None

    def set(self, when: float) -> None:
        """Have the function called at `when` (of the clock), or earlier."""
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
