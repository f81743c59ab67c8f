"""Records of the work of a server: its history, its audit log, and its queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Protocol

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.audit_log import AuditLog
from taskd.durable.history import History
from taskd.durable.writer import Execute
from taskd.scheduler.states import GIVEN
from taskd.scheduler.task import Task
from taskd.server.audit import Audit
from taskd.server.operating import QueueRow
from taskd.server.sampling import Sampler
from taskd.store.audit import AuditEntry
from taskd.store.base import Store
from taskd.store.history import HistoryRow
from taskd.store.queued import Queued, largest

__all__ = ["Observed", "OperatorRecords"]

MAX_QUEUE_ROWS = 200
"""Rows of the queue that are shown one by one: more than anybody reads."""

COUNT_SECONDS = 0.5
"""Seconds for which counts of the store may be shown again, if many ask for them."""

COUNT_SHARE = 0.1
"""The part of the time that may be spent on counting: counting a million tasks takes a while."""


class Observed(Protocol):
    """The task server, as far as its records need it."""

    audit: Audit
    samples: Sampler

    def bare_tasks(self) -> Iterable[Task]:
        """Return the tasks that wait or run, but for stored ones."""


class OperatorRecords:
    """Keeps what operators ask for in a store. Implements `taskd.server.operating.Records`."""

    def __init__(
        self,
        clock: IReactorTime,
        server: Observed,
        store: Store,
        execute: Execute,
        read: Execute,
        now: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._server = server
        self._store = store
        self._read = read
        self._now = now
        self._history = History(clock, server.samples, lambda: store.history, execute, read, now)
        self._audit = AuditLog(clock, server.audit, lambda: store.audit, execute, read, now)
        self._counted: list[Queued] = []
        self._count_again = -inf
        self._counting: list[Deferred[list[Queued]]] = []

    def now(self) -> float:
        """Return the seconds since 1970."""
        return self._now()

    def history(self, seconds: int, function: str | None, since: float) -> Deferred[list[HistoryRow]]:
        """Return the history of a function, or of all."""
        return self._history.rows(seconds, function, since)

    def audit(
        self, after: int | None, limit: int, owner: str | None, action: str | None
    ) -> Deferred[list[AuditEntry]]:
        """Return entries of the audit log, newest first."""
        return self._audit.entries(after, limit, owner, action)

    def close(self) -> Deferred[None]:
        """Write what is left; fires when that is done, or cannot be."""
        written = DeferredList([self._history.close(), self._audit.close()])
        return written.addCallback(lambda _: None)

    # --- the queue ---

    def queue(self) -> Deferred[list[QueueRow]]:
        """Return the unfinished tasks by function and owner."""

        def rows(stored: list[Queued]) -> list[QueueRow]:
            found = {(row.function, row.owner): row for row in stored}
            for key, row in self._bare().items():
                found[key] = row + found[key] if key in found else row
            now = self._now()
            return [
                QueueRow(
                    row.function,
                    row.owner,
                    row.scheduled,
                    row.waiting,
                    row.running,
                    None if row.oldest is None else round(max(now - row.oldest, 0.0), 3),
                )
                for row in largest(found.values(), MAX_QUEUE_ROWS)
            ]

        return self._stored().addCallback(rows)

    def _bare(self) -> dict[tuple[str | None, str | None], Queued]:
        """Count the tasks that are not stored."""
        since = self._now() - self._clock.seconds()
        counts: dict[tuple[str, str], list[int]] = {}
        oldest: dict[tuple[str, str], float] = {}
        for task in self._server.bare_tasks():
            key = (task.stats.name, task.lane.party.owner)
            counts.setdefault(key, [0, 0])[task.state is GIVEN] += 1
            if task.state is not GIVEN:
                oldest.setdefault(key, since + task.received)  # the oldest task comes first
        return {
            (function, owner): Queued(function, owner, 0, count[0], count[1], oldest.get((function, owner)))
            for (function, owner), count in counts.items()
        }

    def _stored(self) -> Deferred[list[Queued]]:
        """Count the tasks of the store, unless they have just been counted, or are being counted."""
        began = self._clock.seconds()
        if began < self._count_again:
            return succeed(self._counted)
        waiting: Deferred[list[Queued]] = Deferred()
        self._counting.append(waiting)
        if len(self._counting) > 1:
            return waiting

        def counted(rows: list[Queued]) -> None:
            now = self._clock.seconds()
            self._count_again = now + max(COUNT_SECONDS, (now - began) / COUNT_SHARE)
            self._counted = rows
            for each in self._take_counting():
                each.callback(rows)

        def failed(reason: TwistedFailure) -> None:
            for each in self._take_counting():
                each.errback(reason)

        self._read(lambda: self._store.queued(MAX_QUEUE_ROWS)).addCallbacks(counted, failed)
        return waiting

    def _take_counting(self) -> list[Deferred[list[Queued]]]:
        counting, self._counting = self._counting, []
        return counting
