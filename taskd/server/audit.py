"""The audit log: who has done what that others may ask about later."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.functions.wire_names import RESERVED
from taskd.model import Call, Grant, Outcome, Result, Role
from taskd.net.timers import Alarm
from taskd.protocol.method_names import CANCEL, PAUSE, RESUME, RETRY
from taskd.protocol.methods import WAS_DONE, bound
from taskd.store.audit import AuditEntry

__all__ = ["Audit"]

_log = Logger(namespace="taskd.audit")

MAX_UNWRITTEN = 10_000
"""Entries that are kept until they are written, some 300 bytes each: the newest ones."""

SUBMIT_SECONDS = 1.0
"""Seconds in which the submits of one owner and function become one entry."""

MAX_SUBMITTERS = 1000
"""Owners and functions whose submits are counted at once: with more, the entries come sooner."""

_NOTED = {CANCEL: ("id", "task"), RETRY: ("task",), PAUSE: ("function",), RESUME: ("function",)}
"""The methods that are noted when they are answered, and their parameters."""


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
        self._submits: Counter[tuple[str, Role, str, str]] = Counter()
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

    def noting(self, grant: Grant, call: Call) -> Callable[[Outcome], None] | None:
        """Return what notes a call of one of the server's own methods, given its answer; None for others.

        Only what has changed something is noted.
        """
        if call.function not in _NOTED:
            return None

        def note(outcome: Outcome) -> None:
            if isinstance(outcome, Result) and outcome != WAS_DONE:
                args, named = bound(call)
                of = {**dict(zip(_NOTED[call.function], args, strict=False)), **named}
                task = of.get("task")
                self.note(
                    grant,
                    call.function.removeprefix(RESERVED),
                    function=of.get("function"),
                    task=None if task is None else str(task),
                )

        return note

    def submitted(self, grant: Grant, function: str, count: int, owner: str) -> None:
        """Note that tasks were submitted to the store: with others of the same second, as one entry.

        `owner` is whom they belong to.
        """
        if not self._submits:
            self._alarm.set(self._clock.seconds() + SUBMIT_SECONDS)
        self._submits[grant.owner, grant.role, function, owner] += count
        if len(self._submits) >= MAX_SUBMITTERS:
            self.note_submits()

    def note_submits(self) -> None:
        """Add the entries of the submits that were counted."""
        submits, self._submits = self._submits, Counter()
        now = self._now()
        for (submitter, role, function, owner), count in submits.items():
            text = None if owner == submitter else f"for {owner}"
            self._add(AuditEntry(now, submitter, role, "submit", function, None, count, text))

    def _add(self, entry: AuditEntry) -> None:
        self.unwritten.append(entry)
        self.on_entry()
