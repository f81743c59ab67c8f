"""Statements that write any number of rows at once: the rows are a JSON array, read by SQLite's `json_each`.

`sqlite3` gives up the interpreter for each step of each statement, and gets it
back once the reactor's thread waits for something: a thousand statements in the
store's thread take twice as long while the reactor is busy, one does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

__all__ = ["FEW", "MAX_TEXT", "Value", "column", "rows_text"]

FEW = 8
"""Rows up to which a statement for each costs less."""

MAX_TEXT = 4096
"""Bytes of a text in such a row at most: longer ones would be copied too often."""

Value = str | int | None
"""A value of a row: no floating point number, since SQLite does not read all their digits."""

_encode = msgspec.json.Encoder().encode


def column(place: int) -> str:
    """Return the SQL expression for the value at a place of each row of `json_each`."""
    return f"json_extract(value, '$[{place}]')"


def rows_text(rows: Iterable[Sequence[Value] | str]) -> str:
    """Return rows, or single values, for `json_each`."""
    return _encode(list(rows)).decode()
