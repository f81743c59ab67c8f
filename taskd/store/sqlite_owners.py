"""What of each owner waits in a store's SQLite file: counted by a trigger, whatever changes a task."""

from __future__ import annotations

import sqlite3

from taskd.store.records import Allowance, Full

__all__ = ["OWNER_TABLES", "note_waiting", "refusal"]

OWNER_TABLES = """
CREATE TABLE owner_use (
    owner TEXT NOT NULL PRIMARY KEY,
    waiting INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER owner_use_count AFTER UPDATE OF state ON task
WHEN NEW.owner <> '' AND (OLD.state <= 1) <> (NEW.state <= 1)
BEGIN
    INSERT INTO owner_use VALUES (
        NEW.owner,
        iif(NEW.state <= 1, 1, -1),
        iif(NEW.state <= 1, 1, -1) * ifnull(length(NEW.args), 0)
    ) ON CONFLICT (owner) DO UPDATE SET
        waiting = waiting + excluded.waiting, bytes = bytes + excluded.bytes;
    DELETE FROM owner_use WHERE owner = NEW.owner AND waiting <= 0;
END;
"""
"""The table of owners of whom tasks wait. New tasks are added to it when they are stored."""


def note_waiting(cursor: sqlite3.Cursor, owner: str, count: int, size: int) -> None:
    """Count more tasks of an owner that wait, with so many bytes of arguments, or fewer."""
    cursor.execute(
        "INSERT INTO owner_use VALUES (?, ?, ?) ON CONFLICT (owner) "
        "DO UPDATE SET waiting = waiting + excluded.waiting, bytes = bytes + excluded.bytes",
        (owner, count, size),
    )


def refusal(cursor: sqlite3.Cursor, owner: str, allowance: Allowance, count: int, size: int) -> Full | None:
    """Return why so many more tasks with so many bytes must not wait, None if they may."""
    query = "SELECT waiting, bytes FROM owner_use WHERE owner = ?"
    waiting, taken = cursor.execute(query, (owner,)).fetchone() or (0, 0)
    return None if allowance.permits(waiting + count, taken + size) else Full(waiting, taken)
