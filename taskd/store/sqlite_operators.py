"""The records for operators in a store's SQLite file: history, audit log, and counts of the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec
from msgspec.structs import replace

from taskd.store.audit import KEPT_ENTRIES, AuditEntry
from taskd.store.audit import KEPT_SECONDS as AUDIT_SECONDS
from taskd.store.history import ALL, KEPT_SECONDS, Figures, HistoryRow
from taskd.store.queued import Queued
from taskd.store.sqlite_log import LoggingCursor

__all__ = ["OPERATOR_TABLES", "SqliteAudit", "SqliteHistory", "count_queued"]

OPERATOR_TABLES = """
CREATE TABLE history (
    seconds INTEGER NOT NULL,
    at INTEGER NOT NULL,
    function TEXT NOT NULL,
    figures BLOB NOT NULL,
    PRIMARY KEY (seconds, at, function)
) WITHOUT ROWID;
CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    owner TEXT NOT NULL,
    action TEXT NOT NULL,
    entry BLOB NOT NULL
);
"""

_QUEUED = """
WITH counted AS (
    SELECT function, owner, sum(scheduled) AS scheduled, sum(waiting) AS waiting, sum(running) AS running,
        min(oldest) AS oldest
    FROM (
        SELECT function, owner, count(*) AS scheduled, 0 AS waiting, 0 AS running, NULL AS oldest
            FROM task WHERE state = 0 GROUP BY function, owner
        UNION ALL SELECT function, owner, 0, count(*), 0, min(due)
            FROM task WHERE state = 1 AND claimed = 0 GROUP BY function, owner
        UNION ALL SELECT function, owner, 0, count(*), 0, min(due)
            FROM task WHERE state = 1 AND claimed = 1 GROUP BY function, owner
        UNION ALL SELECT function, owner, 0, 0, count(*), NULL
            FROM task WHERE state = 2 GROUP BY function, owner
    )
    GROUP BY function, owner
)
SELECT function, owner, scheduled, waiting, running, oldest,
    sum(scheduled) OVER (), sum(waiting) OVER (), sum(running) OVER ()
FROM counted ORDER BY scheduled + waiting + running DESC, function, owner LIMIT ?
"""
"""A query for each partial index of tasks: what claims them keeps these small or sorted by function."""

Transaction = Callable[[], AbstractContextManager[LoggingCursor]]
Read = Callable[..., list[Any]]

_figures = msgspec.json.Decoder(Figures)
_entry = msgspec.json.Decoder(AuditEntry)


class SqliteHistory:
    """Keeps the history in a store's file. Implements `taskd.store.history.HistoryStore`."""

    def __init__(self, transaction: Transaction, read: Read) -> None:
        self._transaction = transaction
        self._read = read

    def add(self, rows: Sequence[HistoryRow], now: float) -> None:
        """Add figures, and forget what is too old. Raises `StoreError`."""
        with self._transaction() as cursor:
            for row in rows:
                key = (row.seconds, row.at, row.function)
                known = cursor.execute(
                    "SELECT figures FROM history WHERE seconds = ? AND at = ? AND function = ?", key
                ).fetchone()
                figures = row.figures if known is None else _figures.decode(known[0]) + row.figures
                encoded = msgspec.json.encode(figures)
                cursor.execute("INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?)", (*key, encoded))
            for seconds, kept in KEPT_SECONDS.items():
                cursor.execute("DELETE FROM history WHERE seconds = ? AND at < ?", (seconds, now - kept))

    def read(self, seconds: int, function: str | None, since: float, limit: int) -> list[HistoryRow]:
        """Return rows, the oldest first. Raises `StoreError`."""
        which = "function <> ?" if function is None else "function = ?"
        rows = self._read(
            f"SELECT at, function, figures FROM history WHERE seconds = ? AND at >= ? AND {which} "
            "ORDER BY at DESC, function DESC LIMIT ?",
            *(seconds, since, ALL if function is None else function, limit),
        )
        return [
            HistoryRow(seconds, at, name, _figures.decode(figures)) for at, name, figures in reversed(rows)
        ]


class SqliteAudit:
    """Keeps the audit log in a store's file. Implements `taskd.store.audit.AuditStore`."""

    def __init__(self, transaction: Transaction, read: Read) -> None:
        self._transaction = transaction
        self._read = read

    def add(self, entries: Sequence[AuditEntry], now: float) -> None:
        """Add entries, and forget what is too old or too much. Raises `StoreError`."""
        with self._transaction() as cursor:
            cursor.executemany(
                "INSERT INTO audit (at, owner, action, entry) VALUES (?, ?, ?, ?)",
                [(each.at, each.owner, each.action, msgspec.json.encode(each)) for each in entries],
            )
            cursor.execute(
                "DELETE FROM audit WHERE number <= (SELECT max(number) FROM audit) - ?", (KEPT_ENTRIES,)
            )
            oldest = cursor.execute("SELECT at FROM audit ORDER BY number LIMIT 1").fetchone()
            if oldest is not None and oldest[0] < now - AUDIT_SECONDS:  # they have no index by their times
                cursor.execute("DELETE FROM audit WHERE at < ?", (now - AUDIT_SECONDS,))

    def read(
        self, before: int | None, limit: int, owner: str | None = None, action: str | None = None
    ) -> list[AuditEntry]:
        """Return entries, the newest first. Raises `StoreError`."""
        query, values = "SELECT number, entry FROM audit WHERE 1", []
        for condition, value in (
            (" AND number < ?", before),
            (" AND owner = ?", owner),
            (" AND action = ?", action),
        ):
            if value is not None:
                query += condition
                values.append(value)
        rows = self._read(f"{query} ORDER BY number DESC LIMIT ?", *values, limit)
        return [replace(_entry.decode(entry), number=number) for number, entry in rows]


def count_queued(read: Read, limit: int) -> list[Queued]:
    """Return the `limit` largest counts of unfinished tasks, and all others as one. Raises `StoreError`."""
    rows = read(_QUEUED, limit)
    found = [Queued(*row[:6]) for row in rows]
    if not rows:
        return found
    counts = [total - sum(row[2 + n] for row in rows) for n, total in enumerate(rows[0][6:])]
    return [*found, Queued(None, None, *counts)] if any(counts) else found
