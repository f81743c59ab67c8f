"""The event log of a store's SQLite file."""

from __future__ import annotations

import sqlite3

from taskd.store.records import Event

__all__ = ["LoggingCursor"]

_LOG = "INSERT INTO event VALUES (?, ?, ?, ?, ?)"


class LoggingCursor(sqlite3.Cursor):
    """A cursor for one transaction, which remembers the events that it has added to logs."""

    def __init__(self, database: sqlite3.Connection) -> None:
        super().__init__(database)
        self.logged: list[Event] = []

    def log(self, task: str, seq: int, event: str, at: float, data: bytes) -> None:
        """Add an event to a task's log. Raises `sqlite3.Error`."""
        self.execute(_LOG, (task, seq, event, at, data))
        self.logged.append(Event(task, seq, event, at, data))
