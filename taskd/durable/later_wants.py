"""Wants that the store could not fulfil because of a limit: asked for again when that may be possible."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.internet.interfaces import IReactorTime

from taskd.durable.writer import both
from taskd.net.timers import Alarm
from taskd.store.base import Want

__all__ = ["LaterWants"]


class LaterWants:
    """Keeps one want for each function, and calls `ask` with the function and the want at its time."""

    def __init__(self, clock: IReactorTime, ask: Callable[[str, Want], object]) -> None:
        self._clock = clock
        self._ask = ask
        self._alarm = Alarm(clock, self._rang)
        self._wants: dict[str, tuple[float, Want]] = {}

    def add(self, function: str, want: Want, seconds: float) -> None:
        """Ask for this, with earlier wants of the function, in so many seconds or earlier."""
        at, earlier = self._wants.get(function, (inf, None))
        at = min(at, self._clock.seconds() + seconds)
        self._wants[function] = at, want if earlier is None else both(earlier, want)
        self._alarm.set(at)

    def _rang(self) -> None:
        now = self._clock.seconds()
        due = [(function, want) for function, (at, want) in self._wants.items() if at <= now]
        for function, want in due:
            del self._wants[function]
            self._ask(function, want)
        if self._wants:
            self._alarm.set(min(at for at, _ in self._wants.values()))
