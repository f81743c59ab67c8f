"""Rows of arguments, as ``taskd map`` reads them from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ERROR_COLUMN", "MAX_ROW", "NO_LIMITS", "Row", "RowLimits", "reason"]

ERROR_COLUMN = "taskd_error"
"""The column with the reason why a row failed. It is ignored when a file is read, so
that the file of failed rows can itself be mapped. In CSV it is the first column, so
that the reason is in the right place even if a row has too few cells."""

MAX_ROW = 64 * 1024 * 1024
"""Bytes of the longest row: several times the longest message by default. It keeps an
unclosed quotation mark at the head of a huge file from filling the memory."""


@dataclass(frozen=True, slots=True)
class RowLimits:
    """The limits of one row: `size` in bytes, and `lines` if cells go on over several."""

    size: int = MAX_ROW
    lines: int = MAX_ROW


NO_LIMITS = RowLimits()
"""Those of a file on the user's own machine."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file, with its arguments or the problem with it.

    `line` is the number of its first line, and `text` its own bytes. `args` is
    None if there is a `problem`. Unless it `is_whole`, its text is not a row by
    itself, whatever stands before and behind it.
    """

    line: int
    text: bytes
    args: Mapping[str, Any] | None
    problem: str = ""
    is_whole: bool = True


def reason(row: Row, why: str) -> str:
    """Return why a row failed, as the file of failed rows has it."""
    return f"line {row.line}: {why}"
