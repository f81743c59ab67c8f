"""The store in memory: everything but survival. It is the model that the others are compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from taskd.store.base import Batch, Filter, Overdue, Written
from taskd.store.records import (
    UNFINISHED,
    Accepted,
    Event,
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
)

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps tasks in dictionaries. Implements `taskd.store.base.Store`."""

    is_lasting = False

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._events: dict[str, list[Event]] = {}
        self._tokens: dict[str, str] = {}
        self._claimed: set[str] = set()
        self._ticks: dict[str, LastTick] = {}

    # --- one transaction each ---

    def write(self, batch: Batch, now: float) -> Written:
        """Write a batch."""
        if batch.shift is not None:
            self._shift(batch.shift)
        accepted = [self._submit(new, now) for new in batch.submits]
        ticked = [self._tick(tick, now) for tick in batch.ticks]
        stale = [start.id for start in batch.starts if not self._start(start, now)]
        stale += [event.task for event in batch.events if not self._note(event)]
        stale += [settle.id for settle in batch.settles if not self._settle(settle, now)]
        cancelled = [self._cancel(task, now) for task in batch.cancels]
        put_back = [self._put_back(task, now) for task in batch.put_backs]
        self._claimed.difference_update(batch.releases)
        claims = [record for function, count in batch.want.items() for record in self._claim(function, count)]
        return Written(accepted, stale, cancelled, put_back, claims, ticked)

    def _shift(self, shift: Shift) -> None:
        for task, record in self._records.items():
            if record.state in (State.SCHEDULED, State.WAITING) and not record.new.is_fixed:
                self._records[task] = msgspec.structs.replace(
                    record, new=record.new.moved(shift.seconds), due=record.due + shift.seconds
                )
        for name in shift.names:
            if (last := self._ticks.get(name)) is not None:
                self._ticks[name] = LastTick(last.line, last.at + shift.seconds)

    def _tick(self, tick: Tick, now: float) -> Accepted | None:
        last = self._ticks.get(tick.name)
        if last is not None and last.line == tick.line and last.at >= tick.at:
            return None
        self._ticks[tick.name] = LastTick(tick.line, tick.at)
        return None if tick.new is None else self._submit(tick.new, now)

    def _submit(self, new: New, now: float) -> Accepted:
        known = self._joined(new)
        if known is not None:
            return Accepted(known, joined=True)
        state = State.SCHEDULED if new.due > now else State.WAITING
        self._records[new.id] = Record(new, state, now, due=max(new.due, now))
        self._events[new.id] = []
        if new.token is not None:
            self._tokens[new.token] = new.id
        self._log(new.id, "queued", now)
        return Accepted(new.id)

    def _joined(self, new: New) -> str | None:
        if new.token is not None and new.token in self._tokens:
            return self._tokens[new.token]
        if new.key is None:
            return None
        return next(
            (
                each.new.id
                for each in self._records.values()
                if each.new.key == new.key and each.new.function == new.function and each.state in UNFINISHED
            ),
            None,
        )

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
        self._events[event.task].append(event)
        self._records[event.task] = msgspec.structs.replace(record, last_seq=event.seq)
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

    def _put_back(self, task: str, now: float) -> State | None:
        record = self._records.get(task)
        if record is None:
            return None
        if record.takes_by_hand(State.WAITING) and self._joined(record.new_key()) is None:
            self._change(record, State.WAITING, errors=0, losses=0, due=now, ended=None, outcome=None)
            self._log(task, "queued", now)
        return record.state

    def _claim(self, function: str, count: int) -> Iterator[Record]:
        waiting = [
            record
            for record in self._records.values()
            if record.state is State.WAITING
            and record.new.function == function
            and record.new.id not in self._claimed
        ]
        waiting.sort(key=Record.turn)
        for record in waiting[:count]:
            self._claimed.add(record.new.id)
            yield record

    def _change(self, record: Record, state: State, **changes: object) -> None:
        check_step(record.state, state)
        self._records[record.new.id] = msgspec.structs.replace(record, state=state, **changes)

    def _log(self, task: str, event: str, now: float, data: bytes = b"{}", least: int = 0) -> None:
        record = self._records[task]
        seq = max(record.last_seq + 1, first_seq(record.attempt), least)
        self._events[task].append(Event(task, seq, event, now, data))
        self._records[task] = msgspec.structs.replace(record, last_seq=seq)

    def rescue(self, now: float) -> int:
        """Make running tasks wait again."""
        running = [each for each in self._records.values() if each.state is State.RUNNING]
        for record in running:
            self._change(record, State.WAITING, losses=record.losses + 1, due=now)
            self._log(record.new.id, "lost", now)
        self._claimed.clear()
        return len(running)

    def promote(self, now: float, limit: int) -> float | None:
        """Let scheduled tasks that are due wait."""
        scheduled = [each for each in self._records.values() if each.state is State.SCHEDULED]
        scheduled.sort(key=lambda record: (record.due, record.new.id))
        due = [record for record in scheduled if record.due <= now][:limit]
        for record in due:
            self._change(record, State.WAITING)
        left = scheduled[len(due) :]
        return left[0].due if left else None

    def overdue(self, now: float, limit: int) -> Overdue:
        """Return tasks whose deadlines have passed."""
        unstarted = sorted(
            (record.new.deadline, record.new.id, record.state)
            for record in self._records.values()
            if record.new.deadline is not None
            and record.attempt == 0
            and record.state in (State.SCHEDULED, State.WAITING)
            and record.new.id not in self._claimed
        )
        over = [task for when, task, state in unstarted if when <= now and state is State.WAITING]
        return Overdue(over[:limit], next((when for when, _, _ in unstarted if when > now), None))

    def prune(self, now: float, limit: int) -> int:
        """Forget ended tasks."""
        over = [
            record
            for record in self._records.values()
            if record.ended is not None and record.ended + record.new.keep <= now
        ][:limit]
        for record in over:
            del self._records[record.new.id], self._events[record.new.id]
            if record.new.token is not None:
                del self._tokens[record.new.token]
        return len(over)

    # --- reading ---

    def get(self, id: str) -> Record | None:  # noqa: A002
        """Return a task."""
        return self._records.get(id)

    def ids_like(self, prefix: str, limit: int) -> list[str]:
        """Return ids that begin with `prefix`."""
        return sorted(task for task in self._records if task.startswith(prefix))[:limit]

    def find(self, wanted: Filter, after: str, limit: int) -> list[Record]:
        """Return tasks in the order of their ids."""
        found = [
            record
            for record in self._records.values()
            if record.new.id > after
            and (wanted.states is None or record.state in wanted.states)
            and (wanted.function is None or record.new.function == wanted.function)
            and (wanted.batch is None or record.new.batch == wanted.batch)
            and (wanted.key is None or record.new.key == wanted.key)
        ]
        return sorted(found, key=lambda record: record.new.id)[:limit]

    def events(self, task: str, after: int, limit: int) -> list[Event]:
        """Return events of a task."""
        return [event for event in self._events.get(task, ()) if event.seq > after][:limit]

    def last_ticks(self) -> dict[str, LastTick]:
        """Return the last tick of each schedule."""
        return dict(self._ticks)

    def counts(self) -> dict[tuple[str, State], int]:
        """Return how many tasks there are."""
        return dict(Counter((each.new.function, each.state) for each in self._records.values()))

    def close(self) -> None:
        """Do nothing."""
