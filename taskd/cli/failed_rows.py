"""The file of failed rows: every one is there with its own text, as soon as it has failed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO

from taskd.cli.row_files import RowFormat
from taskd.rows.row import Row

__all__ = ["FailedRows", "free_name"]

TAIL_IN_MEMORY = 1024 * 1024
"""Bytes of texts that are kept for the end of the file in memory; more are on disk."""


class FailedRows:
    """The file of failed rows, in the format of the file that they came from.

    It is created at `path` when the first row fails. Texts that are not rows
    by themselves come last, in their order: one that opens a quotation mark
    would swallow what follows it. `count` is the number of failed rows; those
    that could not be written are `unwritten`.
    """

    def __init__(self, path: str, rows: RowFormat) -> None:
        self.path = path
        self.count = 0
        self.unwritten: list[int] = []
        """The lines of failed rows that could not be written."""
        self._rows = rows
        self._file: BinaryIO | None = None
        self._tail: tempfile.SpooledTemporaryFile[bytes] | None = None
        self._tail_lines: list[int] = []

    def add(self, row: Row, why: str) -> None:
        """Write a row and the reason why it failed. Raises `OSError` if it cannot be written."""
        self.count += 1
        text = self._rows.failed(row, why)
        try:
            if row.is_whole:
                self._write(text)
            else:
                self._keep(text)
                self._tail_lines.append(row.line)
        except OSError:
            self.unwritten.append(row.line)
            raise

    def _keep(self, text: bytes) -> None:
        if self._tail is None:
            self._tail = tempfile.SpooledTemporaryFile(TAIL_IN_MEMORY)  # noqa: SIM115
        self._tail.write(text)

    def _write(self, text: bytes) -> None:
        file = self._file
        if file is None:
            # Unbuffered: what has failed is in the file, however this process ends.
            file = self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115  # until `close`
            self._write(self._rows.header)
        write_whole(file, text)

    def close(self) -> None:
        """Write what comes last and close the file, if any row has failed. Raises `OSError`."""
        try:
            if self._tail is not None:
                self._tail.seek(0)
                if self._file is None:
                    self._write(b"")
                assert self._file is not None
                copyfileobj(self._tail, _Whole(self._file))
        except OSError:
            self.unwritten += self._tail_lines
            raise
        finally:
            if self._tail is not None:
                self._tail.close()
            if self._file is not None:
                self._file.close()


class _Whole:
    """A file to which everything is written, or nothing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        write_whole(self._file, data)
        return len(data)


def write_whole(file: BinaryIO, data: bytes) -> None:
    """Write all of `data` to an unbuffered file. If that fails, remove what was written of it, and raise."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        written = len(data) - len(rest)
        if written and file.seekable():
            os.ftruncate(file.fileno(), file.seek(-written, os.SEEK_CUR))
        raise


def free_name(path: str) -> str:
    """Return `path`, or the first of its numbered names that is free: no earlier rows are overwritten."""
    wanted = Path(path)
    number = 1
    while wanted.exists():
        number += 1
        wanted = Path(path).with_suffix(f".{number}{Path(path).suffix}")
    return str(wanted)
