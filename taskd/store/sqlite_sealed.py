"""Sealed arguments in a store's SQLite file: replaced, a bounded number in each transaction."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import msgspec

from taskd.store.batches import Rows
from taskd.store.records import New
from taskd.store.sealed import MARK, MAX_BYTES, MAX_TASKS, Change
from taskd.store.sqlite_log import LoggingCursor

__all__ = ["SqliteSealed"]

_new = msgspec.msgpack.Decoder(New)
_rows = msgspec.msgpack.Decoder(Rows)


class SqliteSealed:
    """The sealed arguments in a store's file. Implements `taskd.store.sealed.SealedArguments`.

    `transaction` is the store's.
    """

    first_part = 0

    def __init__(self, transaction: Callable[[], AbstractContextManager[LoggingCursor]]) -> None:
        self._transaction = transaction

    def change_tasks(self, after: str, change: Change) -> str | None:
        """Change some tasks whose ids follow `after`; return the last id, None at the end.

        All of it is one transaction. Raises `StoreError`.
        """
        last, size = None, 0
        with self._transaction() as cursor:
            found = cursor.execute(
                "SELECT id FROM task WHERE id > ? AND args IS NOT NULL AND instr(options, ?) "
                "ORDER BY id LIMIT ?",
                (after, MARK, MAX_TASKS),
            ).fetchall()
            for (last,) in found:
                function, options, args = cursor.execute(
                    "SELECT function, options, args FROM task WHERE id = ?", (last,)
                ).fetchone()
                changed = change(last, function, options, args)
                if changed is not None:
                    cursor.execute("UPDATE task SET args = ? WHERE id = ?", (changed, last))
                size += len(args)
                if size > MAX_BYTES:
                    break
        return last

    def change_part(self, after: int, change: Change) -> int | None:
        """Change the rows of the next part of a batch whose tasks are not stored yet; return its number.

        Parts have numbers, and that of this one follows `after`; None at the end. All of it is one
        transaction. Raises `StoreError`.
        """
        with self._transaction() as cursor:
            found = cursor.execute(
                "SELECT batch_part.rowid, batch.id, batch.task, rows FROM batch_part JOIN batch "
                "ON batch.id = batch_part.batch WHERE batch_part.rowid > ? AND place >= stored "
                "AND instr(batch.task, ?) ORDER BY batch_part.rowid LIMIT 1",
                (after, MARK),
            ).fetchone()
            if found is None:
                return None
            number, batch, encoded_task, encoded = found
            task, part = _new.decode(encoded_task), _rows.decode(encoded)
            changed = [change(batch, task.function, task.options, args) or args for args in part.args]
            if changed != part.args:
                rows = msgspec.msgpack.encode(msgspec.structs.replace(part, args=changed))
                cursor.execute("UPDATE batch_part SET rows = ? WHERE rowid = ?", (rows, number))
        return int(number)
