"""A timer that can be started, cancelled and asked whether it runs."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Timer"]


class Timer:
    """A delayed call of one function, which can be cancelled.

    Unlike a `taskd.net.timers.Alarm`, a timer can be cancelled and never rings early.
    """

    __slots__ = ("_call", "_clock", "_function")

    def __init__(self, clock: IReactorTime, function: Callable[[], object]) -> None:
        self._clock = clock
        self._function = function
        self._call: IDelayedCall | None = None

    @property
    def is_running(self) -> bool:
        """Whether the function is going to be called."""
        return self._call is not None

    @property
    def seconds_left(self) -> float | None:
        """The seconds until the call; None if the timer does not run."""
        return None if self._call is None else max(self._call.getTime() - self._clock.seconds(), 0.0)

    def start(self, delay: float) -> None:
        """Call the function in `delay` seconds. Does nothing if the timer already runs."""
        if self._call is None:
            self._call = self._clock.callLater(delay, self._ring)

    def cancel(self) -> None:
        """Do not call the function, unless the timer is started again. Idempotent."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _ring(self) -> None:
        self._call = None
        self._function()
