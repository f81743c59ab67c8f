"""Turns: work that is left over is done a step at a time, so that nobody holds up the reactor."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

__all__ = ["SLICE_SECONDS", "TURN_SECONDS", "TurnTaker", "Turns"]

_log = Logger(namespace="taskd")

SLICE_SECONDS = 0.002
"""Seconds of steps that one taker takes before the next one's: many steps, but few enough that
ten others do not wait long."""

TURN_SECONDS = 0.01
"""Seconds of steps in one turn of the reactor, after which it looks at its sockets again: a delay
that nobody notices, and long enough that looking costs little in comparison."""


class TurnTaker(Protocol):
    """Whoever has work left, such as a connection that has sent more than is read at once."""

    def take_step(self) -> bool:
        """Do a part of the work, of a millisecond or two; return whether any is left."""

    def hold(self) -> None:
        """Take on no more work until nothing is left: the reactor gets its turn before the next step."""

    def abort(self) -> None:
        """Give up, after a step has failed with an exception."""


class Turns:
    """The takers that have work left, in the order of their turns.

    Each gets a slice in every round. The first step of a slice is taken
    whatever it costs; the clock is looked at between two steps.
    """

    __slots__ = ("_clock", "_takers")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._takers: deque[TurnTaker] = deque()

    def ask(self, taker: TurnTaker) -> None:
        """Give a taker turns, from the end of this turn of the reactor on, until nothing is left."""
        if not self._takers:
            self._clock.callLater(0, self._run)
        self._takers.append(taker)

    def _run(self) -> None:
        takers, seconds = self._takers, self._clock.seconds
        now = seconds()
        end = now + TURN_SECONDS
        while takers and now < end:
            taker = takers[0]
            end_of_slice = min(now + SLICE_SECONDS, end)
            has_more = True
            while has_more and now < end_of_slice:
                has_more = self._step(taker)
                now = seconds()
            takers.popleft()
            if has_more:
                takers.append(taker)
        if takers:
            for taker in takers:
                taker.hold()
            self._clock.callLater(0, self._run)

    @staticmethod
    def _step(taker: TurnTaker) -> bool:
        try:
            return taker.take_step()
        except Exception:
            _log.failure("a bug in taskd")
            taker.abort()
            return False
