"""Claims in the SQLite store, also by limit key: a key with a million waiting tasks costs as much as one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from taskd.store.base import CLAIM_BYTES, KeyedWant
from taskd.store.records import Record
from taskd.store.sqlite_bulk import rows_text

__all__ = ["claim_any", "claim_by_key"]

RecordOf = Callable[[Any], Record]
"""Returns the task of a row."""

_WAITING = "state = 1 AND claimed = 0 AND function = ?"
_NEXT_KEY = (
    f"SELECT limit_key FROM task INDEXED BY task_limit_key WHERE {_WAITING} AND limit_key {{}} ? "
    "ORDER BY limit_key LIMIT 1"
)
_FIRST_KEY, _LATER_KEY = _NEXT_KEY.format(">="), _NEXT_KEY.format(">")


def _mark_claimed(cursor: sqlite3.Cursor, rows: Sequence[Any]) -> None:
    """Note that tasks are claimed, of which these are the rows, with their ids first."""
    query = "UPDATE task SET claimed = 1 WHERE id IN (SELECT value FROM json_each(?))"
    cursor.execute(query, (rows_text(row[0] for row in rows),))


class _Claims:
    """The tasks that are claimed for one want: at most `count`, of which one may reach `CLAIM_BYTES`."""

    def __init__(
        self, cursor: sqlite3.Cursor, function: str, count: int, columns: str, record_of: RecordOf
    ) -> None:
        self._cursor = cursor
        self._function = function
        self._columns = columns
        self._record_of = record_of
        self._left = count
        self._size = 0
        self.records: list[Record] = []

    @property
    def are_complete(self) -> bool:
        return self._left <= 0 or self._size >= CLAIM_BYTES

    def add(self, index: str, condition: str, order: str, values: tuple[object, ...], most: int) -> None:
        """Claim up to `most` waiting tasks whose limit key meets a condition."""
        rows = []
        for row in self._cursor.execute(
            f"SELECT {self._columns} FROM task INDEXED BY {index} WHERE {_WAITING} AND limit_key {condition} "
            f"ORDER BY {order}priority, due, id LIMIT ?",
            (self._function, *values, min(most, self._left)),
        ):
            rows.append(row)
            self._size += len(row[2] or b"")  # the arguments
            if self._size >= CLAIM_BYTES:
                break
        _mark_claimed(self._cursor, rows)
        self._left -= len(rows)
        self.records.extend(map(self._record_of, rows))


def claim_any(
    cursor: sqlite3.Cursor, function: str, count: int, columns: str, record_of: RecordOf
) -> list[Record]:
    """Claim up to `count` waiting tasks of a function, those without a limit key first, and return them."""
    claims = _Claims(cursor, function, count, columns, record_of)
    claims.add("task_waiting", "IS NULL", "", (), count)
    if not claims.are_complete:
        claims.add("task_limit_key", "IS NOT NULL", "limit_key, ", (), count)
    return claims.records


def claim_by_key(
    cursor: sqlite3.Cursor, function: str, want: KeyedWant, columns: str, record_of: RecordOf
) -> list[Record]:
    """Claim waiting tasks of a function as `want` says, and return them."""
    claims = _Claims(cursor, function, want.count, columns, record_of)
    rooms = want.keys.items() if want.keys is not None else _rooms(cursor, function, want)
    for key, room in rooms:
        if room > 0:
            claims.add("task_limit_key", "= ?", "", (key,), room)
        if claims.are_complete:
            return claims.records
    if want.with_unkeyed:
        claims.add("task_waiting", "IS NULL", "", (), want.room(None))
    return claims.records


def _rooms(cursor: sqlite3.Cursor, function: str, want: KeyedWant) -> Iterator[tuple[str, int]]:
    """Yield each key that has waiting tasks, from the one after `want.after` on and round, with its room."""
    query, key, is_round = _LATER_KEY, want.after, False
    while True:
        row = cursor.execute(query, (function, key)).fetchone()
        if row is None or (is_round and row[0] > want.after):
            if is_round:
                return
            query, key, is_round = _FIRST_KEY, "", True
            continue
        query, key = _LATER_KEY, row[0]
        yield key, want.room(key)
