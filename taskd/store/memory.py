"""The store in memory: everything but survival. It is the model that the others are compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

import msgspec

from taskd.store.base import Changes, Filter, KeyedWant, Overdue, Own, Want, Written
from taskd.store.copying import CopiedTask, Loaded
from taskd.store.memory_audit import MemoryAudit
from taskd.store.memory_batches import MemoryBatches, is_like
from taskd.store.memory_copying import MemoryCopies
from taskd.store.memory_history import MemoryHistory
from taskd.store.memory_index import MemoryIndex
from taskd.store.memory_limits import EVENT_BYTES, MemoryLimits, size_of
from taskd.store.memory_owners import MemoryOwners
from taskd.store.queued import Queued, largest
from taskd.store.records import (
    CANCELLABLE,
    UNFINISHED,
    Accepted,
    Allowance,
    Event,
    Full,
    LastTick,
    New,
    Record,
    Settle,
    Shift,
    Start,
    State,
    Tick,
    check_step,
    first_seq,
    last_seq,
)

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps tasks in dictionaries. Implements `taskd.store.base.Store`."""

    is_lasting = False
    nodes = None

    def __init__(self, limits: MemoryLimits | None = None) -> None:
        self._limits = limits or MemoryLimits()
        self._records: dict[str, Record] = {}
        self._index = MemoryIndex(self._records)
        self._owners = MemoryOwners()
        self._events: dict[str, list[Event]] = {}
        self._event_bytes = 0
        self._tokens: dict[tuple[str, str], str] = {}
        self._claimed: set[str] = set()
        self._ticks: dict[str, LastTick] = {}
        self._logged: list[Event] = []
        self.batches = MemoryBatches(self._records, self._submit, self._cancel_unclaimed, self._owners)
        self._paused: set[str] = set()
        self.history = MemoryHistory()
        self.audit = MemoryAudit()
        self.copies = MemoryCopies(
            *(self._records, self._events, self.batches, self.history, self.audit, self._ticks, self._paused),
            *(self._restore, self._taken, self._trim),
        )

    @property
    def room(self) -> float:
        """The number of bytes of new tasks that fit, once every ended task is forgotten."""
        index = self._index
        events = 0 if index.ended else self._event_bytes
        return max(self._limits.bytes - (index.bytes - index.ended_bytes) - events, 0)

    # --- one transaction each ---

    def write(self, batch: Changes, now: float) -> Written:
        """Write a batch."""
        self._logged = []
        if batch.shift is not None:
            self._shift(batch.shift)
        accepted = [self._accept(new, now, batch.allowances.get(new.id)) for new in batch.submits]
        ticked = [self._tick(tick, now) for tick in batch.ticks]
        own = Own(
            [self._start(start, now) for start in batch.starts],
            [self._note(event) for event in batch.events],
            [self._settle(settle, now) for settle in batch.settles],
        )
        cancelled = [self._cancel(task, now) for task in batch.cancels]
        put_back = [self._put_back(task, now) for task in batch.put_backs]
        self._release(batch.releases)
        changed = self.batches.close(now)
        claims = [record for function, want in batch.want.items() for record in self._claim(function, want)]
        self._trim()
        return Written(accepted, own, cancelled, put_back, claims, self._logged, changed, ticked)

    def _shift(self, shift: Shift) -> None:
        for record in list(self._records.values()):
            if record.state in (State.SCHEDULED, State.WAITING) and not record.new.is_fixed:
                moved = record.new.moved(shift.seconds)
                self._put(msgspec.structs.replace(record, new=moved, due=record.due + shift.seconds))
        self.batches.shift(shift.seconds)
        for name in shift.names:
            if (last := self._ticks.get(name)) is not None:
                self._ticks[name] = LastTick(last.line, last.at + shift.seconds)

    def _tick(self, tick: Tick, now: float) -> Accepted | None:
        last = self._ticks.get(tick.name)
        if last is not None and last.line == tick.line and last.at >= tick.at:
            return None
        self._ticks[tick.name] = LastTick(tick.line, tick.at)
        return None if tick.new is None else self._submit(tick.new, now)

    def _accept(self, new: New, now: float, allowance: Allowance | None) -> Accepted | Full:
        if allowance is not None and self._joined(new) is None:
            full = self._owners.refusal(new.owner, allowance, 1, size_of(new.args))
            if full is not None:
                return full
        return self._submit(new, now)

    def _submit(self, new: New, now: float) -> Accepted:
        known = self._joined(new)
        if known is not None:
            return Accepted(known, joined=True)
        state = State.SCHEDULED if new.due > now else State.WAITING
        self._put(Record(new, state, now, due=max(new.due, now)))
        self._events[new.id] = []
        if new.token is not None:
            self._tokens[new.owner, new.token] = new.id
        self._log(new.id, "queued", now)
        return Accepted(new.id)

    def _joined(self, new: New) -> str | None:
        if new.token is not None and (new.owner, new.token) in self._tokens:
            return self._tokens[new.owner, new.token]
        return self._index.like(new)

    def _start(self, start: Start, now: float) -> bool:
        record = self._records.get(start.id)
        if record is None or record.state is not State.WAITING or start.attempt != record.attempt + 1:
            return False
        self._change(record, State.RUNNING, attempt=start.attempt)
        self._log(start.id, "started", now, b'{"attempt":%d}' % start.attempt)
        return True

    def _note(self, event: Event) -> bool:
        record = self._records.get(event.task)
        if record is None or record.state is not State.RUNNING or event.seq <= record.last_seq:
            return False
        log = self._events[event.task]
        if event.event == log[-1].event == "progress":
            self._event_bytes -= _size(log.pop())
        self._append(event)
        return True

    def _settle(self, settle: Settle, now: float) -> bool:
        record = self._records.get(settle.id)
        if (
            record is None
            or record.state not in (State.RUNNING, settle.source)
            or record.attempt != settle.attempt
        ):
            return False
        ended = settle.state not in UNFINISHED
        self._change(
            record,
            settle.state,
            errors=record.errors + settle.is_error,
            losses=record.losses + settle.is_loss,
            due=settle.due or now,
            ended=now if ended else None,
            outcome=settle.outcome,
        )
        self._claimed.discard(settle.id)
        self._log(settle.id, settle.event, now, settle.data, settle.seq)
        return True

    def _cancel(self, task: str, now: float) -> State | None:
        record = self._records.get(task)
        if record is None:
            return None
        if record.takes_by_hand(State.CANCELLED):
            self._change(record, State.CANCELLED, ended=now, outcome=None)
            self._claimed.discard(task)
            self._log(task, "cancelled", now)
        return record.state

    def _cancel_unclaimed(self, task: str, now: float) -> Event | None:
        record = self._records.get(task)
        if record is None or task in self._claimed or record.state not in CANCELLABLE:
            return None
        self._cancel(task, now)
        return self._events[task][-1]

    def _put_back(self, task: str, now: float) -> State | None:
        record = self._records.get(task)
        if record is None:
            return None
        if record.takes_by_hand(State.WAITING) and self._joined(record.new_key()) is None:
            self._change(record, State.WAITING, errors=0, losses=0, due=now, ended=None, outcome=None)
            self._log(task, "queued", now)
        return record.state

    def _release(self, tasks: Iterable[str]) -> None:
        for task in tasks:
            if task in self._claimed:
                self._claimed.discard(task)
                if (record := self._records.get(task)) is not None and record.state is State.WAITING:
                    self._index.wait(record)

    def _claim(self, function: str, want: Want) -> Iterator[Record]:
        if isinstance(want, int):
            waiting = islice(self._index.next_waiting(function, self._claimed), want)
        else:
            waiting = islice(self._waiting_by_key(function, want), want.count)
        for record in waiting:
            self._claimed.add(record.new.id)
            yield record

    def _waiting_by_key(self, function: str, want: KeyedWant) -> Iterator[Record]:
        rooms: Iterable[tuple[str | None, int]]
        if want.keys is not None:
            rooms = want.keys.items()
        else:
            keys = sorted(key for key in self._index.limit_keys(function) if key is not None)
            keys.sort(key=lambda key: key <= want.after)
            rooms = [(key, want.room(key)) for key in keys]
        for key, room in rooms:
            yield from islice(self._index.next_of_key(function, key, self._claimed), room)
        if want.with_unkeyed:
            yield from islice(self._index.next_of_key(function, None, self._claimed), want.room(None))

    def _change(self, record: Record, state: State, **changes: object) -> None:
        check_step(record.state, state)
        self._put(msgspec.structs.replace(record, state=state, **changes))
        if record.new.batch is not None:
            self.batches.count(record.new.batch, record.state, state)

    def _put(self, record: Record) -> None:
        old = self._records.get(record.new.id)
        self._index.change(old, record)
        self._owners.count(old, -1)
        self._owners.count(record, 1)
        self._records[record.new.id] = record

    def _log(self, task: str, event: str, now: float, data: bytes = b"{}", least: int = 0) -> None:
        record = self._records[task]
        seq = max(record.last_seq + 1, first_seq(record.attempt), least)
        self._append(Event(task, seq, event, now, data))

    def _append(self, event: Event) -> None:
        self._events[event.task].append(event)
        self._event_bytes += _size(event)
        record = self._records[event.task]
        self._records[event.task] = msgspec.structs.replace(record, last_seq=event.seq)
        self._logged.append(event)

    def _restore(self, copied: CopiedTask) -> None:
        """Keep a copied task as it is."""
        new = copied.record.new
        self._put(copied.record)
        self._events[new.id] = list(copied.events)
        self._event_bytes += sum(map(_size, copied.events))
        if new.token is not None:
            self._tokens[new.owner, new.token] = new.id

    def _taken(self, copied: CopiedTask) -> Loaded | None:
        """Return what a copied task has that is another one's."""
        new = copied.record.new
        if new.token is not None and (new.owner, new.token) in self._tokens:
            return "token"
        is_taken = copied.record.state in UNFINISHED and self._index.like(new) is not None
        return "key" if is_taken else None

    def _trim(self) -> None:
        """Forget the oldest ended tasks, if there are too many or everything takes too much."""
        limits, index = self._limits, self._index
        while index.ended and (
            len(index.ended) > limits.ended or index.bytes + self._event_bytes > limits.bytes
        ):
            self._forget(next(iter(index.ended)))

    def _forget(self, task: str) -> None:
        record = self._records.pop(task)
        self._index.change(record, None)
        self._event_bytes -= sum(map(_size, self._events.pop(task)))
        if record.new.token is not None:
            del self._tokens[record.new.owner, record.new.token]

    def rescue(self, now: float, once: Collection[str] = (), error: bytes | None = None) -> int:
        """Make running tasks wait again, or fail if they are to run once."""
        running = list(self._index.running)
        for task in running:
            record = self._records[task]
            last = last_seq(record.attempt)
            losses = record.losses + 1
            if record.new.function in once:
                self._change(record, State.FAILED, losses=losses, due=now, ended=now, outcome=error)
                self._log(task, "failed", now, b'{"error":%b}' % (error or b"null"), last)
            else:
                self._change(record, State.WAITING, losses=losses, due=now)
                self._log(task, "lost", now, least=last)
        self._release(list(self._claimed))
        return len(running)

    def promote(self, now: float, limit: int) -> float | None:
        """Let scheduled tasks that are due wait."""
        for _ in range(limit):
            record = self._index.next_due()
            if record is None or record.due > now:
                break
            self._change(record, State.WAITING)
        left = self._index.next_due()
        return None if left is None else left.due

    def overdue(self, now: float, limit: int) -> Overdue:
        """Return tasks whose deadlines have passed."""
        found, upcoming = self._index.overdue(now)
        over = [
            record.new.id
            for record in found
            if record.state is State.WAITING and record.new.id not in self._claimed
        ]
        return Overdue(over[:limit], upcoming)

    def prune(self, now: float, limit: int) -> int:
        """Forget ended tasks."""
        ended = (self._records[task] for task in self._index.ended)
        over = [record.new.id for record in ended if self._is_over(record, now)][:limit]
        for task in over:
            self._forget(task)
        return len(over) + self.batches.prune(now, limit - len(over))

    def _is_over(self, record: Record, now: float) -> bool:
        return record.ended is not None and record.ended + min(record.new.keep, self._limits.seconds) <= now

    def pause(self, function: str, *, paused: bool) -> bool:
        """Note that a function is paused, or is not any more."""
        was = function in self._paused
        (self._paused.add if paused else self._paused.discard)(function)
        return was

    # --- reading ---

    def paused(self) -> list[str]:
        """Return the functions that are paused."""
        return sorted(self._paused)

    def get(self, id: str) -> Record | None:  # noqa: A002
        """Return a task."""
        return self._records.get(id)

    def find(self, wanted: Filter, after: str, limit: int) -> list[Record]:
        """Return tasks in the order of their ids."""
        found = [
            record
            for record in self._records.values()
            if ((not after or record.new.id < after) if wanted.newest else record.new.id > after)
            and (wanted.states is None or record.state in wanted.states)
            and (wanted.function is None or record.new.function == wanted.function)
            and (wanted.batch is None or (record.new.batch or "") == wanted.batch)
            and (wanted.key is None or record.new.key == wanted.key)
            and wanted.owner in (None, record.new.owner)
            and (wanted.error is None or wanted.error in _error(record))
            and is_like(record.new.id, wanted.like)
        ]
        records = sorted(found, key=lambda record: record.new.id, reverse=wanted.newest)[:limit]
        return [record.brief() for record in records] if wanted.is_brief else records

    def events(self, task: str, after: int, limit: int) -> list[Event]:
        """Return events of a task."""
        return [event for event in self._events.get(task, ()) if event.seq > after][:limit]

    def has_owners(self) -> bool:
        """Return whether any task has an owner."""
        return any(record.new.owner for record in self._records.values())

    def last_ticks(self) -> dict[str, LastTick]:
        """Return the last tick of each schedule."""
        return dict(self._ticks)

    def queued(self, limit: int) -> list[Queued]:
        """Return how many unfinished tasks there are."""
        found: dict[tuple[str, str], Queued] = {}
        for record in self._records.values():
            if (state := record.state) in UNFINISHED:
                new, waits = record.new, state is State.WAITING
                found[new.function, new.owner] = found.get(
                    (new.function, new.owner), Queued(new.function, new.owner)
                ) + Queued(
                    None,
                    None,
                    int(state is State.SCHEDULED),
                    int(waits),
                    int(state is State.RUNNING),
                    record.due if waits else None,
                )
        return largest(found.values(), limit)

    def counts(self) -> dict[tuple[str, State], int]:
        """Return how many tasks there are."""
        return dict(Counter((each.new.function, each.state) for each in self._records.values()))

    def close(self) -> None:
        """Do nothing."""


def _size(event: Event) -> int:
    return EVENT_BYTES + size_of(event.data)


def _error(record: Record) -> bytes:
    return b"" if record.state is State.SUCCEEDED else record.outcome or b""
