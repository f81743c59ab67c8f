"""Rows of CSV with a header: cut by their quotation marks into texts that add up to the file, then parsed.

A text that cannot be parsed is never a row. Its lines fail one by one, so that
what an unclosed quotation mark has swallowed is kept line by line.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from taskd.functions.wire_names import wire_name
from taskd.rows.conversion import Convert, read_json
from taskd.rows.row import ERROR_COLUMN, NO_LIMITS, Row, RowLimits, reason

__all__ = ["CsvRows", "CsvText", "cell_as_json"]

MAX_COLUMNS = 10_000
"""Columns of a file: more than any function has parameters, and few enough to be compared at once."""

_AFTER_QUOTE = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')
"""The rest of a quoted cell, with the quotation mark that closes it."""

_QUOTED_CELL = re.compile(rb'"[^"]*"')

_OWN_REASON = rb'line \d+: [^"\r\n%b]*%b'
"""A reason that was written before a text that is not a row by itself."""

_FIRST_CELL = rb'"[^"]*+(?:""[^"]*+)*+"%b|[^"\r\n%b][^\r\n%b]*%b|%b'


@dataclass(frozen=True, slots=True)
class CsvText:
    """One piece of the file: a row's text, or a line that is no row because of a `problem`.

    `line` is the number of its first line. `continues` if it began on an earlier line.
    """

    line: int
    text: bytes
    problem: str = ""
    continues: bool = False

    @property
    def is_blank(self) -> bool:
        """Whether this is an empty line, which is no row."""
        return not self.problem and not self.text.strip(b"\r\n")


class CsvRows:
    """The rows of one CSV file, given its `lines`. Is a `taskd.cli.row_files.RowFormat`.

    The cells are separated by commas; if the first line has none, by its
    semicolons or tabs. Raises `ValueError` if the first line is no header.
    """

    def __init__(
        self, name: str, lines: Iterator[bytes], bom: bytes = b"", limits: RowLimits = NO_LIMITS
    ) -> None:
        csv.field_size_limit(sys.maxsize)  # the server limits what is sent, and a row's text has a limit
        self._lines = enumerate(lines, start=1)
        self._limits = limits
        first = next(self._lines, (1, b""))
        self._delimiter = _delimiter(first[1])
        self._texts = self._cut(first)
        text = next(self._texts)
        self._names = self._header_names(name, text)
        self._errors = self._names.count(ERROR_COLUMN)
        self._line_end = text.text[len(text.text.rstrip(b"\r\n")) :] or b"\n"
        own = b"" if self._names[0] == ERROR_COLUMN else ERROR_COLUMN.encode() + self._delimiter
        self.header = bom + own + self._ended(text.text)
        d = re.escape(self._delimiter)
        self._first_cell = re.compile(_FIRST_CELL % ((d,) * 5))
        self._own_reason = re.compile(_OWN_REASON % (d, d))

    def count(self) -> int:
        """Return the number of rows; what is left of the file is read."""
        return sum(1 for text in self._texts if not text.is_blank)

    def texts(self) -> Iterator[CsvText]:
        """Yield the texts of everything behind the header: with it, they add up to the file."""
        return self._texts

    def read(self, convert: Convert) -> Iterator[Row]:
        """Yield the rows, with what `convert` makes of their cells."""
        for text in self._texts:
            row = self.row(text, convert)
            if row is not None:
                yield row

    def row(self, text: CsvText, convert: Convert) -> Row | None:
        """Return the row that a text is, with what `convert` makes of its cells; None for an empty line."""
        if text.problem:
            return Row(text.line, self._own_text(text), None, text.problem, is_whole=False)
        return None if text.is_blank else self._row(text, convert)

    def failed(self, row: Row, why: str) -> bytes:
        """Return a row's own text behind a cell with the reason."""
        why = reason(row, why)
        delimiter = self._delimiter.decode()
        if not row.is_whole:  # a quoted reason would close what its text leaves open
            why = re.sub(rf'["\r\n{delimiter}]', " ", why)
        elif re.search(rf'["\r\n{delimiter}]', why):
            why = '"' + why.replace('"', '""') + '"'
        return why.encode("utf-8", "backslashreplace") + self._delimiter + self._ended(row.text)

    def _ended(self, text: bytes) -> bytes:
        return text if text.endswith((b"\n", b"\r")) else text + self._line_end

    def _header_names(self, file: str, header: CsvText) -> list[str]:
        if header.problem:
            raise ValueError(f"{file}: line 1 must name the columns; it is {header.problem}")
        if header.is_blank:
            raise ValueError(f"{file} is empty, or line 1 is; the first line names the columns")
        if _is_json(header.text):
            raise ValueError(f"{file}: line 1 is JSON, not names of columns; call such a file .jsonl")
        if b"\0" in header.text:
            raise ValueError(f"{file}: line 1 has NUL bytes: it is UTF-16 or not text at all; write UTF-8")
        try:
            cells = self._cells(header.text)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: line 1 is not UTF-8: {error.reason} at byte {error.start}") from None
        if len(cells) > MAX_COLUMNS:
            raise ValueError(f"{file}: line 1 names {len(cells)} columns, more than {MAX_COLUMNS}")
        names = [wire_name(cell.strip()) for cell in cells]
        named = [name for name in names if name != ERROR_COLUMN]
        if "" in names or len(set(named)) < len(named):
            shown = ", ".join(map(repr, cells))
            raise ValueError(f"{file}: the first line must name each column once: {shown}")
        return names

    def _cells(self, text: bytes) -> list[str]:
        (cells,) = csv.reader([text.decode()], delimiter=self._delimiter.decode(), strict=True)
        return cells

    def _row(self, text: CsvText, convert: Convert) -> Row:
        own = self._own_text(text)
        try:
            cells = self._cells(text.text)
        except UnicodeDecodeError as error:
            bad = text.text[error.start]
            return Row(text.line, own, None, f"not UTF-8: {error.reason} (0x{bad:02x})")
        if len(cells) != len(self._names):
            values, columns = len(cells) - self._errors, len(self._names) - self._errors
            return Row(text.line, own, None, f"{values} values for {columns} columns")
        try:
            args = {
                name: convert(name, cell)
                for name, cell in zip(self._names, cells, strict=True)
                if name != ERROR_COLUMN
            }
        except ValueError as error:
            return Row(text.line, own, None, str(error))
        return Row(text.line, own, args)

    def _own_text(self, text: CsvText) -> bytes:
        """Return a text without the reason that an earlier run has put before it."""
        if self._names[0] != ERROR_COLUMN:
            return text.text
        pattern = self._own_reason if text.continues else self._first_cell
        earlier = pattern.match(text.text)
        return text.text[earlier.end() :] if earlier else text.text

    # --- cutting ---

    def _cut(self, first: tuple[int, bytes]) -> Iterator[CsvText]:
        """Yield texts that add up to the lines.

        A row with text behind a closed quotation mark goes on to where it
        would end if that were allowed: the rest of it must not become a row.
        """
        limits = self._limits
        row: list[tuple[int, bytes]] = []
        size = 0
        too_long, too_long_since = "", 0
        broken_on = 0
        in_quotes = False
        line: tuple[int, bytes] | None = first
        while line is not None:
            in_quotes, is_broken = self._scan(line[1], in_quotes=in_quotes)
            if is_broken:
                broken_on = broken_on or line[0]
            row.append(line)
            size += len(line[1])
            if not too_long and in_quotes and (size > limits.size or len(row) > limits.lines):
                most = f"{limits.size} bytes" if size > limits.size else f"{limits.lines} lines"
                too_long = f"part of a row of more than {most} from line {row[0][0]} on"
                too_long_since = row[0][0]
            if too_long:
                yield from _too_long(row, too_long, too_long_since)
                too_long = too_long if in_quotes else ""
                row, size, broken_on = [], 0, 0
            elif not in_quotes:
                if broken_on:
                    yield from _broken(row, broken_on)
                else:
                    whole = line[1] if len(row) == 1 else b"".join(text for _, text in row)
                    yield CsvText(row[0][0], whole)
                row, size, broken_on = [], 0, 0
            line = next(self._lines, None)
        yield from _unclosed(row)

    def _scan(self, line: bytes, *, in_quotes: bool) -> tuple[bool, bool]:
        """Return whether a line ends in quotes, and whether text follows a closed quotation mark in it."""
        is_broken = False
        if not in_quotes and b'"' not in line:
            return False, is_broken
        text = line.rstrip(b"\r\n")
        at = 0
        while True:
            if in_quotes:
                closed = _AFTER_QUOTE.match(text, at)
                if closed is None:
                    return True, is_broken
                at = closed.end()
                is_broken = is_broken or not (at == len(text) or text.startswith(self._delimiter, at))
            elif text.startswith(b'"', at):
                in_quotes = True
                at += 1
                continue
            at = text.find(self._delimiter, at) + 1
            if not at:
                return False, is_broken
            in_quotes = False


