"""Sealed arguments in a PostgreSQL store: replaced, a bounded number in each transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from taskd.store.batches import Rows
from taskd.store.postgres.literals import datas, texts
from taskd.store.postgres.transaction import Transaction
from taskd.store.records import New
from taskd.store.sealed import MARK, MAX_BYTES, MAX_TASKS, Change

__all__ = ["PostgresSealed"]

_IDS = """
SELECT id, length(args) FROM taskd.task
WHERE id > $1::text AND args IS NOT NULL AND position($2::bytea IN options) > 0
ORDER BY id LIMIT $3::int
"""
_TASKS = """
SELECT id, function, options, args FROM taskd.task WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE
"""
_CHANGE = """
UPDATE taskd.task AS t SET args = g.args FROM unnest($1::text[], $2::bytea[]) AS g(id, args) WHERE t.id = g.id
"""
_PART = """
SELECT p.batch, p.place, b.task, p.rows FROM taskd.batch_part AS p JOIN taskd.batch AS b ON b.id = p.batch
WHERE (p.batch, p.place) > ($1::text, $2::int) AND p.place >= b.stored AND position($3::bytea IN b.task) > 0
ORDER BY p.batch, p.place LIMIT 1 FOR UPDATE
"""
_CHANGE_PART = "UPDATE taskd.batch_part SET rows = $3::bytea WHERE batch = $1::text AND place = $2::int"

_new = msgspec.msgpack.Decoder(New)
_rows = msgspec.msgpack.Decoder(Rows)


class PostgresSealed:
    """The sealed arguments in a database. Implements `taskd.store.sealed.SealedArguments`.

    `run` runs a function in a transaction of the store.
    """

    first_part = ("", 0)

    def __init__(self, run: Callable[[Callable[[Transaction], Any]], Any]) -> None:
        self._run = run

    def change_tasks(self, after: str, change: Change) -> str | None:
        """Change some tasks; return the last id. Raises `StoreError`."""

        def run(transaction: Transaction) -> str | None:
            ids, size = [], 0
            for task, length in transaction.rows(_IDS, after, MARK, MAX_TASKS):
                ids.append(task)
                size += length
                if size > MAX_BYTES:
                    break
            changes = {
                task: changed
                for task, function, options, args in transaction.rows(_TASKS, texts(ids))
                if (changed := change(task, function, options, args)) is not None
            }
            if changes:
                transaction.execute(_CHANGE, texts(list(changes)), datas(changes.values()))
            return ids[-1] if ids else None

        last: str | None = self._run(run)
        return last

    def change_part(self, after: tuple[str, int], change: Change) -> tuple[str, int] | None:
        """Change the next part of a batch; return its place. Raises `StoreError`."""

        def run(transaction: Transaction) -> tuple[str, int] | None:
            found = transaction.rows(_PART, *after, MARK)
            if not found:
                return None
            [(batch, place, encoded_task, encoded)] = found
            task, part = _new.decode(encoded_task), _rows.decode(encoded)
            changed = [change(batch, task.function, task.options, args) or args for args in part.args]
            if changed != part.args:
                rows = msgspec.msgpack.encode(msgspec.structs.replace(part, args=changed))
                transaction.execute(_CHANGE_PART, batch, place, rows)
            return batch, place

        place: tuple[str, int] | None = self._run(run)
        return place
