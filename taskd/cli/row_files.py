"""The file of rows that ``taskd map`` reads: opened once, and checked before the first call."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from taskd.rows.conversion import Convert
from taskd.rows.csv_rows import CsvRows
from taskd.rows.json_rows import JsonRows
from taskd.rows.row import Row
from taskd.rows.texts import BOM, HEAD, check_encoding, lines_of

__all__ = ["STDIN", "RowFile", "RowFormat"]

STDIN = "-"
"""The name that stands for the standard input."""


class RowFormat(Protocol):
    """The rows in one kind of file, and how failed ones are written."""

    header: bytes
    """What the file of failed rows begins with."""

    def count(self) -> int:
        """Return the number of rows; what is left of the file is read."""

    def read(self, convert: Convert) -> Iterator[Row]:
        """Yield the rows, with what `convert` makes of the cells of CSV."""

    def failed(self, row: Row, why: str) -> bytes:
        """Return what the file of failed rows has for a row: its own text, and the reason."""


class RowFile:
    """A file of rows, or the standard input.

    What can be read only once, such as a pipe, is copied to a temporary file
    first, so that no call is made before the whole file was seen. Raises
    `ValueError` for a file that cannot have rows, and `OSError`.
    """

    def __init__(self, name: str) -> None:
        self.name = "the standard input" if name == STDIN else name
        self._path = Path("stdin" if name == STDIN else name)
        self._file = _open(name)
        self._began = self._look()
        head = self._head()
        self._start = len(BOM) if head.startswith(BOM) else 0
        check_encoding(self.name, head)
        self.is_csv = _is_csv(self._path, head)

    @property
    def failed_name(self) -> str:
        """The default name of the file of failed rows."""
        return f"{self._path.stem}.failed{self._path.suffix or ('.csv' if self.is_csv else '.jsonl')}"

    def rows(self) -> RowFormat:
        """Return the rows, from the first. Raises `ValueError` if the header is unusable."""
        self._file.seek(self._start)
        lines = lines_of(self.name, self._file)
        bom = BOM if self._start else b""
        return CsvRows(self.name, lines, bom) if self.is_csv else JsonRows(lines, bom)

    def has_changed(self) -> bool:
        """Return whether the file was written to since it was opened."""
        return self._look() != self._began

    def _look(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def _head(self) -> bytes:
        self._file.seek(0)
        return self._file.read(HEAD)


def _open(name: str) -> BinaryIO:
    """Open a file that can be read several times: itself, or a copy of what can be read once."""
    opened: BinaryIO = sys.stdin.buffer if name == STDIN else open(name, "rb")  # noqa: SIM115
    if stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        return opened
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    shutil.copyfileobj(opened, copy)
    copy.flush()
    if name != STDIN:
        opened.close()
    return copy


def _is_csv(path: Path, head: bytes) -> bool:
    """Return whether a file is CSV: by its name, or by its beginning if the name has no extension."""
    if not path.suffix:
        return not head.removeprefix(BOM).lstrip().startswith(b"{")
    return path.suffix.lower() not in (".jsonl", ".ndjson", ".json")
