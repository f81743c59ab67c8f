"""The rows of a batch: all of them have arguments, or nothing is submitted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from taskd.errors import InvalidParams
from taskd.rows.row import Row

__all__ = ["BatchRows"]

MAX_NAMED = 3
"""Wrong rows that are named before a batch is refused."""

_ROW = re.compile(r"args\[(\d+)\]")
"""How the server names a row of a batch."""


class BatchRows:
    """The rows of the text called `name`: their `args`, and on which `lines` they begin.

    Raises `ValueError`, which names the rows that have no arguments.
    """

    def __init__(self, name: str, rows: Iterable[Row]) -> None:
        self._name = name
        self.args: list[Mapping[str, Any]] = []
        self.lines: list[int] = []
        wrong: list[str] = []
        for row in rows:
            if row.problem or row.args is None:
                wrong.append(f"line {row.line}: {row.problem}")
            else:
                self.args.append(row.args)
                self.lines.append(row.line)
        if wrong:
            more = f"; and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
            raise ValueError(f"{name}: nothing was submitted: {'; '.join(wrong[:MAX_NAMED])}{more}")

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
