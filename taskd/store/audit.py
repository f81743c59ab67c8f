"""The audit log of a server, in its store: who has done what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

__all__ = ["KEPT_ENTRIES", "KEPT_SECONDS", "AuditEntry", "AuditStore"]

KEPT_ENTRIES = 100_000
"""Entries that are kept: some 30 MB of a file."""

KEPT_SECONDS = 90 * 86400
"""Seconds for which an entry is kept, if there are not too many."""


class AuditEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry: who did what, `at` seconds since 1970. An empty `owner` stands for nobody in particular.

    `action` is "submit", "cancel", "retry", "pause", "resume", "reload", "drain", "undrain", "stacks",
    "tokens" (read again), "refused" (a token) or "revoked" (connections of a token were closed).
    `count` is how many tasks one entry is about. `number` is given by the store, later ones get higher ones.
    """

    at: float
    owner: str
    role: str
    action: str
    function: str | None = None
    task: str | None = None
    count: int = 1
    text: str | None = None
    number: int = 0


class AuditStore(Protocol):
    """The audit log, in a store. Not thread-safe but for reading."""

    def add(self, entries: Sequence[AuditEntry], now: float) -> None:
        """Add entries, and forget what is too old or too much."""

    def read(
        self, before: int | None, limit: int, owner: str | None = None, action: str | None = None
    ) -> list[AuditEntry]:
        """Return up to `limit` entries whose numbers are below `before`, the newest first."""
