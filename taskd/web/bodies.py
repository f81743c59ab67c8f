"""The bodies of HTTP requests, which are counted in the byte budget while they arrive and are held."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from taskd.scheduler.budget import Account, Budget

__all__ = ["ArrivingBody", "HeldBody"]

LIGHT = 16384
"""Bytes of a body up to which it needs no account: as many as a head has."""


class HeldBody(BytesIO):
    """A body that has arrived whole, as a file; it is counted until it is closed."""

    def __init__(self, data: bytes, account: Account | None = None) -> None:
        super().__init__(data)
        self._account = account

    def close(self) -> None:
        """Forget the body."""
        super().close()
        account, self._account = self._account, None
        if account is not None:
            account.close()


class ArrivingBody:
    """A body of `length` bytes that is being received. Implements `taskd.scheduler.budget.Holder`.

    `on_room` is called when more may be read, after `has_room` was false, and
    `on_refused` if there is no room for the rest.
    """

    def __init__(
        self,
        length: int,
        budget: Budget,
        party: str,
        on_room: Callable[[], object],
        on_refused: Callable[[], object],
    ) -> None:
        self._missing = length
        self._received: list[bytes] = []
        self._size = 0
        self._on_room = on_room
        self._on_refused = on_refused
        self._account = budget.account(party, self) if length > LIGHT else None

    @property
    def missing(self) -> int:
        """The bytes that have not arrived."""
        return self._missing

    @property
    def has_room(self) -> bool:
        """Whether more may be received now."""
        return self._account is None or self._account.may_receive or not self._missing

    def add(self, data: bytes) -> None:
        """Add what has arrived: at most as much as is missing."""
        self._received.append(data)
        self._size += len(data)
        self._missing -= len(data)
        self._count()

    def _count(self) -> None:
        if self._account is not None:
            self._account.update(self._size, 0, self._size if self._missing else 0)
            if not self.has_room:
                self._account.wait()

    def budget_changed(self) -> None:
        """Read on if there is room now."""
        self._count()
        if self.has_room:
            self._on_room()

    def refuse_unfinished(self) -> None:
        """Have the request refused, since there is no room for the rest."""
        self._on_refused()

    def complete(self) -> HeldBody:
        """Return the body, which has arrived whole."""
        account, self._account = self._account, None
        data = self._received[0] if len(self._received) == 1 else b"".join(self._received)
        self._received = []
        return HeldBody(data, account)

    def drop(self) -> None:
        """Forget the body: its connection is gone, or it is refused."""
        self._received = []
        account, self._account = self._account, None
        if account is not None:
            account.close()
