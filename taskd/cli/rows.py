"""Rows of arguments, as ``taskd map`` reads them from a file, and the conversion of their texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from taskd.protocol.nesting import MAX_VALUE_NESTING, is_too_deep, too_deep

__all__ = ["ERROR_COLUMN", "MAX_ROW", "Kinds", "Row", "convert_text", "read_json", "reason"]

ERROR_COLUMN = "taskd_error"
"""The column with the reason why a row failed. It is ignored when a file is read, so
that the file of failed rows can itself be mapped. In CSV it is the first column, so
that the reason is in the right place even if a row has too few cells."""

MAX_ROW = 64 * 1024 * 1024
"""Bytes of the longest row: several times the longest message by default. It keeps an
unclosed quotation mark at the head of a huge file from filling the memory."""

Kinds: TypeAlias = Mapping[str, str]
"""What the texts for each parameter are converted to, by its name on the wire: its annotation."""

_NUMBERS: dict[str, Callable[[str], float]] = {"int": int, "float": float}
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


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


def convert_text(text: str, annotation: str) -> Any:
    """Convert a text to the type in a parameter's annotation: a number, a truth value, None or text.

    CSV and the command line have only texts. A text that cannot be converted
    is returned as it is, for the server to refuse.
    """
    kinds = {part.strip() for part in annotation.replace("Optional[", "None |").rstrip("]").split("|")}
    if "str" in kinds:
        return text
    if "None" in kinds and text == "":
        return None
    if "bool" in kinds and text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    for name, convert in _NUMBERS.items():
        if name in kinds:
            with suppress(ValueError):
                number = convert(text)
                return number if math.isfinite(number) else text  # JSON has only finite numbers
    return text


def read_json(text: str, kind: Any = Any) -> Any:
    """Read an argument, or a row of arguments, that is JSON. Raises `ValueError` if it is not a `kind`."""
    if is_too_deep(text.encode(), MAX_VALUE_NESTING):
        raise ValueError(too_deep(MAX_VALUE_NESTING))
    return msgspec.json.decode(text, type=kind)
