"""The events of stored tasks and batches that come over one connection, for those who iterate over them."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from taskd.client.answers import Following
from taskd.errors import Unreachable

__all__ = ["Signal", "Watch", "Watches"]

MAX_BEHIND = 1000
"""Events that are kept for an iterator that is slow: others are read from the server's log later."""

MAX_BEHIND_BYTES = 16 * 1024 * 1024
"""Bytes of these events: one may be as long as a message."""


class _Named(msgspec.Struct):
    task: str | None = None
    batch: str | None = None


_named = msgspec.json.Decoder(_Named)


class Signal(Protocol):
    """Something to be waited for, such as an `asyncio.Event`."""

    def set(self) -> None:
        """Wake who waits."""

    def clear(self) -> None:
        """Have the next `wait` wait."""

    async def wait(self) -> Any:
        """Wait until it is set."""


class Watch:
    """The events for one iterator, as they are pushed. Once it is cut off, those that follow are missing."""

    def __init__(self, signal: Signal, following: Following) -> None:
        self.following = following
        self._signal = signal
        self._inbox: deque[Raw] = deque()
        self._bytes = 0
        self._is_live = False
        self._is_cut_off = False
        self._lost: Unreachable | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the connection is lost."""
        return self._lost is not None

    def begin(self) -> None:
        """Take what is pushed from now on. Call this when the answer to the attach comes in.

        What others are sent before that may be later than what this one is about to get.
        """
        self._is_live = True

    def push(self, event: Raw) -> None:
        """Take an event."""
        if self._is_cut_off or not self._is_live:
            return
        self._bytes += memoryview(event).nbytes
        if len(self._inbox) >= MAX_BEHIND or (self._bytes > MAX_BEHIND_BYTES and self._inbox):
            self._is_cut_off = True
        else:
            self._inbox.append(event)
        self._signal.set()

    def lose(self, error: Unreachable) -> None:
        """Note that the connection is lost: nothing follows."""
        self._lost = error
        self._signal.set()

    async def next(self) -> Raw | None:
        """Return the next event; None once this is cut off. Raises `Unreachable` for a lost connection."""
        while not self._inbox:
            if self._is_cut_off:
                return None
            if self._lost is not None:
                raise self._lost
            self._signal.clear()
            await self._signal.wait()
        event = self._inbox.popleft()
        self._bytes -= memoryview(event).nbytes
        return event


class Watches:
    """All iterators over events that come over one connection, by the id of the task or batch."""

    def __init__(self) -> None:
        self._by_id: dict[str, list[Watch]] = {}

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._by_id)

    def add(self, watch: Watch) -> int:
        """Add an iterator; return after which event the server must push, so that none of all misses one."""
        others = self._by_id.setdefault(watch.following.id, [])
        others.append(watch)
        known = [each.following.after for each in others]
        return min((after for after in known if after >= 0), default=-1)

    def remove(self, watch: Watch) -> bool:
        """Remove an iterator; return whether it was the last of its task or batch."""
        others = self._by_id[watch.following.id]
        others.remove(watch)
        if others:
            return False
        del self._by_id[watch.following.id]
        return True

    def pushed(self, event: Raw) -> None:
        """Pass an event on to all who iterate over those of its task or batch."""
        named = _named.decode(event)
        for watch in self._by_id.get(named.task or named.batch or "", ()):
            watch.push(event)

    def lost(self, error: Unreachable) -> None:
        """End all: the connection is lost."""
        for watches in self._by_id.values():
            for watch in watches:
                watch.lose(error)
