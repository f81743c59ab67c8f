"""The time of day, as stored tasks need it: it goes on evenly, and says when it has been set."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from taskd.net.timers import Alarm

__all__ = ["WallClock"]

CHECK_SECONDS = 1.0
"""Seconds between two comparisons with the machine's clock: so late may be what is due by a clock that
has been put forward."""

SLEWED_SECONDS = 0.5
"""Seconds of difference that are followed silently, since clocks are always corrected by a little."""


class WallClock:
    """The seconds since 1970, which go on as `clock` does.

    `clock` is not affected by somebody setting the machine's clock. If `wall`,
    the machine's clock, differs from what it should be, `moved` is called with
    the difference. `follow` then makes it count.
    """

    def __init__(
        self, clock: IReactorTime, wall: Callable[[], float], moved: Callable[[float], object]
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._moved = moved
        self._offset = wall() - clock.seconds()
        self._alarm = Alarm(clock, self._check)
        self._is_stopped = False
        self._is_moving = False

    def now(self) -> float:
        """Return the time. Any thread may ask."""
        return self._clock.seconds() + self._offset

    def start(self) -> None:
        """Compare the clocks from now on."""
        self._check()

    def stop(self) -> None:
        """Compare them no longer."""
        self._is_stopped = True

    def follow(self, seconds: float) -> None:
        """Be so many seconds later from now on."""
        self._offset += seconds
        self._is_moving = False

    def _check(self) -> None:
        if self._is_stopped:
            return
        self._alarm.set(self._clock.seconds() + CHECK_SECONDS)
        if self._is_moving:
            return
        difference = self._wall() - self.now()
        if abs(difference) < SLEWED_SECONDS:
            self._offset += difference
        else:
            self._is_moving = True
            # The rest is followed silently. A whole number of seconds has to remain one: otherwise what
            # has just been done at an interval of seconds would be due again.
            self._moved(round(difference, 1))
