"""Batches in the SQLite store.

A trigger keeps the counts, so that they change in the same transaction as the
task, whatever statement changes it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec
from msgspec.structs import replace

from taskd.store.batches import BatchRecord, CancelledRows, NewBatch, Rows, follower
from taskd.store.records import Allowance, Event, Full, New
from taskd.store.sqlite_log import LoggingCursor
from taskd.store.sqlite_owners import note_waiting, refusal

__all__ = [
    "BATCH_COLUMNS",
    "BATCH_TABLES",
    "LAST",
    "SqliteBatches",
    "batch_of",
    "close_batches",
    "id_like",
    "owned_by",
    "prune_batches",
    "scoped",
    "shift_batches",
]

BATCH_TABLES = """
CREATE TABLE batch (
    id TEXT NOT NULL UNIQUE,
    task BLOB NOT NULL,
    total INTEGER NOT NULL,
    created REAL NOT NULL,
    parts INTEGER NOT NULL,
    keep REAL NOT NULL,
    token TEXT UNIQUE,
    follower BLOB,
    stored INTEGER NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    is_cancelled INTEGER NOT NULL DEFAULT 0,
    ended REAL,
    changed INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX batch_changed ON batch (id) WHERE changed = 1;
CREATE INDEX batch_unended ON batch (id) WHERE ended IS NULL;
CREATE INDEX batch_ended ON batch (ended + keep) WHERE ended IS NOT NULL;
CREATE TABLE batch_part (
    batch TEXT NOT NULL,
    place INTEGER NOT NULL,
    rows BLOB NOT NULL,
    PRIMARY KEY (batch, place)
);
CREATE TRIGGER batch_count AFTER UPDATE OF state ON task
WHEN NEW.batch IS NOT NULL AND NEW.state <> OLD.state AND (NEW.state > 2 OR OLD.state > 2)
BEGIN
    UPDATE batch SET
        changed = 1,
        done = done + (NEW.state = 3) - (OLD.state = 3),
        failed = failed + (NEW.state IN (4, 6, 7)) - (OLD.state IN (4, 6, 7)),
        cancelled = cancelled + (NEW.state = 5) - (OLD.state = 5)
    WHERE id = NEW.batch;
END;
"""
"""The tables of batches. `rows` of a part has only the ids once its tasks are stored."""

BATCH_COLUMNS = (
    "id, task, total, created, parts, keep, token, follower, stored, done, failed, cancelled, is_cancelled, "
    "ended"
)
"""The columns of a batch in the order of the fields of `BatchRecord`."""

_new = msgspec.msgpack.Decoder(New)
_rows = msgspec.msgpack.Decoder(Rows)
_encoded = msgspec.msgpack.Encoder().encode

_OF_OWNER = "\x1f"
"""Before and after the owner of a token, whose name has no such character."""

_SOMEBODY = " AND owner <> ''"

LAST = "\U0010ffff"
"""A text that comes after all ids."""

Submit = Callable[[LoggingCursor, New, float], object]
Cancel = Callable[[LoggingCursor, str, float], Event]
Read = Callable[..., list[Any]]


class SqliteBatches:
    """Keeps batches in a store's file. Implements `taskd.store.batches.BatchStore`.

    `transaction` and `read` are the store's. `submit` stores a task; `cancel`
    cancels one that waits or is scheduled, and returns its event.
    """

    def __init__(
        self,
        transaction: Callable[[], AbstractContextManager[LoggingCursor]],
        read: Read,
        submit: Submit,
        cancel: Cancel,
    ) -> None:
        self._transaction = transaction
        self._read = read
        self._submit = submit
        self._cancel = cancel

    def add(self, new: NewBatch, now: float, allowance: Allowance | None = None) -> BatchRecord | Full:
        """Accept a batch. Raises `StoreError`."""
        with self._transaction() as cursor:
            token = None if new.token is None else scoped(new.task.owner, new.token)
            if token is not None and (known := _one(cursor, "token", token)) is not None:
                return known
            if allowance is not None:
                full = refusal(cursor, new.task.owner, allowance, new.total, new.size)
                if full is not None:
                    return full
            if new.task.owner and new.total:
                note_waiting(cursor, new.task.owner, new.total, new.size)
            follower = None if new.then is None else msgspec.msgpack.encode(new.then)
            cursor.execute(
                "INSERT INTO batch (id, task, total, created, parts, keep, token, follower, owner) "
                "VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    *(new.id, msgspec.msgpack.encode(new.task), new.total, now),
                    *(len(new.parts), new.keep, token, follower, new.task.owner),
                ),
            )
            cursor.executemany(
                "INSERT INTO batch_part VALUES (?, ?, ?)",
                ((new.id, place, _encoded(part)) for place, part in enumerate(new.parts)),
            )
            close_batches(cursor, now, self._submit)
            added = _one(cursor, "id", new.id)
        assert added is not None
        return added

    def unpack(self, batch: str, now: float) -> BatchRecord | None:
        """Store the next part. Raises `StoreError`."""
        with self._transaction() as cursor:
            record = _one(cursor, "id", batch)
            if record is None or record.is_stored:
                return record
            (rows,) = cursor.execute(
                "SELECT rows FROM batch_part WHERE batch = ? AND place = ?", (batch, record.stored)
            ).fetchone()
            part = _rows.decode(rows)
            if record.task.owner:  # they are counted one by one now
                note_waiting(cursor, record.task.owner, -len(part.ids), -part.size)
            for task in part.tasks(record.task):
                self._submit(cursor, task, now)
            cursor.execute(
                "UPDATE batch_part SET rows = ? WHERE batch = ? AND place = ?",
                (_encoded(Rows(part.ids, [])), batch, record.stored),
            )
            cursor.execute("UPDATE batch SET stored = stored + 1 WHERE id = ?", (batch,))
        return replace(record, stored=record.stored + 1)

    def cancel(self, batch: str) -> BatchRecord | None:
        """Note that a batch shall be cancelled. Raises `StoreError`."""
        with self._transaction() as cursor:
            record = _one(cursor, "id", batch)
            cursor.execute("UPDATE batch SET is_cancelled = 1 WHERE id = ? AND ended IS NULL", (batch,))
        return record

    def cancel_rows(self, batch: str, after: str, limit: int, now: float) -> CancelledRows:
        """Cancel tasks of a batch. Raises `StoreError`."""
        with self._transaction() as cursor:
            record = _one(cursor, "id", batch)
            if record is None or record.ended is not None:
                return CancelledRows([], None, record)
            looked = cursor.execute(
                "SELECT id, state IN (0, 1) AND claimed = 0 FROM task WHERE batch = ? AND id > ? "
                "ORDER BY id LIMIT ?",
                (batch, after, limit),
            ).fetchall()
            events = [self._cancel(cursor, task, now) for task, is_free in looked if is_free]
            close_batches(cursor, now, self._submit)
            record = _one(cursor, "id", batch)
        return CancelledRows(events, looked[-1][0] if looked else None, record)

    def get(self, batch: str) -> BatchRecord | None:
        """Return a batch. Raises `StoreError`."""
        rows = self._read(f"SELECT {BATCH_COLUMNS} FROM batch WHERE id = ?", batch)
        return batch_of(rows[0]) if rows else None

    def tasks(self, batch: str) -> list[str]:
        """Return the ids of its tasks. Raises `StoreError`."""
        parts = self._read("SELECT rows FROM batch_part WHERE batch = ? ORDER BY place", batch)
        return [task for (rows,) in parts for task in _rows.decode(rows).ids]

    def unended(self) -> list[BatchRecord]:
        """Return the batches that have not ended. Raises `StoreError`."""
        rows = self._read(f"SELECT {BATCH_COLUMNS} FROM batch WHERE ended IS NULL ORDER BY id")
        return [batch_of(row) for row in rows]

    def find(
        self, like: str | None, after: str, limit: int, owner: str | None = None, *, newest: bool = False
    ) -> list[BatchRecord]:
        """Return batches in the order of their ids. Raises `StoreError`."""
        condition, values = id_like(like)
        of_owner, owners = owned_by(owner)
        follows, order = ("<", "id DESC") if newest else (">", "id")
        edge = after or LAST if newest else after
        query = (
            f"SELECT {BATCH_COLUMNS} FROM batch WHERE id {follows} ?{condition}{of_owner} "
            f"ORDER BY {order} LIMIT ?"
        )
        return [batch_of(row) for row in self._read(query, edge, *values, *owners, limit)]


def id_like(like: str | None) -> tuple[str, list[str | int]]:
    """Return the condition that an id begins or ends with a text, after others, and its values."""
    if like is None:
        return "", []
    condition = " AND (id >= ? AND id < ? OR substr(id, ?) = ?)"
    return condition, [like, f"{like}\U0010ffff", -len(like), like]


def owned_by(owner: str | None) -> tuple[str, list[str]]:
    """Return the condition that something belongs to an owner, after others, and its values; None for any."""
    if owner is None:
        return "", []
    # The index of owners leaves out what belongs to nobody.
    return f" AND owner = ?{_SOMEBODY if owner else ''}", [owner]


def scoped(owner: str, token: str) -> str:
    """Return what the file has for the token of a batch, since tokens are those of one owner."""
    is_plain = not owner and not token.startswith(_OF_OWNER)
    return token if is_plain else f"{_OF_OWNER}{owner}{_OF_OWNER}{token}"


def close_batches(cursor: LoggingCursor, now: float, submit: Submit) -> list[BatchRecord]:
    """End the batches whose tasks have all ended; return all that have changed since the last call."""
    rows = cursor.execute(f"SELECT {BATCH_COLUMNS} FROM batch WHERE changed = 1 ORDER BY id").fetchall()
    records = []
    for row in rows:
        record = batch_of(row)
        if record.ended is None and record.over == record.total:
            record = replace(record, ended=now)
            if (then := follower(record)) is not None:
                submit(cursor, then, now)
        cursor.execute("UPDATE batch SET changed = 0, ended = ? WHERE id = ?", (record.ended, record.id))
        records.append(record)
    return records


def shift_batches(cursor: LoggingCursor, seconds: float) -> None:
    """Move the times of tasks that are not stored yet, since the clock was set by `seconds`."""
    unstored = "SELECT id, task FROM batch WHERE ended IS NULL AND stored < parts"
    moved = [
        (msgspec.msgpack.encode(_new.decode(task).moved(seconds)), batch)
        for batch, task in cursor.execute(unstored).fetchall()
    ]
    cursor.executemany("UPDATE batch SET task = ? WHERE id = ?", moved)


def prune_batches(cursor: LoggingCursor, now: float, limit: int) -> int:
    """Forget up to `limit` batches that ended long enough ago; return how many."""
    over = cursor.execute(
        "SELECT id FROM batch WHERE ended IS NOT NULL AND ended + keep <= ? LIMIT ?", (now, limit)
    ).fetchall()
    cursor.executemany("DELETE FROM batch_part WHERE batch = ?", over)
    cursor.executemany("DELETE FROM batch WHERE id = ?", over)
    return len(over)


def _one(cursor: LoggingCursor, column: str, value: str) -> BatchRecord | None:
    row = cursor.execute(f"SELECT {BATCH_COLUMNS} FROM batch WHERE {column} = ?", (value,)).fetchone()
    return None if row is None else batch_of(row)


def batch_of(row: Any) -> BatchRecord:
    """Return the record of a row with `BATCH_COLUMNS`."""
    batch, new, total, created, parts, keep, token, then, stored, done, failed, cancelled, asked, ended = row
    task = _new.decode(new)
    return BatchRecord(
        batch, task, total, created, parts, keep,
        None if token is None else token.removeprefix(f"{_OF_OWNER}{task.owner}{_OF_OWNER}"),
        None if then is None else _new.decode(then),
        stored, done, failed, cancelled, bool(asked), ended,
    )  # fmt: skip
