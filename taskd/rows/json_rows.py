"""Rows of JSON lines: an object of arguments on each line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from taskd.rows.conversion import Convert, read_json
from taskd.rows.row import ERROR_COLUMN, Row, reason

__all__ = ["JsonRows"]

_NOTE = b'"%b: ' % ERROR_COLUMN.encode()
"""How a line begins that has the reason why the next one failed: a text, which is never a row."""

_OWN_REASON = re.compile(rb'"%b"[ \t]*:[ \t]*"(?:[^"\\]|\\.)*"[ \t]*\}[ \t]*$' % ERROR_COLUMN.encode())
"""An earlier reason, as the last member of a row."""


class JsonRows:
    """The rows of a file of JSON lines, given its `lines`. Is a `taskd.cli.row_files.RowFormat`."""

    def __init__(self, lines: Iterator[bytes], bom: bytes = b"") -> None:
        self._lines = lines
        self.header = bom

    def count(self) -> int:
        """Return the number of rows; what is left of the file is read."""
        return sum(1 for line in self._lines if _is_row(line))

    def read(self, convert: Convert) -> Iterator[Row]:
        """Yield the rows. JSON has numbers of its own: nothing is converted."""
        for number, line in enumerate(self._lines, start=1):
            if _is_row(line):
                yield _row(number, line)

    def failed(self, row: Row, why: str) -> bytes:
        """Return a row with the reason as its last member, or as a line before what is no row."""
        why = reason(row, why)
        if not row.is_whole:
            return json.dumps(f"{ERROR_COLUMN}: {why}").encode() + b"\n" + _ended(row.text)
        text = row.text.rstrip()
        end = row.text[len(text) :]
        members = text[:-1].rstrip()
        comma = b"" if members.endswith(b"{") else b","
        return _ended(
            b'%b%b"%b":%b}%b' % (members, comma, ERROR_COLUMN.encode(), json.dumps(why).encode(), end)
        )


def _ended(text: bytes) -> bytes:
    return text if text.endswith((b"\n", b"\r")) else text + b"\n"


def _is_row(line: bytes) -> bool:
    text = line.strip()
    return bool(text) and not text.startswith(_NOTE)


def _row(number: int, line: bytes) -> Row:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: {error.reason} (0x{line[error.start]:02x})"
        return Row(number, line, None, problem, is_whole=False)
    try:
        args = read_json(text, dict[str, Any])
        json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        return Row(number, line, None, f"not a JSON object: {error}", is_whole=False)
    args.pop(ERROR_COLUMN, None)
    return Row(number, _without_reason(line), args)


def _once(members: list[tuple[str, Any]]) -> None:
    """Raise `ValueError` if an object has a member twice, of which one would be lost."""
    names = [name for name, _ in members if name != ERROR_COLUMN]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {json.dumps(twice)} twice")


def _without_reason(line: bytes) -> bytes:
    """Return an object without the reason that an earlier run has put at its end."""
    text = line.rstrip()
    earlier = _OWN_REASON.search(text)
    if earlier is None:
        return line
    members = text[: earlier.start()].rstrip(b" \t").removesuffix(b",")
    return members + b"}" + line[len(text) :]
