"""The rows of arguments in a file (CSV with a header, or JSON lines), and the file of failed rows."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

import msgspec

from taskd.cli.conversion import Convert, read_json
from taskd.functions.parameters import wire_name
from taskd.protocol.framing import MAX_MESSAGE

__all__ = ["ERROR_COLUMN", "FailedRows", "Row", "count_rows", "read_rows"]

ERROR_COLUMN = "taskd_error"
"""The column with the reason why a row failed. It is ignored when a file is read, so
that the file of failed rows can itself be mapped. In CSV it is the first column, so
that the reason is in the right place even if a row has too few cells."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file, with its arguments or the problem with it.

    `line` is the number of its first line. `original` is the row as it was
    read: for CSV the names of the columns and the cells, for JSON lines the
    text. `args` is None if there is a `problem`.
    """

    line: int
    original: tuple[list[str], list[str]] | str
    args: Mapping[str, Any] | None
    problem: str = ""


def is_csv(path: str) -> bool:
    """Return whether a file is CSV, by its name: those of JSON lines end in .jsonl, .ndjson or .json."""
    return Path(path).suffix.lower() not in (".jsonl", ".ndjson", ".json")


def read_rows(path: str, file: TextIO, convert: Convert) -> Iterator[Row]:
    """Yield the rows of an open file; `path` is its name.

    `convert` makes values of the cells of CSV. An unusable row is yielded with
    its problem. Raises `ValueError` if the file as a whole is unusable.
    """
    return _read_csv(path, file, convert) if is_csv(path) else _read_json_lines(file)


def count_rows(path: str, file: TextIO) -> int:
    """Return the number of rows; the file is read to its end."""
    if is_csv(path):
        csv.field_size_limit(MAX_MESSAGE)
        return max(sum(1 for row in csv.reader(file) if row) - 1, 0)
    return sum(1 for line in file if line.strip())


def _read_csv(path: str, file: TextIO, convert: Convert) -> Iterator[Row]:
    csv.field_size_limit(MAX_MESSAGE)
    reader = csv.reader(file, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise ValueError(f"{path}: line 1 is not CSV: {error}") from None
    if not header:
        raise ValueError(f"{path} is empty; the first line names the columns")
    names = [wire_name(name.strip()) for name in header]
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"{path}: the first line must name each column once: {', '.join(header)}")
    begins = reader.line_num + 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Row(begins, (names, []), None, f"not CSV: {error}")
            begins = reader.line_num + 1
            continue
        if cells is None:
            return
        if cells:
            yield _csv_row(begins, names, cells, convert)
        begins = reader.line_num + 1


def _csv_row(line: int, names: list[str], cells: list[str], convert: Convert) -> Row:
    original = (names, cells)
    if len(cells) != len(names):
        return Row(line, original, None, f"{len(cells)} values for {len(names)} columns")
    try:
        args = {
            name: convert(name, cell) for name, cell in zip(names, cells, strict=True) if name != ERROR_COLUMN
        }
    except ValueError as error:
        return Row(line, original, None, str(error))
    return Row(line, original, args)


def _read_json_lines(file: TextIO) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        text = line.strip()
        if not text:
            continue
        try:
            args = read_json(text, dict[str, Any])
        except ValueError as error:
            yield Row(number, text, None, f"not a JSON object: {error}")
        else:
            yield Row(number, text, {name: value for name, value in args.items() if name != ERROR_COLUMN})


class FailedRows:
    """The file of failed rows, in the format of the file that they came from.

    The file is created at `path` when the first row fails; `count` is the number of failed rows.
    """

    def __init__(self, path: str, open_file: Callable[[str], TextIO]) -> None:
        self.path = path
        self.count = 0
        self._open_file = open_file
        self._file: TextIO | None = None

    def add(self, row: Row, why: str) -> None:
        """Write a row and the reason why it failed. Raises `OSError` if it cannot be written."""
        self.count += 1
        why = f"line {row.line}: {why}"
        is_first = self._file is None
        if self._file is None:
            self._file = self._open_file(self.path)
        if isinstance(row.original, str):
            known = {} if row.args is None else {**row.args, ERROR_COLUMN: why}
            self._file.write((msgspec.json.encode(known).decode() if known else row.original) + "\n")
            return
        names, cells = row.original
        writer = csv.writer(self._file)
        if is_first:
            writer.writerow([ERROR_COLUMN, *_without_error(names, names)])
        writer.writerow([why, *_without_error(names, cells)])

    def close(self) -> None:
        """Close the file, if any row has failed."""
        if self._file is not None:
            self._file.close()


def _without_error(names: list[str], cells: list[str]) -> list[str]:
    """Return the cells without the column of an earlier reason; there may be more or fewer than names."""
    return [cell for name, cell in zip_longest(names, cells) if cell is not None and name != ERROR_COLUMN]
