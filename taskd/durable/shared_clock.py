"""The time of a store that many machines share: the store's own, whatever their clocks show."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

__all__ = ["SharedClock"]


class SharedClock:
    """The seconds since 1970 by the clock of a store, which go on as `clock` does between two looks at it."""

    def __init__(self, clock: IReactorTime, now: float) -> None:
        self._clock = clock
        self._offset = now - clock.seconds()

    def now(self) -> float:
        """Return the time. Any thread may ask."""
        return self._clock.seconds() + self._offset

    def follow(self, now: float, asked: float) -> None:
        """Note that the store's clock showed `now` when `clock`, which shows more by now, had shown `asked`.

        The answer has taken some time, of which half counts.
        """
        self._offset = now - (asked + self._clock.seconds()) / 2
