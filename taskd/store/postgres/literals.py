"""Values for PostgreSQL: whole columns as one array each, and texts with characters that it has no room for.

Made here rather than by psycopg, which takes a microsecond for each element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Literal", "datas", "flags", "from_text", "numbers", "optional_texts", "texts", "to_text"]


class Literal(str):
    """The literal of an array, which is passed on as it is."""

    __slots__ = ()


def to_text(text: str) -> str:
    """Return a text as PostgreSQL can keep it: without NUL, and in the same order among others."""
    if "\0" in text or "\1" in text:
        return text.replace("\1", "\1\2").replace("\0", "\1\1")
    return text


def from_text(text: str | None) -> str | None:
    """Return the text of which `to_text` has made another."""
    if text is not None and "\1" in text:
        return text.replace("\1\1", "\0").replace("\1\2", "\1")
    return text


def texts(values: Sequence[str]) -> Literal:
    """Return the literal of a `text[]`."""
    joined = '","'.join(values)
    if "\\" in joined or "\0" in joined or "\1" in joined or joined.count('"') > 2 * (len(values) - 1):
        joined = '","'.join(map(_quoted, values))
    return Literal(f'{{"{joined}"}}' if values else "{}")


def _quoted(text: str) -> str:
    return to_text(text).replace("\\", "\\\\").replace('"', '\\"')


def optional_texts(values: Iterable[str | None]) -> Literal:
    """Return the literal of a `text[]`, some of which may be null."""
    parts = ["NULL" if value is None else f'"{_quoted(value)}"' for value in values]
    return Literal(f"{{{','.join(parts)}}}")


def numbers(values: Iterable[float | None]) -> Literal:
    """Return the literal of an array of numbers, some of which may be null."""
    return Literal(f"{{{','.join(['NULL' if value is None else repr(value) for value in values])}}}")


def flags(values: Iterable[bool]) -> Literal:
    """Return the literal of a `boolean[]`."""
    return Literal(f"{{{','.join(['t' if value else 'f' for value in values])}}}")


def datas(values: Iterable[bytes | None]) -> Literal:
    """Return the literal of a `bytea[]`, some of which may be null."""
    parts = ["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]
    return Literal(f"{{{','.join(parts)}}}")
