"""Replies on their way from task servers to a gateway: counted for the websockets that they are for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from taskd.client.link import Metered
from taskd.net.buffered_socket import READ_SIZE
from taskd.scheduler.arrivals import Arrival
from taskd.scheduler.budget import Account

__all__ = ["ReplyMeter"]


class Receiver(Protocol):
    """Whoever a reply is for."""

    def account(self) -> Account:
        """Return the account that the reply counts for."""

    def is_needed(self) -> bool:
        """Return whether other replies wait for this one."""

    def wants(self, size: int) -> bool:
        """Return whether a reply that has `size` bytes so far can be of use."""


class ReplyMeter:
    """Counts the replies of one connection while they arrive, if long. Is a `taskd.client.link.Meter`."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._arrival: Arrival | None = None

    def grows(self, connection: Metered, size: int) -> bool:
        """Count a reply that has `size` bytes so far; return whether to read on."""
        if size <= READ_SIZE:
            self.ended()
            return True
        if not self._receiver.wants(size):
            self._dropper(connection)()
            return True
        if self._arrival is None:
            self._arrival = self._receiver.account().arrival(
                connection.read_on, self._dropper(connection), self._receiver.is_needed
            )
        return self._arrival.grow(size - self._arrival.size)

    def _dropper(self, connection: Metered) -> Callable[[], None]:
        def drop() -> None:
            self.ended()
            connection.drop_reply()

        return drop

    def ended(self) -> None:
        """Count no longer: the reply is complete, or will not be."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.end()
