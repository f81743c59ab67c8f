"""Turns: work that is left over is done a step at a time, so that nobody holds up the reactor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

__all__ = ["LIGHT_STEP", "SLICE_SECONDS", "TURN_SECONDS", "TurnTaker", "Turns"]

_log = Logger(namespace="taskd")

SLICE_SECONDS = 0.001
"""Seconds of steps that one taker takes before the next one's: several steps, but few enough that
ten others do not wait long."""

TURN_SECONDS = 0.005
"""Seconds of steps in one turn of the reactor, after which it looks at its sockets again: a delay
that nobody notices even if the last step is one of twenty milliseconds, the dearest there is, and
long enough that looking costs little in comparison."""

LIGHT_STEP = 0.00002
"""Seconds that a step with one short message takes, about: to measure it would take as long as some do."""


class TurnTaker(Protocol):
    """Whoever has work left, such as a connection that has sent more than is read at once."""

    @property
    def party(self) -> str:
        """The party that it belongs to: parties have turns, and in each its takers."""

    def take_step(self) -> bool:
        """Do a part of the work, of a millisecond or two if possible; return whether any is left."""

    def hold(self) -> None:
        """Take on no more work until nothing is left: the reactor gets its turn before the next step."""

    def abort(self) -> None:
        """Give up, after a step has failed with an exception."""


class Turns:
    """The takers that have work left, in the order of their turns; and the account of a reactor's turn.

    Each party gets a slice in every round, for the next of its takers. The first
    step of a slice is taken whatever it costs; the clock is looked at between two
    steps.

    Work may be begun without a turn until the account is spent: `used` has the
    seconds of steps that were taken so since the last round. (`LIGHT_STEP` may be
    added without a round that follows. So with nothing but light steps, one in
    five hundred waits for a round, which follows at once.)
    """

    __slots__ = ("_clock", "_is_due", "_parties", "used")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._parties: dict[str, deque[TurnTaker]] = {}
        self._is_due = False
        self.used = 0.0

    @property
    def is_spent(self) -> bool:
        """Whether whoever has work must ask for a turn now."""
        return self.used >= TURN_SECONDS

    def measured(self, step: Callable[[], object]) -> None:
        """Take a step without a turn, and count its time, even if it raises."""
        used, began = self.used, self._clock.seconds()
        try:
            step()
        finally:
            self.used = used + self._clock.seconds() - began
            self._have_round()

    def ask(self, taker: TurnTaker) -> None:
        """Give a taker turns, from the end of this turn of the reactor on, until nothing is left."""
        self._parties.setdefault(taker.party, deque()).append(taker)
        self._have_round()

    def _have_round(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._clock.callLater(0, self._run)

    def _run(self) -> None:
        self._is_due = False
        self.used = 0.0
        parties, seconds = self._parties, self._clock.seconds
        now = seconds()
        end = now + TURN_SECONDS
        while parties and now < end:
            party, takers = next(iter(parties.items()))
            taker = takers.popleft()
            end_of_slice = min(now + SLICE_SECONDS, end)
            has_more = True
            while has_more and now < end_of_slice:
                has_more = self._step(taker)
                now = seconds()
            if has_more:
                takers.append(taker)
            del parties[party]
            if takers:
                parties[party] = takers  # behind the others
        if parties:
            for takers in parties.values():
                for taker in takers:
                    taker.hold()
            self._have_round()

    @staticmethod
    def _step(taker: TurnTaker) -> bool:
        try:
            return taker.take_step()
        except Exception:
            _log.failure("a bug in taskd")
            taker.abort()
            return False
