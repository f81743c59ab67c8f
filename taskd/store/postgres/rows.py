"""The rows of tasks in the PostgreSQL store, as records."""

from __future__ import annotations

from typing import Any

from taskd.store.postgres.literals import from_text
from taskd.store.records import New, Record, State

__all__ = ["NEW_COLUMNS", "record_of"]

_NEW = (
    "id, function, args, options, priority, wanted, deadline, key, token, batch, keep, fixed, limit_key, owner"
)
NEW_COLUMNS = ", ".join(f"t.{column}" for column in _NEW.split(", "))
"""The columns of `taskd.task AS t` in the order of the fields of `New`; those of a record follow."""

_NEW_COUNT = len(New.__struct_fields__)
_KEY, _TOKEN, _LIMIT_KEY, _OWNER = 7, 8, 12, 13


def record_of(row: Any) -> Record:
    """Return the record of a row."""
    if any(row[place] and "\1" in row[place] for place in (_KEY, _TOKEN, _LIMIT_KEY, _OWNER)):
        row = [from_text(value) if isinstance(value, str) else value for value in row]
    return Record(New(*row[:_NEW_COUNT]), State(row[_NEW_COUNT]), *row[_NEW_COUNT + 1 :])
