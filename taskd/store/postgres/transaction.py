"""One transaction: its statements, and the events that it adds to the logs of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection, RawCursor

from taskd.store.postgres.literals import Literal, datas, numbers, texts, to_text
from taskd.store.postgres.wakes import Wakes
from taskd.store.records import Event

__all__ = ["Retry", "Transaction", "value_of"]

_LOG = """
INSERT INTO taskd.event (task, seq, event, at, data)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::float8[], $5::bytea[])
"""


class Retry(Exception):
    """Another node was quicker: the transaction is rolled back, and done again from the beginning."""


class Transaction:
    """The statements of one transaction of a node, on a connection that is in pipeline mode.

    `execute` sends a statement, and does not wait for it; reading its rows does.
    `logged` are the events that the transaction adds to logs, which `written` has
    written already. `wakes` is what it has for other nodes.
    """

    def __init__(self, connection: Connection[Any], node: int, turn: int) -> None:
        self._connection = connection
        self.node = node
        self.turn = turn
        self.logged: list[Event] = []
        self.wakes = Wakes()

    def execute(self, query: str, *values: Any) -> RawCursor[Any]:
        """Send a statement, whose values are `$1` and so on; return the cursor for its rows."""
        cursor = RawCursor(self._connection)
        cursor.execute(query.encode(), [value_of(value) for value in values], binary=True)
        return cursor

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Send a statement, and return its rows."""
        return self.execute(query, *values).fetchall()

    def log(self, events: Sequence[Event]) -> None:
        """Add events to the logs of tasks."""
        self.logged += events
        self.write_log(events)

    def write_log(self, events: Sequence[Event]) -> None:
        """Add events to the logs of tasks, and not to `logged`."""
        if events:
            self.execute(
                _LOG,
                texts([event.task for event in events]),
                numbers([event.seq for event in events]),
                texts([event.event for event in events]),
                numbers([event.at for event in events]),
                datas([event.data for event in events]),
            )


def value_of(value: Any) -> Any:
    """Return a value of a statement: numbers as texts, since psycopg has types for different magnitudes."""
    kind = type(value)
    if kind is str:
        return to_text(value)
    return str(value) if kind is int or kind is Literal else value
