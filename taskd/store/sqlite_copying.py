"""Copies from and to a store's SQLite file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import Any

import msgspec
from msgspec.structs import replace

from taskd.store.audit import AuditEntry
from taskd.store.base import StoreError
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
from taskd.store.records import CANCELLABLE, Event, LastTick
from taskd.store.sqlite_batches import BATCH_COLUMNS, batch_of, scoped
from taskd.store.sqlite_bulk import rows_text
from taskd.store.sqlite_file import opened_for_reading, version_of
from taskd.store.sqlite_log import LoggingCursor
from taskd.store.sqlite_owners import note_waiting
from taskd.store.sqlite_rows import COLUMNS, record_of
from taskd.store.sqlite_schema import VERSION

__all__ = ["SqliteCopies", "copies_for_reading"]

_IDS = (
    "SELECT id, ifnull(length(args), 0) + ifnull(length(outcome), 0) FROM task "
    "WHERE id > ? AND state <= ? ORDER BY id LIMIT ?"
)
_UNFINISHED, _ANY = 2, 7  # the highest state
_THESE = "IN (SELECT value FROM json_each(?))"
_ADD = f"INSERT INTO task ({COLUMNS}) VALUES ({', '.join('?' * 23)})"
_ADD_BATCH = f"INSERT INTO batch ({BATCH_COLUMNS}, owner, changed) VALUES ({', '.join('?' * 16)})"
_TAKEN = {
    "token": "SELECT 1 FROM task WHERE owner = ? AND '' = ? AND token = ?",
    "key": "SELECT 1 FROM task WHERE owner = ? AND function = ? AND key = ? AND state <= 2",
}
_TICK = (
    "INSERT INTO schedule VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET last = ?3 "
    "WHERE line = ?2 AND last < ?3"
)

_rows = msgspec.msgpack.Decoder(Rows)
_figures = msgspec.json.Decoder(Figures)
_entry = msgspec.json.Decoder(AuditEntry)
_packed = msgspec.msgpack.Encoder().encode


class SqliteCopies:
    """Reads and adds what a file has. Implements `taskd.store.copying.CopyStore`.

    `transaction` and `read` are the store's.
    """

    def __init__(
        self,
        transaction: Callable[[], AbstractContextManager[LoggingCursor]],
        read: Callable[..., list[Any]],
    ) -> None:
        self._transaction = transaction
        self._read = read

    def tasks(self, after: str, *, whole: bool) -> list[CopiedTask]:
        """Return tasks in the order of their ids. Raises `StoreError`."""
        ids = rows_text(page_of(self._read(_IDS, after, _ANY if whole else _UNFINISHED, PAGE)))
        events = self._read(
            f"SELECT task, seq, event, at, data FROM event WHERE task {_THESE} ORDER BY task, seq", ids
        )
        logs = {task: [Event(*row) for row in log] for task, log in groupby(events, lambda row: row[0])}
        rows = self._read(f"SELECT {COLUMNS} FROM task WHERE id {_THESE} ORDER BY id", ids)
        return [CopiedTask(record_of(row), logs.get(row[0], [])) for row in rows]

    def batches(self, after: str, *, whole: bool) -> list[CopiedBatch]:
        """Return batches in the order of their ids. Raises `StoreError`."""
        which = "" if whole else " AND ended IS NULL"
        sizes = self._read(
            "SELECT id, (SELECT ifnull(sum(length(rows)), 0) FROM batch_part WHERE batch = batch.id) "
            f"FROM batch WHERE id > ?{which} ORDER BY id LIMIT ?",
            *(after, PAGE),
        )
        ids = rows_text(page_of(sizes))
        found = self._read(
            f"SELECT batch, rows FROM batch_part WHERE batch {_THESE} ORDER BY batch, place", ids
        )
        parts = {
            batch: [_rows.decode(rows) for _, rows in its]
            for batch, its in groupby(found, lambda row: row[0])
        }
        rows = self._read(f"SELECT {BATCH_COLUMNS}, changed FROM batch WHERE id {_THESE} ORDER BY id", ids)
        return [CopiedBatch(batch_of(row[:-1]), parts.get(row[0], []), bool(row[-1])) for row in rows]

    def marks(self) -> list[CopiedTick | Paused]:
        """Return what is paused, and the last ticks. Raises `StoreError`."""
        paused = self._read("SELECT function FROM paused ORDER BY function")
        ticks = self._read("SELECT name, line, last FROM schedule ORDER BY name")
        return [
            *(Paused(function) for (function,) in paused),
            *(CopiedTick(name, LastTick(line, at)) for name, line, at in ticks),
        ]

    def history(self, after: HistoryRow | None) -> list[HistoryRow]:
        """Return rows of the history. Raises `StoreError`."""
        key = (0, 0, "") if after is None else (after.seconds, after.at, after.function)
        rows = self._read(
            "SELECT seconds, at, function, figures FROM history WHERE (seconds, at, function) > (?, ?, ?) "
            "ORDER BY seconds, at, function LIMIT ?",
            *(*key, PAGE),
        )
        return [
            HistoryRow(seconds, at, function, _figures.decode(figures))
            for seconds, at, function, figures in rows
        ]

    def audit(self, after: int) -> list[AuditEntry]:
        """Return entries, the oldest first. Raises `StoreError`."""
        rows = self._read(
            "SELECT number, entry FROM audit WHERE number > ? ORDER BY number LIMIT ?", after, PAGE
        )
        return [replace(_entry.decode(entry), number=number) for number, entry in rows]

    def load(self, items: Sequence[Item]) -> list[Loaded]:
        """Add items as they are. Raises `StoreError`."""
        with self._transaction() as cursor:
            are_new = _new_entries(cursor, [each for each in items if isinstance(each, AuditEntry)])
            return [_load(cursor, item, are_new) for item in items]


@contextmanager
def copies_for_reading(path: str) -> Iterator[SqliteCopies]:
    """Open a file that a daemon may be using, to read it as it is at one instant. Raises `StoreError`."""
    with opened_for_reading(path) as database:
        version = version_of(database, path)
        if version != VERSION:
            raise StoreError(
                f"{path} has schema {version}, and this taskd uses {VERSION}: "
                f"first taskd store migrate {path}"
            )
        database.isolation_level = None
        database.execute("BEGIN")

        def read(query: str, *values: Any) -> list[Any]:
            return database.execute(query, values).fetchall()

        def transaction() -> AbstractContextManager[LoggingCursor]:
            raise StoreError(f"{path} is only read")

        yield SqliteCopies(transaction, read)


def _load(cursor: LoggingCursor, item: Item, are_new: Iterator[bool]) -> Loaded:
    if isinstance(item, CopiedTask):
        return _load_task(cursor, item)
    if isinstance(item, CopiedBatch):
        return _load_batch(cursor, item)
    if isinstance(item, AuditEntry):
        is_new = next(are_new)
        if is_new:
            entry = msgspec.json.encode(replace(item, number=0))
            cursor.execute(
                "INSERT INTO audit (at, owner, action, entry) VALUES (?, ?, ?, ?)",
                (item.at, item.owner, item.action, entry),
            )
        return "copied" if is_new else "known"
    if isinstance(item, CopiedTick):
        cursor.execute(_TICK, (item.name, item.last.line, item.last.at))
    elif isinstance(item, Paused):
        cursor.execute("INSERT OR IGNORE INTO paused VALUES (?)", (item.function,))
    else:
        values = (item.seconds, item.at, item.function, msgspec.json.encode(item.figures))
        cursor.execute("INSERT OR IGNORE INTO history VALUES (?, ?, ?, ?)", values)
    return "copied" if cursor.rowcount else "known"


def _load_task(cursor: LoggingCursor, item: CopiedTask) -> Loaded:
    record, new = item.record, item.record.new
    if cursor.execute("SELECT 1 FROM task WHERE id = ?", (new.id,)).fetchone():
        return "known"
    for what, *taken in takers(item):
        if cursor.execute(_TAKEN[what], taken).fetchone():
            return what
    cursor.execute(
        _ADD,
        (
            *(new.id, new.function, new.args, new.options, new.priority, new.due, new.deadline, new.key),
            *(new.token, new.batch, new.keep, new.is_fixed, new.limit_key, new.owner, int(record.state)),
            *(record.created, record.attempt, record.errors, record.losses, record.due, record.ended),
            *(record.outcome, record.last_seq),
        ),
    )
    if new.owner and record.state in CANCELLABLE:
        note_waiting(cursor, new.owner, 1, len(new.args or b""))
    for event in item.events:
        cursor.log(new.id, event.seq, event.event, event.at, event.data)
    return "copied"


def _load_batch(cursor: LoggingCursor, item: CopiedBatch) -> Loaded:
    record, owner = item.record, item.record.task.owner
    if cursor.execute("SELECT 1 FROM batch WHERE id = ?", (record.id,)).fetchone():
        return "known"
    token = None if record.token is None else scoped(owner, record.token)
    if token is not None and cursor.execute("SELECT 1 FROM batch WHERE token = ?", (token,)).fetchone():
        return "token"
    cursor.execute(
        _ADD_BATCH,
        (
            *(record.id, _packed(record.task), record.total, record.created, record.parts, record.keep),
            *(token, None if record.then is None else _packed(record.then), record.stored, record.done),
            *(record.failed, record.cancelled, record.is_cancelled, record.ended, owner, item.is_changed),
        ),
    )
    cursor.executemany(
        "INSERT INTO batch_part VALUES (?, ?, ?)",
        ((record.id, place, _packed(part)) for place, part in enumerate(item.parts)),
    )
    if owner:
        for part in item.unstored:
            note_waiting(cursor, owner, len(part.ids), part.size)
    return "copied"


def _new_entries(cursor: LoggingCursor, entries: Sequence[AuditEntry]) -> Iterator[bool]:
    """Return which of these entries of the audit log the file does not have."""
    times = [entry.at for entry in entries]
    query = "SELECT entry FROM audit WHERE at BETWEEN ? AND ?"  # which no index has, so once for all of them
    known = cursor.execute(query, (min(times), max(times))).fetchall() if times else []
    return iter(missing(entries, [_entry.decode(entry) for (entry,) in known]))
