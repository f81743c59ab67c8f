"""The heartbeat of a Twisted program's connection: pings while it is silent and a reply is awaited.

The rules are those of `taskd.client.conversation`.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from taskd.client.conversation import PING_INTERVAL, PING_TIMEOUT

__all__ = ["Heartbeat"]


class Heartbeat:
    """Calls `ping` when nothing was sent or nothing was received for `interval` seconds.

    Calls `give_up` with the reason if nothing was received for `timeout` seconds after a ping.
    `is_awaiting` is whether a reply or an event is awaited. Call `sent` and `received` when data
    goes out or comes in, and `stop` when the connection ends.
    """

    def __init__(
        self,
        clock: IReactorTime,
        is_awaiting: Callable[[], object],
        ping: Callable[[], object],
        give_up: Callable[[str], object],
        interval: float = PING_INTERVAL,
        timeout: float = PING_TIMEOUT,
    ) -> None:
        self._clock = clock
        self._is_awaiting = is_awaiting
        self._ping = ping
        self._give_up = give_up
        self._step = interval / 2  # after a ping and its answer, every second one is silent
        self._timeout = timeout
        self._has_sent = self._has_received = True
        self._asked_at: float | None = None  # when the first ping went out that nothing has answered
        self._beat_at = 0.0
        self._next: IDelayedCall | None = None

    def sent(self) -> None:
        """Note that something was sent, and is perhaps awaited now."""
        self._has_sent = True
        if self._next is None:
            self._has_received = True  # what has not arrived meanwhile was not awaited
            self._beat_at = self._clock.seconds()
            self._next = self._clock.callLater(self._step, self._beat)

    def received(self) -> None:
        """Note that something was received."""
        self._has_received = True
        self._asked_at = None

    def stop(self) -> None:
        """Stop, for good or until something is sent."""
        self._asked_at = None
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _beat(self) -> None:
        self._next = None
        if not self._is_awaiting():
            self.stop()
            return
        now = self._clock.seconds()
        was_held_up = now - self._beat_at > 4 * self._step
        self._beat_at = now
        if self._asked_at is not None and now - self._asked_at >= self._timeout:
            if not was_held_up:
                self._give_up(f"it has not answered for {self._timeout:g} s")
                return
            self._asked_at = now  # this process was stopped, and may have missed the answer
        is_silent = not (self._has_sent and self._has_received)
        self._has_sent = self._has_received = False
        self._next = self._clock.callLater(self._step, self._beat)
        if is_silent:
            if self._asked_at is None:
                self._asked_at = now
            self._has_sent = True
            self._ping()
