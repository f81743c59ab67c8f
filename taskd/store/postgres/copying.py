"""Copies from and to a PostgreSQL store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec
from msgspec.structs import replace

from taskd.store.audit import AuditEntry
from taskd.store.batches import Rows
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
    takers,
)
from taskd.store.history import Figures, HistoryRow
from taskd.store.postgres.accepting import KEY, TOKEN, Unique, hold_unique, known_of
from taskd.store.postgres.batches import BATCH_COLUMNS, KIND, batch_of
from taskd.store.postgres.literals import datas, flags, from_text, numbers, optional_texts, texts
from taskd.store.postgres.reading import EVENTS, RECORD, Read, all_sources
from taskd.store.postgres.rows import NEW_COLUMNS, record_of
from taskd.store.postgres.transaction import Retry, Transaction
from taskd.store.records import Event, LastTick, Record

__all__ = ["PostgresCopies"]

_LOCK_KEY = 0x636F7079
_LOCK = f"SELECT pg_advisory_xact_lock({_LOCK_KEY})"
"""One copy is written at a time ("copy" in ASCII): so an id that is not there stays so until the commit."""

_UNFINISHED = ("later", "ready", "lease")
_IDS = """
SELECT t.id, coalesce(length(t.args), 0) + f.size FROM ({parts}) AS f JOIN taskd.task AS t ON t.id = f.id
ORDER BY t.id LIMIT $2::int
"""
_SIZES = {"ended": "coalesce(length(outcome), 0)"}
_RECORDS = (
    f"SELECT {NEW_COLUMNS}, {RECORD} FROM ("
    + " UNION ALL ".join(
        f"SELECT {columns} FROM {source} WHERE s.id = ANY($1::text[])" for columns, source in all_sources()
    )
    + ") AS f JOIN taskd.task AS t ON t.id = f.id ORDER BY t.id"
)
_LOGS = (
    EVENTS.replace("= $1::text", "= ANY($1::text[])")
    .replace("WHERE seq > $2::bigint ORDER BY seq LIMIT $3::int", "ORDER BY task, seq")
)  # fmt: skip
_BATCH_IDS = """
SELECT id, (SELECT coalesce(sum(length(rows)), 0) FROM taskd.batch_part WHERE batch = b.id)::bigint
FROM taskd.batch AS b WHERE id > $1::text{which} ORDER BY id LIMIT $2::int
"""
_PARTS = "SELECT batch, rows FROM taskd.batch_part WHERE batch = ANY($1::text[]) ORDER BY batch, place"
_BATCHES = f"SELECT {BATCH_COLUMNS}, changed FROM taskd.batch AS s WHERE id = ANY($1::text[]) ORDER BY id"
_HISTORY = """
SELECT seconds, at, function, figures FROM taskd.history
WHERE (seconds, at, function) > ($1::int, $2::bigint, $3::text)
ORDER BY seconds, at, function LIMIT $4::int
"""
_AUDIT = "SELECT number, entry FROM taskd.audit WHERE number > $1::bigint ORDER BY number LIMIT $2::int"

_KNOWN = "SELECT id FROM taskd.task WHERE id = ANY($1::text[])"
_KNOWN_BATCHES = "SELECT id FROM taskd.batch WHERE id = ANY($1::text[])"
_PLACE = """
    SELECT id, function, limit_key, priority, due, CASE WHEN attempt = 0 THEN deadline END, owner, batch,
        coalesce(length(args), 0), attempt, errors, losses, last_seq, keep, key IS NOT NULL"""
_ADD = f"""
WITH new AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::int[], $6::float8[], $7::float8[], $8::text[],
        $9::text[], $10::text[], $11::float8[], $12::boolean[], $13::text[], $14::text[], $15::int[],
        $16::float8[], $17::int[], $18::int[], $19::int[], $20::float8[], $21::float8[], $22::bytea[],
        $23::bigint[], $24::text[], $25::bytea[]
    ) AS n(id, function, args, options, priority, wanted, deadline, key, token, batch, keep, fixed, limit_key,
        owner, state, created, attempt, errors, losses, due, ended, outcome, last_seq, event, data)
), body AS (
    INSERT INTO taskd.task
    SELECT id, function, args, options, priority, wanted, deadline, key, token, batch, keep, fixed, limit_key,
        owner, created
    FROM new
), scheduled AS (
    INSERT INTO taskd.later {_PLACE} FROM new WHERE state = 0
), waiting AS (
    INSERT INTO taskd.ready {_PLACE} FROM new WHERE state = 1
)
INSERT INTO taskd.ended
SELECT id, function, owner, batch, state, attempt, errors, losses, due, ended, outcome, last_seq,
    ended + keep, NULL, NULL, event, data
