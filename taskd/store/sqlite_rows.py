"""The rows of tasks in the SQLite store, as records."""

from __future__ import annotations

from typing import Any

from taskd.store.records import New, Record, State

__all__ = ["BRIEF", "COLUMNS", "record_of"]

_NEW = (
    "id, function, args, options, priority, wanted, deadline, key, token, batch, keep, fixed, limit_key, "
    "owner"
)
COLUMNS = f"{_NEW}, state, created, attempt, errors, losses, due, ended, outcome, last_seq"
"""The columns in the order of the fields of `New` and `Record`."""

BRIEF = COLUMNS.replace(" args,", " NULL,").replace(" outcome,", " iif(state = 3, NULL, outcome),")
"""The same without what may be large."""

_NEW_COUNT = len(New.__struct_fields__)


def record_of(row: Any) -> Record:
    """Return the record of a row."""
    return Record(New(*row[:_NEW_COUNT]), State(row[_NEW_COUNT]), *row[_NEW_COUNT + 1 :])
