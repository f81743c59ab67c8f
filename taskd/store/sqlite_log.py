"""The event log of a store's SQLite file."""

from __future__ import annotations

import sqlite3

from taskd.store.records import Event
from taskd.store.sqlite_bulk import FEW, MAX_TEXT, column, rows_text

__all__ = ["LoggingCursor"]

_LOG = "INSERT INTO event VALUES (?, ?, ?, ?, ?)"
_LOG_ALL = (
    f"INSERT INTO event SELECT {column(0)}, {column(1)}, {column(2)}, ?2, CAST({column(3)} AS BLOB) "
    "FROM json_each(?1)"
)


class LoggingCursor(sqlite3.Cursor):
    """A cursor for one transaction, which remembers the events that it has added to logs.

    They are written with `flush`, those of one time in one statement.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        super().__init__(database)
        self.logged: list[Event] = []
        self._written = 0

    def log(self, task: str, seq: int, event: str, at: float, data: bytes) -> None:
        """Add an event to a task's log."""
        self.logged.append(Event(task, seq, event, at, data))

    def flush(self) -> None:
        """Write the events that have not been written yet. Raises `sqlite3.Error`."""
        events, self._written = self.logged[self._written :], len(self.logged)
        if len(events) > FEW:
            events = self._log_alike(events)
        for event in events:
            self.execute(_LOG, (event.task, event.seq, event.event, event.at, event.data))

    def _log_alike(self, events: list[Event]) -> list[Event]:
        """Write the short events that have the time of the last one; return the others."""
        at = events[-1].at
        alike = [event for event in events if event.at == at and len(event.data) <= MAX_TEXT]
        try:
            rows = rows_text([(event.task, event.seq, event.event, event.data.decode()) for event in alike])
        except UnicodeDecodeError:
            return events
        self.execute(_LOG_ALL, (rows, at))
        return [event for event in events if event.at != at or len(event.data) > MAX_TEXT]

    def forget(self, count: int) -> None:
        """Forget all but the first `count` events, since what they are about was rolled back."""
        del self.logged[count:]
        self._written = min(self._written, count)