def cell_as_json(name: str, text: str) -> str:  # noqa: ARG001  # the column shows the name
    """Return how an argument is written in CSV, given it as JSON text, for a `TextConverter`."""
    return f"the cell as JSON: {text}"


def _is_json(line: bytes) -> bool:
    """Return whether a line is an object or an array in JSON, or the bracket that begins one."""
    line = line.strip()
    if line in (b"{", b"["):
        return True
    if not line.startswith((b"{", b"[")):
        return False
    try:
        read_json(line.decode())
    except ValueError:
        return False
    return True


def _delimiter(header: bytes) -> bytes:
    bare = _QUOTED_CELL.sub(b"", header)
    return b"," if b"," in bare else next((mark for mark in (b";", b"\t") if mark in bare), b",")


# The problems of texts that are not rows have neither quotation marks nor
# delimiters: they stand before texts in which such marks count.


def _with_blanks(row: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Return lines, each with the blank ones behind it, which alone would become rows."""
    lines = row[:1]
    for number, text in row[1:]:
        if text.strip(b"\r\n"):
            lines.append((number, text))
        else:
            lines[-1] = (lines[-1][0], lines[-1][1] + text)
    return lines


def _broken(row: list[tuple[int, bytes]], broken_on: int) -> Iterator[CsvText]:
    (begin, text), *others = _with_blanks(row)
    at = f" on line {broken_on}" if others else ""
    yield CsvText(begin, text, f"not CSV: text follows the quotation mark that closes a cell{at}")
    for line, more in others:
        yield CsvText(line, more, f"not CSV: part of the row that begins on line {begin}", continues=True)


def _unclosed(row: list[tuple[int, bytes]]) -> Iterator[CsvText]:
    for line, text in _with_blanks(row):
        if line == row[0][0]:
            yield CsvText(line, text, "not CSV: a quotation mark is opened and never closed")
        else:
            problem = f"not CSV: behind the quotation mark that line {row[0][0]} opens and nothing closes"
            yield CsvText(line, text, problem, continues=True)


def _too_long(row: list[tuple[int, bytes]], why: str, begin: int) -> Iterator[CsvText]:
    for line, text in _with_blanks(row):
        yield CsvText(line, text, f"{why}: is a quotation mark missing?", continues=line != begin)
