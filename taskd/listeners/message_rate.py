"""The rate of a connection's messages: whoever sends more is read later, and notices nothing else."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime

from taskd.listeners.peer import Peer

__all__ = ["Throttle"]

BURST_SECONDS = 1.0
"""Seconds of the rate that may come at once: a page that opens asks for many things."""


class Throttle:
    """The messages of one connection: at most `rate` a second over time.

    Members of batches count as messages. What was read is worked off at once; the connection is then
    not read until that many messages could have come.
    """

    __slots__ = ("_at", "_clock", "_counted", "_is_pausing", "_left", "_peer", "_rate")

    def __init__(self, clock: IReactorTime, peer: Peer[Any], rate: float) -> None:
        self._clock = clock
        self._peer = peer
        self._rate = rate
        self._left = self._burst
        self._at = clock.seconds()
        self._counted = 0
        self._is_pausing = False

    @property
    def _burst(self) -> float:
        return max(self._rate * BURST_SECONDS, 1.0)

    def receive(self, messages: list[bytes]) -> None:
        """Pass on messages, and count them."""
        self._peer.receive(messages)
        self._count(len(messages))

    def _count(self, messages: int) -> None:
        now = self._clock.seconds()
        self._left = min(self._left + max(now - self._at, 0.0) * self._rate, self._burst)
        self._at = now
        members = self._peer.session.members
        self._left -= messages + members - self._counted
        self._counted = members
        if self._left < 0 and not self._is_pausing:
            self._is_pausing = True
            self._peer.throttle(is_throttled=True)
            self._clock.callLater(-self._left / self._rate, self._look)

    def _look(self) -> None:
        """Read on, unless what was read has turned out to be more since then."""
        self._is_pausing = False
        self._count(0)
        if not self._is_pausing:
            self._peer.throttle(is_throttled=False)
