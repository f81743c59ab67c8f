"""Batches in the memory store."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Sequence
from itertools import islice

import msgspec
from msgspec.structs import replace

from taskd.store.batches import FAILED, BatchRecord, CancelledRows, NewBatch, Rows, follower
from taskd.store.copying import CopiedBatch, Loaded
from taskd.store.memory_owners import MemoryOwners
from taskd.store.records import ENDED, Allowance, Event, Full, New, State

__all__ = ["MemoryBatches", "is_like"]


class _Kept(msgspec.Struct):
    record: BatchRecord
    parts: Sequence[Rows]
    ids: list[str]


class MemoryBatches:
    """Keeps batches in dictionaries. Implements `taskd.store.batches.BatchStore`.

    `tasks` has the ids of the tasks that are stored. `submit` stores a task;
    `cancel` cancels one unless it is claimed or has ended, and returns the
    event, None if it has done nothing. `owners` counts what waits.
    """

    def __init__(
        self,
        tasks: Container[str],
        submit: Callable[[New, float], object],
        cancel: Callable[[str, float], Event | None],
        owners: MemoryOwners,
    ) -> None:
        self._stored = tasks
        self._submit = submit
        self._cancel = cancel
        self._owners = owners
        self._batches: dict[str, _Kept] = {}
        self._tokens: dict[tuple[str, str], str] = {}
        self._changed: dict[str, None] = {}

    def add(self, new: NewBatch, now: float, allowance: Allowance | None = None) -> BatchRecord | Full:
        """Accept a batch."""
        token = None if new.token is None else (new.task.owner, new.token)
        if token is not None and token in self._tokens:
            return self._batches[self._tokens[token]].record
        owner = new.task.owner
        full = self._owners.refusal(owner, allowance, new.total, new.size)
        if full is not None:
            return full
        self._owners.add(owner, new.total, new.size)
        record = BatchRecord(new.id, new.task, new.total, now, len(new.parts), new.keep, new.token, new.then)
        self._batches[new.id] = _Kept(record, new.parts, [each for part in new.parts for each in part.ids])
        if token is not None:
            self._tokens[token] = new.id
        self._changed[new.id] = None
        self.close(now)
        return self._batches[new.id].record

    def unpack(self, batch: str, now: float) -> BatchRecord | None:
        """Store the next part."""
        kept = self._batches.get(batch)
        if kept is None:
            return None
        record = kept.record
        if not record.is_stored:
            part = kept.parts[record.stored]
            self._owners.add(record.task.owner, -len(part.ids), -part.size)  # counted one by one now
            for task in part.tasks(record.task):
                self._submit(task, now)
            kept.record = replace(record, stored=record.stored + 1)
            if kept.record.is_stored:
                kept.parts = ()
        return kept.record

    def shift(self, seconds: float) -> None:
        """Move the times of tasks that are not stored yet, since the clock was set by `seconds`."""
        for kept in self._batches.values():
            if kept.record.ended is None and not kept.record.is_stored:
                kept.record = replace(kept.record, task=kept.record.task.moved(seconds))

    def cancel(self, batch: str) -> BatchRecord | None:
        """Note that a batch shall be cancelled."""
        kept = self._batches.get(batch)
        if kept is None:
            return None
        before = kept.record
        if before.ended is None:
            kept.record = replace(before, is_cancelled=True)
        return before

    def cancel_rows(self, batch: str, after: str, limit: int, now: float) -> CancelledRows:
        """Cancel tasks of a batch."""
        kept = self._batches.get(batch)
        if kept is None or kept.record.ended is not None:
            return CancelledRows([], None, self.get(batch))
        ids = kept.ids
        place = bisect_right(ids, after)
        stored = (ids[each] for each in range(place, len(ids)) if ids[each] in self._stored)
        looked = list(islice(stored, limit))
        events = [event for task in looked if (event := self._cancel(task, now)) is not None]
        self.close(now)
        return CancelledRows(events, looked[-1] if looked else None, self.get(batch))

    def get(self, batch: str) -> BatchRecord | None:
        """Return a batch."""
        kept = self._batches.get(batch)
        return None if kept is None else kept.record

    def tasks(self, batch: str) -> list[str]:
        """Return the ids of its tasks."""
        kept = self._batches.get(batch)
        return [] if kept is None else list(kept.ids)

    def unended(self) -> list[BatchRecord]:
        """Return the batches that have not ended."""
        return [kept.record for kept in self._batches.values() if kept.record.ended is None]

    def find(
        self, like: str | None, after: str, limit: int, owner: str | None = None, *, newest: bool = False
    ) -> list[BatchRecord]:
        """Return batches in the order of their ids."""
        found = [
            each
            for each, kept in self._batches.items()
            if ((not after or each < after) if newest else each > after)
            and is_like(each, like)
            and owner in (None, kept.record.task.owner)
        ]
        return [self._batches[each].record for each in sorted(found, reverse=newest)[:limit]]

    def copied(self, batch: str) -> CopiedBatch:
        """Return a batch with its parts; once all its tasks are stored, their ids are in the first one."""
        kept = self._batches[batch]
        record = kept.record
        if record.is_stored:
            parts = [Rows([], []) for _ in range(record.parts)]
            if parts:
                parts[0] = Rows(kept.ids, [])
        else:
            parts = [
                Rows(part.ids, []) if place < record.stored else part for place, part in enumerate(kept.parts)
            ]
        return CopiedBatch(record, parts, batch in self._changed)

    def restore(self, copied: CopiedBatch) -> Loaded:
        """Keep a copied batch as it is, unless it is there already or its token is another one's."""
        record, owner = copied.record, copied.record.task.owner
        if record.id in self._batches:
            return "known"
        if record.token is not None:
            if (owner, record.token) in self._tokens:
                return "token"
            self._tokens[owner, record.token] = record.id
        ids = [each for part in copied.parts for each in part.ids]
        is_forgotten = record.ended is not None and record.token is None
        parts = () if record.is_stored else copied.parts
        self._batches[record.id] = _Kept(record, parts, [] if is_forgotten else ids)
        for part in copied.unstored:
            self._owners.add(owner, len(part.ids), part.size)
        if copied.is_changed:
            self._changed[record.id] = None
        return "copied"

    # --- what happens to tasks ---

    def count(self, batch: str, old: State, new: State) -> None:
        """Count a task of a batch that goes from one state to another."""
        kept = self._batches.get(batch)
        if kept is None or old is new or not {old, new} & ENDED:
            return
        record = kept.record
        kept.record = replace(
            record,
            done=record.done + (new is State.SUCCEEDED) - (old is State.SUCCEEDED),
            failed=record.failed + (new in FAILED) - (old in FAILED),
            cancelled=record.cancelled + (new is State.CANCELLED) - (old is State.CANCELLED),
        )
        self._changed[batch] = None

    def close(self, now: float) -> list[BatchRecord]:
        """End the batches whose tasks have all ended; return all that have changed since the last call."""
        changed, self._changed = self._changed, {}
        for batch in changed:
            kept = self._batches[batch]
            if kept.record.ended is None and kept.record.over == kept.record.total:
                kept.record = replace(kept.record, ended=now)
                if (then := follower(kept.record)) is not None:
                    self._submit(then, now)
                if kept.record.token is None:
                    kept.ids = []  # nobody can ask for them again
        return [self._batches[batch].record for batch in sorted(changed)]

    def prune(self, now: float, limit: int) -> int:
        """Forget up to `limit` batches that ended long enough ago; return how many."""
        over = [
            kept.record
            for kept in self._batches.values()
            if kept.record.ended is not None and kept.record.ended + kept.record.keep <= now
        ][:limit]
        for record in over:
            del self._batches[record.id]
            self._changed.pop(record.id, None)
            if record.token is not None:
                del self._tokens[record.task.owner, record.token]
        return len(over)


def is_like(id: str, like: str | None) -> bool:  # noqa: A002
    """Return whether an id begins or ends with a text; any is like None."""
    return like is None or id.startswith(like) or id.endswith(like)
