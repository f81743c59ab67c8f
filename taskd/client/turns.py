"""What is to be done once, when the reactor has called everybody who is ready."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

__all__ = ["TurnEnd"]

_log = Logger(namespace="taskd.client")


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
