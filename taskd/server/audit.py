"""The audit log: who has done what that others may ask about later."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.model import Grant
from taskd.net.timers import Alarm
from taskd.store.audit import AuditEntry

__all__ = ["Audit"]

_log = Logger(namespace="taskd.audit")

MAX_UNWRITTEN = 10_000
"""Entries that are kept until they are written, some 300 bytes each: the newest ones."""

SUBMIT_SECONDS = 1.0
"""Seconds in which the submits of one owner and function become one entry."""

MAX_SUBMITTERS = 1000
"""Owners and functions whose submits are counted at once: with more, the entries come sooner."""


class Audit:
    """The audit log of one daemon; `now` returns the seconds since 1970.

    `unwritten` has entries, the oldest first, until whoever keeps them takes them away.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float]) -> None:
        self._clock = clock
        self._now = now
        self.unwritten: deque[AuditEntry] = deque(maxlen=MAX_UNWRITTEN)
        self.on_entry: Callable[[], object] = bool  # which does nothing
        """Called when there is a new entry."""
        self._submits: Counter[tuple[Grant, str, str | None]] = Counter()
        self._alarm = Alarm(clock, self.note_submits)

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
        self._add(entry)
        _log.info("{entry}", entry=msgspec.json.encode(entry).decode())

    def submitted(self, grant: Grant, function: str, count: int = 1, owner: str | None = None) -> None:
        """Note that tasks were submitted to the store: with others of the same second, as one entry.

        `owner` is whom they belong to, if that is not their submitter.
        """
        if not self._submits:
            self._alarm.set(self._clock.seconds() + SUBMIT_SECONDS)
        self._submits[grant, function, owner] += count
        if len(self._submits) >= MAX_SUBMITTERS:
            self.note_submits()

    def note_submits(self) -> None:
        """Add the entries of the submits that were counted."""
        submits, self._submits = self._submits, Counter()
        now = self._now()
        for (grant, function, owner), count in submits.items():
            text = None if owner is None else f"for {owner}"
            self._add(AuditEntry(now, grant.owner, grant.role, "submit", function, None, count, text))

    def _add(self, entry: AuditEntry) -> None:
        self.unwritten.append(entry)
        self.on_entry()
