"""The audit log of a store in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from msgspec.structs import replace

from taskd.store.audit import KEPT_SECONDS, AuditEntry

__all__ = ["MemoryAudit"]

MAX_ENTRIES = 10_000
"""Entries that are kept in memory, some 300 bytes each."""


class MemoryAudit:
    """Keeps the newest entries. Implements `taskd.store.audit.AuditStore`."""

    def __init__(self, most: int = MAX_ENTRIES) -> None:
        self._entries: deque[AuditEntry] = deque(maxlen=most)
        self._last = 0

    def add(self, entries: Sequence[AuditEntry], now: float) -> None:
        """Add entries, and forget what is too old or too much."""
        for entry in entries:
            self._last += 1
            self._entries.append(replace(entry, number=self._last))
        while self._entries and self._entries[0].at < now - KEPT_SECONDS:
            self._entries.popleft()

    def read(
        self, before: int | None, limit: int, owner: str | None = None, action: str | None = None
    ) -> list[AuditEntry]:
        """Return entries, the newest first."""
        found = (
            entry
            for entry in reversed(self._entries)
            if (before is None or entry.number < before)
            and (owner is None or entry.owner == owner)
            and (action is None or entry.action == action)
        )
        return list(islice(found, limit))

    def all(self) -> list[AuditEntry]:
        """Return all entries, the oldest first."""
        return list(self._entries)
