"""The audit log: who has done what that others may ask about later."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from taskd.model import Grant

__all__ = ["Audit", "AuditEntry"]

_log = Logger(namespace="taskd.audit")

KEPT = 10_000
"""Entries that are kept in memory: each takes some 300 bytes."""


class AuditEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry: who did what, `at` seconds since 1970. An empty `owner` stands for nobody in particular.

    `action` is "submit", "cancel", "retry", "pause", "resume", "reload", "drain", "stacks",
    "tokens" (read again), "refused" (a token) or "revoked" (connections of a token were closed).
    `count` is how many tasks one entry is about.
    """

    at: float
    owner: str
    role: str
    action: str
    function: str | None = None
    task: str | None = None
    count: int = 1
    text: str | None = None


class Audit:
    """The audit log of one daemon; `now` returns the seconds since 1970."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.recent: deque[AuditEntry] = deque(maxlen=KEPT)

    def note(
        self,
        grant: Grant,
        action: str,
        *,
        function: str | None = None,
        task: str | None = None,
        count: int = 1,
        text: str | None = None,
    ) -> None:
        """Add an entry. Neither arguments nor tokens belong into it."""
        entry = AuditEntry(self._now(), grant.owner, grant.role, action, function, task, count, text)
        self.recent.append(entry)
        _log.info("{entry}", entry=msgspec.json.encode(entry).decode())
