"""Batches in the PostgreSQL store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from taskd.store.batches import BatchRecord, CancelledRows, NewBatch, Rows, follower
from taskd.store.postgres.accepting import accept, hold_unique
from taskd.store.postgres.by_hand import ask_nodes, cancel_unclaimed
from taskd.store.postgres.literals import datas, from_text, numbers
from taskd.store.postgres.owners import Owners
from taskd.store.postgres.reading import LAST, Query, Read, id_like, owned_by
from taskd.store.postgres.transaction import Retry, Transaction
from taskd.store.records import Allowance, Full, New

__all__ = ["BATCH_COLUMNS", "KIND", "PostgresBatches", "batch_of", "close_batches", "shift_batches"]

KIND = "b"
"""The kind of rows in `uniq` with the tokens of batches."""
_NAMES = (
    *("id", "task", "total", "created", "parts", "keep", "token", "follower", "stored", "done", "failed"),
    *("cancelled", "is_cancelled", "ended"),
)
BATCH_COLUMNS = ", ".join(f"s.{name}" for name in _NAMES)
"""The columns of `taskd.batch AS s` in the order of the fields of `BatchRecord`."""

_SELECT = f"SELECT {BATCH_COLUMNS} FROM taskd.batch AS s WHERE"
_ONE = f"{_SELECT} id = $1::text"
_LOCKED = f"{_ONE} FOR UPDATE"
_OF_TOKEN = f"""
{_SELECT} id = (
    SELECT id FROM taskd.uniq WHERE kind = 'b' AND owner = $1::text AND function = '' AND value = $2::text
)
"""
_ADD = """
INSERT INTO taskd.batch (
    id, task, total, created, parts, keep, token, follower, owner, unstored, unstored_bytes
)
VALUES ($1::text, $2::bytea, $3::int, $4::float8, $5::int, $6::float8, $7::text, $8::bytea, $9::text, $3::int,
    $10::bigint)
"""
_ADD_PARTS = """
INSERT INTO taskd.batch_part
SELECT $1::text, place, rows FROM unnest($2::int[], $3::bytea[]) AS p(place, rows)
"""
_PART = "SELECT rows FROM taskd.batch_part WHERE batch = $1::text AND place = $2::int"
_SHRINK = "UPDATE taskd.batch_part SET rows = $3::bytea WHERE batch = $1::text AND place = $2::int"
_STORED = """
UPDATE taskd.batch SET stored = stored + 1, unstored = unstored - $2::int,
    unstored_bytes = unstored_bytes - $3::bigint
