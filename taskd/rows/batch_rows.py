"""The rows of a batch: all of them have arguments, or nothing is submitted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from taskd.errors import InvalidParams
from taskd.rows.row import Row

__all__ = ["BatchRows"]

MAX_NAMED = 3
"""Wrong rows that are named before a batch is refused."""

HOPELESS = 1000
"""Wrong rows behind which no others need be counted."""

_ROW = re.compile(r"args\[(\d+)\]")
"""How the server names a row of a batch."""


class BatchRows:
    """The rows of the text called `name` that become a batch: `lines` has those on which they begin."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.lines: list[int] = []
        self._wrong = 0
        self._named: list[str] = []

    def take(self, row: Row) -> Mapping[str, Any] | None:
        """Add a row and return its arguments; None if there is a problem with it."""
        if row.args is not None and not row.problem:
            self.lines.append(row.line)
            return row.args
        self._wrong += 1
        if self._wrong <= MAX_NAMED:
            self._named.append(f"line {row.line}: {row.problem}")
        return None

    @property
    def is_hopeless(self) -> bool:
        """Whether so many rows have no arguments that it need not be known how many more do not."""
        return self._wrong >= HOPELESS

    def check(self) -> None:
        """Raise `ValueError`, which names the rows that have no arguments, if there are any."""
        if self._wrong:
            others = f"at least {HOPELESS - MAX_NAMED}" if self.is_hopeless else str(self._wrong - MAX_NAMED)
            more = f"; and {others} more" if self._wrong > MAX_NAMED else ""
            raise ValueError(f"{self._name}: nothing was submitted: {'; '.join(self._named)}{more}")

    def by_line(self, error: InvalidParams) -> InvalidParams:
        """Return the server's refusal of a row with the line of that row, or another refusal as it is."""
        place = _ROW.match(str(error.data.get("argument", "")))
        if place is None or int(place[1]) >= len(self.lines):
            return error
        line = self.lines[int(place[1])]
        what = error.message.removeprefix(f"{place[0]}: ")
        return InvalidParams(
            f"{self._name}: nothing was submitted: line {line}: {what}", **{**error.data, "line": line}
        )