FROM new WHERE state > 2
"""
_ADD_BATCH = """
INSERT INTO taskd.batch (id, task, total, created, parts, keep, token, follower, owner, stored, done, failed,
    cancelled, is_cancelled, ended, unstored, unstored_bytes, changed)
VALUES ($1::text, $2::bytea, $3::int, $4::float8, $5::int, $6::float8, $7::text, $8::bytea, $9::text,
    $10::int, $11::int, $12::int, $13::int, $14::boolean, $15::float8, $16::int, $17::bigint, $18::boolean)
"""
_ADD_PARTS = """
INSERT INTO taskd.batch_part
SELECT $1::text, place, rows FROM unnest($2::int[], $3::bytea[]) AS p(place, rows)
"""
_ADD_TICK = """
INSERT INTO taskd.schedule AS s VALUES ($1::text, $2::text, $3::float8)
ON CONFLICT (name) DO UPDATE SET last = $3::float8 WHERE s.line = $2::text AND s.last < $3::float8
RETURNING 1
"""
_ADD_PAUSED = "INSERT INTO taskd.paused VALUES ($1::text) ON CONFLICT DO NOTHING RETURNING 1"
_ADD_HISTORY = """
INSERT INTO taskd.history VALUES ($1::int, $2::bigint, $3::text, $4::bytea) ON CONFLICT DO NOTHING RETURNING 1
"""
_ENTRIES = "SELECT entry FROM taskd.audit WHERE at BETWEEN $1::float8 AND $2::float8"
_ADD_ENTRY = """
INSERT INTO taskd.audit (at, owner, action, entry) VALUES ($1::float8, $2::text, $3::text, $4::bytea)
"""

_KINDS = {"token": TOKEN, "key": KEY}

_rows = msgspec.msgpack.Decoder(Rows)
_figures = msgspec.json.Decoder(Figures)
_entry = msgspec.json.Decoder(AuditEntry)
_packed = msgspec.msgpack.Encoder().encode


class PostgresCopies:
    """Reads and adds what a database has. Implements `taskd.store.copying.CopyStore`.

    `run` runs a function in a transaction of the store, `read` reads rows.
    """

    def __init__(self, run: Callable[[Callable[[Transaction], Any]], Any], read: Read) -> None:
        self._run = run
        self._read = read

    def tasks(self, after: str, *, whole: bool) -> list[CopiedTask]:
        """Return tasks in the order of their ids. Raises `StoreError`."""
        tables = (*_UNFINISHED, "ended") if whole else _UNFINISHED
        parts = " UNION ALL ".join(
            f"(SELECT id, {_SIZES.get(table, '0')} AS size FROM taskd.{table} WHERE id > $1::text "
            "ORDER BY id LIMIT $2::int)"
            for table in tables
        )
        ids = texts(page_of(self._read(_IDS.format(parts=parts), after, PAGE)))
        events = self._read(_LOGS, ids)
        logs = {task: [Event(*row) for row in log] for task, log in groupby(events, lambda row: row[0])}
        return [CopiedTask(record_of(row), logs.get(row[0], [])) for row in self._read(_RECORDS, ids)]

    def batches(self, after: str, *, whole: bool) -> list[CopiedBatch]:
        """Return batches in the order of their ids. Raises `StoreError`."""
        which = "" if whole else " AND ended IS NULL"
        ids = texts(page_of(self._read(_BATCH_IDS.format(which=which), after, PAGE)))
        found = groupby(self._read(_PARTS, ids), lambda row: row[0])
        parts = {batch: [_rows.decode(rows) for _, rows in its] for batch, its in found}
        return [
            CopiedBatch(batch_of(row[:-1]), parts.get(row[0], []), row[-1])
            for row in self._read(_BATCHES, ids)
        ]

    def marks(self) -> list[CopiedTick | Paused]:
        """Return what is paused, and the last ticks. Raises `StoreError`."""
        paused = self._read("SELECT function FROM taskd.paused ORDER BY function")
        ticks = self._read("SELECT name, line, last FROM taskd.schedule ORDER BY name")
        return [
            *(Paused(from_text(function) or "") for (function,) in paused),
            *(
                CopiedTick(from_text(name) or "", LastTick(from_text(line) or "", at))
                for name, line, at in ticks
            ),
        ]

    def history(self, after: HistoryRow | None) -> list[HistoryRow]:
        """Return rows of the history. Raises `StoreError`."""
        key = (0, 0, "") if after is None else (after.seconds, after.at, after.function)
        return [
            HistoryRow(seconds, at, from_text(function) or "", _figures.decode(figures))
            for seconds, at, function, figures in self._read(_HISTORY, *key, PAGE)
        ]

    def audit(self, after: int) -> list[AuditEntry]:
        """Return entries, the oldest first. Raises `StoreError`."""
        return [
            replace(_entry.decode(entry), number=number) for number, entry in self._read(_AUDIT, after, PAGE)
        ]

    def load(self, items: Sequence[Item]) -> list[Loaded]:
        """Add items as they are. Raises `StoreError`."""

        def load(transaction: Transaction) -> list[Loaded]:
            transaction.execute(_LOCK)
            loaded = _load_tasks(transaction, [each for each in items if isinstance(each, CopiedTask)])
            are_new = _new_entries(transaction, [each for each in items if isinstance(each, AuditEntry)])
            return [
                next(loaded) if isinstance(item, CopiedTask) else _load(transaction, item, are_new)
                for item in items
            ]

        answers: list[Loaded] = self._run(load)
        return answers


def _load(
    transaction: Transaction,
    item: CopiedBatch | CopiedTick | Paused | HistoryRow | AuditEntry,
    are_new: Iterator[bool],
) -> Loaded:
    if isinstance(item, CopiedBatch):
        return _load_batch(transaction, item)
    if isinstance(item, AuditEntry):
        is_new = next(are_new)
        if is_new:
            entry = msgspec.json.encode(replace(item, number=0))
            transaction.execute(_ADD_ENTRY, item.at, item.owner, item.action, entry)
        return "copied" if is_new else "known"
    if isinstance(item, CopiedTick):
        added = transaction.rows(_ADD_TICK, item.name, item.last.line, item.last.at)
    elif isinstance(item, Paused):
        added = transaction.rows(_ADD_PAUSED, item.function)
    else:
        figures = msgspec.json.encode(item.figures)
        added = transaction.rows(_ADD_HISTORY, item.seconds, item.at, item.function, figures)
    return "copied" if added else "known"


def _load_tasks(transaction: Transaction, items: Sequence[CopiedTask]) -> Iterator[Loaded]:
    if not items:
        return iter(())
    known = {task for (task,) in transaction.rows(_KNOWN, texts([each.record.new.id for each in items]))}
    taken = set(known_of(transaction, {each for item in items for _, each in _unique(item)}))
    answers: list[Loaded] = []
    added: list[CopiedTask] = []
    held: list[tuple[Unique, str]] = []
    for item in items:
        task = item.record.new.id
        conflict = next((what for what, each in _unique(item) if each in taken), None)
        if task in known:
            answers.append("known")
        elif conflict is not None:
            answers.append(conflict)
        else:
            answers.append("copied")
            added.append(item)
            known.add(task)
            its = [(each, task) for _, each in _unique(item)]
            taken.update(each for each, _ in its)
            held += its
    if hold_unique(transaction, held) < len(held):
        raise Retry
    if added:
        _add(transaction, added)
    return iter(answers)


def _unique(item: CopiedTask) -> Iterator[tuple[Loaded, Unique]]:
    for what, owner, function, value in takers(item):
        yield what, (_KINDS[what], owner, function, value)


def _add(transaction: Transaction, items: Sequence[CopiedTask]) -> None:
    records = [item.record for item in items]
    news = [record.new for record in records]
    ends = [_end(item) for item in items]
    transaction.execute(
        _ADD,
        texts([new.id for new in news]),
        texts([new.function for new in news]),
        datas([new.args for new in news]),
        datas([new.options for new in news]),
        numbers([new.priority for new in news]),
        numbers([new.due for new in news]),
        numbers([new.deadline for new in news]),
        optional_texts([new.key for new in news]),
        optional_texts([new.token for new in news]),
        optional_texts([new.batch for new in news]),
        numbers([new.keep for new in news]),
        flags([new.is_fixed for new in news]),
        optional_texts([new.limit_key for new in news]),
        texts([new.owner for new in news]),
        numbers([int(record.state) for record in records]),
        *(numbers([getattr(record, name) for record in records]) for name in _NUMBERS),
        datas([record.outcome for record in records]),
        numbers([record.last_seq for record in records]),
        optional_texts([None if end is None else end.event for end in ends]),
        datas([None if end is None else end.data for end in ends]),
    )
    transaction.write_log(
        [
            event
            for item, end in zip(items, ends, strict=True)
            for event in item.events
            if event.seq > 1 and event is not end
        ]
    )


_NUMBERS = ("created", "attempt", "errors", "losses", "due", "ended")


def _end(item: CopiedTask) -> Event | None:
    """Return the last event of a task that has ended, which has no row of its own."""
    record: Record = item.record
    if record.ended is None:
        return None
    last = item.events[-1] if item.events else None
    if last is not None and last.seq == record.last_seq and last.seq > 1:
        return last
    return Event(record.new.id, record.last_seq, record.state.name.lower(), record.ended)


def _load_batch(transaction: Transaction, item: CopiedBatch) -> Loaded:
    record, owner = item.record, item.record.task.owner
    if transaction.rows(_KNOWN_BATCHES, texts([record.id])):
        return "known"
    if record.token is not None:
        unique = (KIND, owner, "", record.token)
        if known_of(transaction, [unique]):
            return "token"
        if not hold_unique(transaction, [(unique, record.id)]):
            raise Retry
    unstored = item.unstored
    transaction.execute(
        _ADD_BATCH,
        *(record.id, _packed(record.task), record.total, record.created, record.parts, record.keep),
        *(record.token, None if record.then is None else _packed(record.then), owner, record.stored),
        *(record.done, record.failed, record.cancelled, record.is_cancelled, record.ended),
        *(sum(len(part.ids) for part in unstored), sum(part.size for part in unstored), item.is_changed),
    )
    if item.parts:
        places = numbers(range(len(item.parts)))
        transaction.execute(_ADD_PARTS, record.id, places, datas([_packed(part) for part in item.parts]))
    return "copied"


def _new_entries(transaction: Transaction, entries: Sequence[AuditEntry]) -> Iterator[bool]:
    """Return which of these entries of the audit log the database does not have."""
    times = [entry.at for entry in entries]
    known = transaction.rows(_ENTRIES, min(times), max(times)) if times else []
    return iter(missing(entries, [_entry.decode(entry) for (entry,) in known]))
