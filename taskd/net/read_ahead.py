"""Bytes that are read ahead of their use, so that the end behind them arrives.

While a connection is not read, its window fills, and then the peer's end stays
in the peer's kernel, behind what that could not send: it would be noticed only
when everything before it has been used. So what a kernel can hold back is read
into memory, if anything depends on the end of the connection. A client that
sends more than has room there may have the rest refused: it is read and dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from taskd.scheduler.budget import Budget

__all__ = ["AHEAD", "AHEAD_PART", "DROPPED", "Ahead", "AheadRoom"]

AHEAD = 4 * 1024 * 1024
"""Bytes that are read ahead of one connection: as many as Linux lets a socket keep unsent (tcp_wmem)."""

DROPPED = 16 * 1024 * 1024
"""Bytes of one connection that are read and dropped until `Ahead.drop_more`: more than the kernels of both
sides hold back, and not much work, however fast a client goes on to send."""

AHEAD_PART = 8
"""Of the byte budget, one part in so many is for what is read ahead of all connections of a listener."""

SHARE = 4
"""The part of the free room that one connection may take: a quarter, so that there is some for the next."""


class AheadRoom:
    """The room for what is read ahead, which the connections of a listener share. It counts in `budget`."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.free = budget.limit // AHEAD_PART

    def take(self, size: int) -> None:
        """Count bytes that are held; a negative number of them is given back."""
        self.free -= size
        self._budget.count(size)


class Ahead:
    """The bytes that were read ahead of one connection; with `drops`, only their number."""

    __slots__ = ("_bytes", "_dropped", "_room", "_size", "drops", "is_cut", "on_cut")

    def __init__(self, room: AheadRoom, *, drops: bool = False) -> None:
        self._room = room
        self._bytes = bytearray()
        self._size = self._dropped = 0
        self.drops = drops
        """Whether what is read is of no use."""
        self.is_cut = False
        """Whether bytes are missing behind those that wait."""
        self.on_cut: Callable[[], object] | None = None
        """To be called, once, when those that wait have been used."""

    def __len__(self) -> int:
        """Return the number of bytes that wait."""
        return len(self._bytes)

    @property
    def arrived(self) -> int:
        """The number of bytes that have been read ahead since the beginning."""
        return self._size

    @property
    def has_room(self) -> bool:
        """Whether more may be read ahead."""
        if self.drops:
            return self._dropped < DROPPED
        return len(self._bytes) < min(AHEAD, self._room.free // SHARE)

    def add(self, data: bytes) -> None:
        """Keep these bytes."""
        self._size += len(data)
        if self.drops:
            self._dropped += len(data)
        else:
            self._bytes += data
            self._room.take(len(data))

    def cut(self, on_cut: Callable[[], object]) -> None:
        """Drop what is read from now on."""
        self.drops = self.is_cut = True
        self.on_cut = on_cut

    def drop_more(self) -> None:
        """Let another `DROPPED` bytes be dropped."""
        self._dropped = 0

    def take(self, size: int) -> bytes:
        """Return at most `size` of the oldest bytes, and forget them."""
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        self._room.take(-len(taken))
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self.on_cut = None
        self.take(len(self._bytes))