WHERE id = $1::text
"""
_CANCEL = "UPDATE taskd.batch SET is_cancelled = true WHERE id = $1::text AND ended IS NULL"
_LOOK = """
SELECT id, is_free FROM (
    (SELECT id, true AS is_free FROM taskd.later
        WHERE batch = $1::text AND id > $2::text ORDER BY id LIMIT $3::int)
    UNION ALL
    (SELECT id, true FROM taskd.ready WHERE batch = $1::text AND id > $2::text ORDER BY id LIMIT $3::int)
    UNION ALL
    (SELECT id, false FROM taskd.lease WHERE batch = $1::text AND id > $2::text ORDER BY id LIMIT $3::int)
    UNION ALL
    (SELECT id, false FROM taskd.ended WHERE batch = $1::text AND id > $2::text ORDER BY id LIMIT $3::int)
) AS looked ORDER BY id LIMIT $3::int
"""
_CLOSE = f"""
WITH changed AS MATERIALIZED (
    SELECT id, ended IS NULL AND done + failed + cancelled = total AS ends
    FROM taskd.batch WHERE changed ORDER BY id FOR UPDATE
)
UPDATE taskd.batch AS s SET changed = false, ended = CASE WHEN c.ends THEN $1::float8 ELSE s.ended END
FROM changed AS c WHERE s.id = c.id
RETURNING {BATCH_COLUMNS}, c.ends
"""
_UNSTORED = "SELECT id, task FROM taskd.batch WHERE ended IS NULL AND stored < parts ORDER BY id FOR UPDATE"
_MOVE = "UPDATE taskd.batch SET task = $2::bytea WHERE id = $1::text"

_new = msgspec.msgpack.Decoder(New)
_rows = msgspec.msgpack.Decoder(Rows)
_encoded = msgspec.msgpack.Encoder().encode

Result = TypeVar("Result")


class PostgresBatches:
    """Keeps batches in a database. Implements `taskd.store.batches.BatchStore`.

    `run` runs a function in a transaction of the store, `read` reads rows.
    """

    def __init__(self, run: Callable[[Callable[[Transaction], Any]], Any], read: Read) -> None:
        self._run = run
        self._read = read

    def add(self, new: NewBatch, now: float, allowance: Allowance | None = None) -> BatchRecord | Full:
        """Accept a batch. Raises `StoreError`."""
        added: BatchRecord | Full = self._run(lambda transaction: _add(transaction, new, now, allowance))
        return added

    def unpack(self, batch: str, now: float) -> BatchRecord | None:
        """Store the next part. Raises `StoreError`."""

        def unpack(transaction: Transaction) -> BatchRecord | None:
            record = _one(transaction, _LOCKED, batch)
            if record is None or record.is_stored:
                return record
            [[rows]] = transaction.rows(_PART, batch, record.stored)
            part = _rows.decode(rows)
            accept(transaction, list(part.tasks(record.task)), now, {}, {})
            transaction.execute(_SHRINK, batch, record.stored, _encoded(Rows(part.ids, [])))
            transaction.execute(_STORED, batch, len(part.ids), part.size)
            return replace(record, stored=record.stored + 1)

        unpacked: BatchRecord | None = self._run(unpack)
        return unpacked

    def cancel(self, batch: str) -> BatchRecord | None:
        """Note that a batch shall be cancelled. Raises `StoreError`."""

        def cancel(transaction: Transaction) -> BatchRecord | None:
            record = _one(transaction, _LOCKED, batch)
            transaction.execute(_CANCEL, batch)
            return record

        before: BatchRecord | None = self._run(cancel)
        return before

    def cancel_rows(self, batch: str, after: str, limit: int, now: float) -> CancelledRows:
        """Cancel tasks of a batch. Raises `StoreError`."""

        def cancel(transaction: Transaction) -> CancelledRows:
            record = _one(transaction, _ONE, batch)
            if record is None or record.ended is not None:
                return CancelledRows([], None, record)
            looked = transaction.rows(_LOOK, batch, after, limit)
            free = [task for task, is_free in looked if is_free]
            events = cancel_unclaimed(transaction, free, now) if free else []
            ask_nodes(transaction, [task for task, is_free in looked if not is_free])
            close_batches(transaction, now)
            return CancelledRows(events, looked[-1][0] if looked else None, _one(transaction, _ONE, batch))

        cancelled: CancelledRows = self._run(cancel)
        return cancelled

    def get(self, batch: str) -> BatchRecord | None:
        """Return a batch. Raises `StoreError`."""
        rows = self._read(_ONE, batch)
        return batch_of(rows[0]) if rows else None

    def tasks(self, batch: str) -> list[str]:
        """Return the ids of its tasks. Raises `StoreError`."""
        parts = self._read("SELECT rows FROM taskd.batch_part WHERE batch = $1::text ORDER BY place", batch)
        return [task for (rows,) in parts for task in _rows.decode(rows).ids]

    def unended(self) -> list[BatchRecord]:
        """Return the batches that have not ended. Raises `StoreError`."""
        return [batch_of(row) for row in self._read(f"{_SELECT} ended IS NULL ORDER BY id")]

    def find(
        self, like: str | None, after: str, limit: int, owner: str | None = None, *, newest: bool = False
    ) -> list[BatchRecord]:
        """Return batches in the order of their ids. Raises `StoreError`."""
        query = Query()
        follows, order = ("<", "s.id DESC") if newest else (">", "s.id")
        edge = query.value(after or LAST if newest else after, "text")
        condition = f"s.id {follows} {edge}{owned_by(query, owner)}{id_like(query, like)}"
        most = query.value(limit, "int")
        rows = self._read(f"{_SELECT} {condition} ORDER BY {order} LIMIT {most}", *query.values)
        return [batch_of(row) for row in rows]


def _add(
    transaction: Transaction, new: NewBatch, now: float, allowance: Allowance | None
) -> BatchRecord | Full:
    owner = new.task.owner
    if new.token is not None:
        rows = transaction.rows(_OF_TOKEN, owner, new.token)
        if rows:
            return batch_of(rows[0])
    full = Owners(transaction, [] if allowance is None else [owner]).refusal(
        owner, allowance, new.total, new.size
    )
    if full is not None:
        return full
    if new.token is not None and not hold_unique(transaction, [((KIND, owner, "", new.token), new.id)]):
        raise Retry
    transaction.execute(
        _ADD,
        *(new.id, _encoded(new.task), new.total, now, len(new.parts), new.keep, new.token),
        *(None if new.then is None else _encoded(new.then), owner, new.size),
    )
    if new.parts:
        places = numbers(range(len(new.parts)))
        transaction.execute(_ADD_PARTS, new.id, places, datas([_encoded(part) for part in new.parts]))
    close_batches(transaction, now)
    added = _one(transaction, _ONE, new.id)
    assert added is not None
    return added


def close_batches(transaction: Transaction, now: float) -> list[BatchRecord]:
    """End the batches whose tasks have all ended; return all that have changed since the last call."""
    rows = sorted(transaction.rows(_CLOSE, now))
    records = [batch_of(row[:-1]) for row in rows]
    transaction.wakes.changed.update(record.id for record in records)
    ended = [record for row, record in zip(rows, records, strict=True) if row[-1]]
    news = [new for record in ended if (new := follower(record)) is not None]
    accept(transaction, news, now, {}, {})
    return records


def shift_batches(transaction: Transaction, seconds: float) -> None:
    """Move the times of tasks that are not stored yet, since the clock was set by `seconds`."""
    for batch, task in transaction.rows(_UNSTORED):
        transaction.execute(_MOVE, batch, _encoded(_new.decode(task).moved(seconds)))


def _one(transaction: Transaction, query: str, batch: str) -> BatchRecord | None:
    rows = transaction.rows(query, batch)
    return batch_of(rows[0]) if rows else None


def batch_of(row: Any) -> BatchRecord:
    """Return the record of a row with `BATCH_COLUMNS`."""
    batch, task, total, created, parts, keep, token, then, *rest = row
    return BatchRecord(
        batch, _new.decode(task), total, created, parts, keep, from_text(token),
        None if then is None else _new.decode(then), *rest,
    )  # fmt: skip
