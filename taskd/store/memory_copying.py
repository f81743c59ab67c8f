"""Copies from and to the store in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from sys import maxsize

from taskd.store.audit import AuditEntry
from taskd.store.copying import (
    PAGE,
    CopiedBatch,
    CopiedTask,
    CopiedTick,
    Item,
    Loaded,
    Paused,
    missing,
    page_of,
)
from taskd.store.history import HistoryRow
from taskd.store.memory_audit import MemoryAudit
from taskd.store.memory_batches import MemoryBatches
from taskd.store.memory_history import MemoryHistory
from taskd.store.records import ENDED, Event, LastTick, Record

__all__ = ["MemoryCopies"]


class MemoryCopies:
    """Reads and adds what a store has. Implements `taskd.store.copying.CopyStore`.

    The dictionaries and sets are the store's own. `add` adds a task with its log; `trim`
    forgets ended tasks, if there are too many; `taken` returns what a task has that is another one's.
    """

    def __init__(
        self,
        records: Mapping[str, Record],
        events: Mapping[str, Sequence[Event]],
        batches: MemoryBatches,
        history: MemoryHistory,
        audit: MemoryAudit,
        ticks: dict[str, LastTick],
        paused: set[str],
        add: Callable[[CopiedTask], object],
        taken: Callable[[CopiedTask], Loaded | None],
        trim: Callable[[], object],
    ) -> None:
        self._records = records
        self._events = events
        self._batches = batches
        self._history = history
        self._audit = audit
        self._ticks = ticks
        self._paused = paused
        self._add = add
        self._taken = taken
        self._trim = trim

    def tasks(self, after: str, *, whole: bool) -> list[CopiedTask]:
        """Return tasks in the order of their ids."""
        found = sorted(
            task
            for task, record in self._records.items()
            if task > after and (whole or record.state not in ENDED)
        )
        copies = [CopiedTask(self._records[task], list(self._events[task])) for task in found[:PAGE]]
        ids = page_of((each.record.new.id, each.size) for each in copies)
        return copies[: len(ids)]

    def batches(self, after: str, *, whole: bool) -> list[CopiedBatch]:
        """Return batches in the order of their ids."""
        found = [each for each in self._batches.find(None, after, maxsize) if whole or each.ended is None]
        copies = [self._batches.copied(each.id) for each in found[:PAGE]]
        ids = page_of((each.record.id, each.size) for each in copies)
        return copies[: len(ids)]

    def marks(self) -> list[CopiedTick | Paused]:
        """Return what is paused, and the last ticks."""
        return [
            *(Paused(function) for function in sorted(self._paused)),
            *(CopiedTick(name, last) for name, last in sorted(self._ticks.items())),
        ]

    def history(self, after: HistoryRow | None) -> list[HistoryRow]:
        """Return rows of the history."""
        key = None if after is None else (after.seconds, after.at, after.function)
        rows = self._history.all()
        return [row for row in rows if key is None or (row.seconds, row.at, row.function) > key][:PAGE]

    def audit(self, after: int) -> list[AuditEntry]:
        """Return entries, the oldest first."""
        return [entry for entry in self._audit.all() if entry.number > after][:PAGE]

    def load(self, items: Sequence[Item]) -> list[Loaded]:
        """Add items as they are."""
        entries = [each for each in items if isinstance(each, AuditEntry)]
        are_new = iter(missing(entries, self._audit.all()))
        loaded: list[Loaded] = [self._load(item, are_new) for item in items]
        self._trim()
        return loaded

    def _load(self, item: Item, are_new: Iterator[bool]) -> Loaded:
        if isinstance(item, CopiedTask):
            if item.record.new.id in self._records:
                return "known"
            taken = self._taken(item)
            if taken is None:
                self._add(item)
            return taken or "copied"
        if isinstance(item, CopiedBatch):
            return self._batches.restore(item)
        if isinstance(item, CopiedTick):
            return self._load_tick(item)
        if isinstance(item, Paused):
            is_new = item.function not in self._paused
            self._paused.add(item.function)
            return "copied" if is_new else "known"
        if isinstance(item, HistoryRow):
            return "copied" if self._history.restore(item) else "known"
        if not next(are_new):
            return "known"
        self._audit.add([item], 0.0)
        return "copied"

    def _load_tick(self, item: CopiedTick) -> Loaded:
        known = self._ticks.get(item.name)
        if known is not None and (known.line != item.last.line or known.at >= item.last.at):
            return "known"
        self._ticks[item.name] = item.last
        return "copied"
