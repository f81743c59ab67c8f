"""Where a store in memory finds its tasks without looking at all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from heapq import heappop, heappush

from taskd.store.memory_limits import RECORD_BYTES, size_of
from taskd.store.records import ENDED, UNFINISHED, New, Record, State

__all__ = ["MemoryIndex"]


class MemoryIndex:
    """The records of a store by what they are looked for by.

    `change` has to be called for every change of a record. The queues keep
    entries of tasks that have left them, and skip those.
    """

    def __init__(self, records: dict[str, Record]) -> None:
        self._records = records
        self._waiting: dict[str, dict[str | None, list[tuple[int, float, str]]]] = {}
        self._scheduled: list[tuple[float, str]] = []
        self._deadlines: list[tuple[float, str]] = []
        self._keys: dict[tuple[str, str, str], str] = {}
        self.running: dict[str, None] = {}
        self.ended: dict[str, None] = {}
        """The ended tasks, in the order of their ends."""
        self.bytes = self.ended_bytes = 0
        """About what all records take, and what the ended ones among them do, without their events."""

    def change(self, old: Record | None, new: Record | None) -> None:
        """Note that a record has become another: None if it was not there, or is forgotten."""
        self._count(old, -1)
        self._count(new, 1)
        before = None if old is None else old.state
        if old is not None and (new is None or new.state is not before):
            self._leave(old)
        if new is not None and new.new.deadline is not None and (old is None or old.new != new.new):
            heappush(self._deadlines, (new.new.deadline, new.new.id))
        if new is not None and (before is not new.state or (old is not None and old.due != new.due)):
            self._enter(new)

    def _count(self, record: Record | None, sign: int) -> None:
        if record is not None:
            size = sign * (RECORD_BYTES + size_of(record.new.args, record.new.options, record.outcome))
            self.bytes += size
            if record.state in ENDED:
                self.ended_bytes += size

    def _leave(self, record: Record) -> None:
        task = record.new.id
        self.running.pop(task, None)
        self.ended.pop(task, None)
        key = _key(record.new)
        if key is not None and self._keys.get(key) == task:
            del self._keys[key]

    def _enter(self, record: Record) -> None:
        task, state = record.new.id, record.state
        if state is State.WAITING:
            self.wait(record)
        elif state is State.SCHEDULED:
            heappush(self._scheduled, (record.due, task))
        elif state is State.RUNNING:
            self.running[task] = None
        elif state in ENDED:
            self.ended[task] = None
        key = _key(record.new)
        if key is not None and state in UNFINISHED:
            self._keys[key] = task

    def wait(self, record: Record) -> None:
        """Put a waiting task into the queue of its function, from which `next_waiting` had taken it."""
        queues = self._waiting.setdefault(record.new.function, {})
        heappush(queues.setdefault(record.new.limit_key, []), record.turn())

    def like(self, new: New) -> str | None:
        """Return the unfinished task that has the key of a new one, None if none has, or that has no key."""
        key = _key(new)
        return None if key is None else self._keys.get(key)

    def limit_keys(self, function: str) -> list[str | None]:
        """Return the limit keys of which tasks of a function may wait."""
        return list(self._waiting.get(function, ()))

    def next_of_key(self, function: str, key: str | None, claimed: Collection[str]) -> Iterator[Record]:
        """Take waiting tasks with a limit key from the queue, in their order, but for those claimed."""
        while (record := self._first(function, key, claimed)) is not None:
            heappop(self._waiting[function][key])
            yield record

    def next_waiting(self, function: str, claimed: Collection[str]) -> Iterator[Record]:
        """Take waiting tasks from the queues, but for those that are claimed; those without a key first."""
        keys = self.limit_keys(function)
        for key in sorted(keys, key=lambda key: (key is not None, key or "")):
            yield from self.next_of_key(function, key, claimed)

    def _first(self, function: str, key: str | None, claimed: Collection[str]) -> Record | None:
        queues = self._waiting.get(function, {})
        queue = queues.get(key, [])
        while queue:
            turn = queue[0]
            record = self._records.get(turn[2])
            is_waiting = record is not None and record.state is State.WAITING and record.turn() == turn
            if is_waiting and turn[2] not in claimed:
                return record
            heappop(queue)
        if queues.pop(key, None) is not None and not queues:
            del self._waiting[function]
        return None

    def overdue(self, now: float) -> tuple[list[Record], float | None]:
        """Return the unstarted tasks whose deadlines have passed, in their order, and the next deadline."""
        found: dict[str, Record] = {}
        while self._deadlines:
            deadline, task = self._deadlines[0]
            record = self._records.get(task)
            if record is not None and record.is_unstarted and record.new.deadline == deadline:
                if deadline > now:
                    break
                found[task] = record
            heappop(self._deadlines)
        upcoming = self._deadlines[0][0] if self._deadlines else None
        for record in found.values():  # which have not ended yet
            heappush(self._deadlines, (record.new.deadline or 0.0, record.new.id))
        return list(found.values()), upcoming

    def next_due(self) -> Record | None:
        """Return the scheduled task that is due first."""
        while self._scheduled:
            due, task = self._scheduled[0]
            record = self._records.get(task)
            if record is not None and record.state is State.SCHEDULED and record.due == due:
                return record
            heappop(self._scheduled)
        return None


def _key(new: New) -> tuple[str, str, str] | None:
    """Return what no two unfinished tasks have in common."""
    return None if new.key is None else (new.owner, new.function, new.key)
