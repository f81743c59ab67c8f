"""The audit log on its way to a store: what was noted in a second is written together."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.writer import Execute
from taskd.net.timers import Alarm
from taskd.server.audit import Audit
from taskd.store.audit import AuditEntry, AuditStore

__all__ = ["AuditLog"]

_log = Logger(namespace="taskd.audit")

WRITE_SECONDS = 1.0
"""Seconds until a new entry is written, with those that follow it: a commit each would cost much."""

RETRY_SECONDS = 10.0
"""Seconds after which entries are written again that a store has not taken."""


class AuditLog:
    """Keeps the entries of `audit` in a store; `now` returns the seconds since 1970."""

    def __init__(
        self,
        clock: IReactorTime,
        audit: Audit,
        store: Callable[[], AuditStore],
        execute: Execute,
        read: Execute,
        now: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._audit = audit
        self._store = store
        self._execute = execute
        self._read = read
        self._now = now
        self._alarm = Alarm(clock, self._write_soon)
        self._is_closed = False
        audit.on_entry = self._noted
        if audit.unwritten:
            self._noted()

    def _noted(self) -> None:
        self._alarm.set(self._clock.seconds() + WRITE_SECONDS)

    def _write_soon(self) -> None:
        if not self._is_closed:
            self._write()

    def _write(self) -> Deferred[None]:
        """Write what there is; fires when it is written, or cannot be."""
        entries, now = list(self._audit.unwritten), self._now()
        if not entries:
            return self._execute(lambda: None)  # after those that are being written
        self._audit.unwritten.clear()

        def failed(reason: TwistedFailure) -> None:
            error = reason.getErrorMessage()
            _log.error("{count} entries are not written yet: {error}", count=len(entries), error=error)
            # The deque drops the oldest ones if there are too many by now.
            newer = list(self._audit.unwritten)
            self._audit.unwritten.clear()
            self._audit.unwritten.extend([*entries, *newer])
            self._alarm.set(self._clock.seconds() + RETRY_SECONDS)

        return self._execute(lambda: self._store().add(entries, now)).addErrback(failed)

    def entries(
        self, before: int | None, limit: int, owner: str | None, action: str | None
    ) -> Deferred[list[AuditEntry]]:
        """Return entries whose numbers are below `before`, the newest first."""
        self._audit.note_submits()
        return self._write().addCallback(
            lambda _: self._read(lambda: self._store().read(before, limit, owner, action))
        )

    def close(self) -> Deferred[None]:
        """Write what is left."""
        self._is_closed = True
        self._audit.note_submits()
        return self._write()
