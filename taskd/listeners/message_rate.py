"""The rate of a connection's messages: whoever sends more is read later, or over HTTP has to wait."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime

from taskd.listeners.peer import Peer

__all__ = ["Allowance", "Throttle"]

BURST_SECONDS = 1.0
"""Seconds of the rate that may come at once: a page that opens asks for many things."""


class Allowance:
    """The messages that one connection may send: `rate` a second, and those of `BURST_SECONDS` at once."""

    __slots__ = ("_at", "_clock", "_left", "_rate")

    def __init__(self, clock: IReactorTime, rate: float) -> None:
        self._clock = clock
        self._rate = rate
        self._left = self._burst
        self._at = clock.seconds()

    @property
    def _burst(self) -> float:
        return max(self._rate * BURST_SECONDS, 1.0)

    def count(self, messages: int) -> None:
        """Count messages that have come, even if they are too many."""
        now = self._clock.seconds()
        self._left = min(self._left + max(now - self._at, 0.0) * self._rate, self._burst) - messages
        self._at = now

    @property
    def debt_seconds(self) -> float:
        """The seconds after which as many messages as were counted could have come; 0 if they could now."""
        return max(-self._left / self._rate, 0.0)

    def take(self) -> float:
        """Count one message and return 0; or else return the seconds after which there is room for it."""
        self.count(1)
        wait = self.debt_seconds
        if wait > 0:
            self._left += 1
        return wait


class Throttle:
    """The messages of one connection: at most `rate` a second over time.

    Members of batches count as messages. What was read is worked off at once; the connection is then
    not read until that many messages could have come.
    """

    __slots__ = ("_allowance", "_clock", "_counted", "_is_pausing", "_peer")

    def __init__(self, clock: IReactorTime, peer: Peer[Any], rate: float) -> None:
        self._clock = clock
        self._peer = peer
        self._allowance = Allowance(clock, rate)
        self._counted = 0
        self._is_pausing = False

    def receive(self, messages: list[bytes]) -> None:
        """Pass on messages, and count them."""
        self._peer.receive(messages)
        self._count(len(messages))

    def _count(self, messages: int) -> None:
        members = self._peer.session.members
        self._allowance.count(messages + members - self._counted)
        self._counted = members
        wait = self._allowance.debt_seconds
        if wait > 0 and not self._is_pausing:
            self._is_pausing = True
            self._peer.throttle(is_throttled=True)
            self._clock.callLater(wait, self._look)

    def _look(self) -> None:
        """Read on, unless what was read has turned out to be more since then."""
        self._is_pausing = False
        self._count(0)
        if not self._is_pausing:
            self._peer.throttle(is_throttled=False)
