"""Claims by concurrency key in the SQLite store: a key with a million waiting tasks costs as much as one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from taskd.store.base import CLAIM_BYTES, KeyedWant
from taskd.store.records import Record
from taskd.store.sqlite_bulk import rows_text

__all__ = ["claim_by_key", "mark_claimed"]

_WAITING = "state = 1 AND claimed = 0 AND function = ?"
_NEXT_KEY = (
    f"SELECT limit_key FROM task INDEXED BY task_limit_key WHERE {_WAITING} AND limit_key {{}} ? "
    "ORDER BY limit_key LIMIT 1"
)
_FIRST_KEY, _LATER_KEY = _NEXT_KEY.format(">="), _NEXT_KEY.format(">")


def mark_claimed(cursor: sqlite3.Cursor, rows: Sequence[Any]) -> None:
    """Note that tasks are claimed, of which these are the rows, with their ids first."""
    query = "UPDATE task SET claimed = 1 WHERE id IN (SELECT value FROM json_each(?))"
    cursor.execute(query, (rows_text(row[0] for row in rows),))


def claim_by_key(
    cursor: sqlite3.Cursor,
    function: str,
    want: KeyedWant,
    columns: str,
    record_of: Callable[[Any], Record],
) -> list[Record]:
    """Claim waiting tasks of a function as `want` says, and return them."""
    claims: list[Record] = []
    size = 0

    def claim(index: str, condition: str, values: tuple[object, ...], most: int) -> None:
        nonlocal size
        rows = []
        for row in cursor.execute(
            f"SELECT {columns} FROM task INDEXED BY {index} WHERE {_WAITING} AND limit_key {condition} "
            "ORDER BY priority, due, id LIMIT ?",
            (function, *values, min(most, want.count - len(claims))),
        ):
            rows.append(row)
            size += len(row[2] or b"")  # the arguments
            if size >= CLAIM_BYTES:
                break
        mark_claimed(cursor, rows)
        claims.extend(map(record_of, rows))

    rooms = want.keys.items() if want.keys is not None else _rooms(cursor, function, want)
    for key, room in rooms:
        if room > 0:
            claim("task_limit_key", "= ?", (key,), room)
        if len(claims) >= want.count or size >= CLAIM_BYTES:
            return claims
    if want.with_unkeyed:
        claim("task_waiting", "IS NULL", (), want.room(None))
    return claims


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
