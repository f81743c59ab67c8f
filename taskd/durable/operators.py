"""What is kept about the work of a server: its history, its audit log, and its queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from taskd.durable.history import History
from taskd.durable.writer import Execute
from taskd.scheduler.states import GIVEN
from taskd.scheduler.task import Task
from taskd.server.audit import Audit
from taskd.server.operating import QueueRow
from taskd.store.audit import AuditEntry
from taskd.store.base import Store
from taskd.store.history import HistoryRow
from taskd.store.records import State

__all__ = ["OperatorRecords"]


class OperatorRecords:
    """Reads what operators ask for from a store. Implements `taskd.server.operating.Records`."""

    def __init__(
        self,
        clock: IReactorTime,
        history: History,
        audit: Audit,
        bare_tasks: Callable[[], Iterable[Task]],
        store: Store,
        read: Execute,
        now: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._history = history
        self._audit = audit
        self._bare_tasks = bare_tasks
        self._store = store
        self._read = read
        self._now = now

    def now(self) -> float:
        """Return the seconds since 1970."""
        return self._now()

    def history(self, seconds: int, function: str | None, since: float) -> Deferred[list[HistoryRow]]:
        """Return the history of a function, or of all."""
        return self._history.rows(seconds, function, since)

    def queue(self) -> Deferred[list[QueueRow]]:
        """Return the unfinished tasks by function and owner."""
        now = self._clock.seconds()
        bare: dict[tuple[str, str], list[float]] = {}
        for task in self._bare_tasks():
            counts = bare.setdefault((task.stats.name, task.lane.party.owner), [0, 0, now])
            counts[1 if task.state is GIVEN else 0] += 1
            if task.state is not GIVEN:
                counts[2] = min(counts[2], task.received)

        def rows(stored: dict[tuple[str, State], int]) -> list[QueueRow]:
            found: dict[tuple[str, str], QueueRow] = {}
            for function in {function for function, _ in stored}:
                scheduled, waiting, running = (
                    stored.get((function, state), 0)
                    for state in (State.SCHEDULED, State.WAITING, State.RUNNING)
                )
                found[function, ""] = QueueRow(function, "", scheduled, waiting, running, None)
            for (function, owner), (waits, runs, oldest) in bare.items():
                known = found.get((function, owner), QueueRow(function, owner, 0, 0, 0, None))
                found[function, owner] = QueueRow(
                    function,
                    owner,
                    known.scheduled,
                    known.waiting + int(waits),
                    known.running + int(runs),
                    round(now - oldest, 3) if waits else known.oldest,
                )
            return [row for row in found.values() if row.scheduled or row.waiting or row.running]

        return self._read(self._store.counts).addCallback(rows)

    def audit(
        self, after: int | None, limit: int, owner: str | None, action: str | None
    ) -> Deferred[list[AuditEntry]]:
        """Return entries of the audit log, newest first."""
        self._audit.note_submits()
        numbered = [
            entry
            for entry in reversed(self._audit.unwritten)
            if owner in (None, entry.owner) and action in (None, entry.action)
        ]
        return self._read(lambda: numbered[:limit])
