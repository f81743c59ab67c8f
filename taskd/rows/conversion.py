"""Conversion of texts, which the command line and CSV have, to the JSON values that a parameter takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from taskd.errors import quoted
from taskd.functions.descriptions import ParameterInfo
from taskd.functions.kinds import Kind, KindName
from taskd.protocol.nesting import MAX_VALUE_NESTING, is_too_deep, too_deep

__all__ = ["Convert", "TextConverter", "convert_text", "read_json"]

Convert = Callable[[str, str], Any]
"""A function from an argument's name on the wire and its text to its value. Raises `ValueError`."""

MAX_SUGGESTED = 60
"""Characters of a text that a suggestion repeats as JSON; a longer one would hide what is suggested."""

MAX_VALUES = 200
"""Characters of an enumeration's values in an error."""

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_NAMES: dict[KindName, str] = {
    "null": "null (an empty text)",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "string": "a text",
    "array": "a JSON array",
    "object": "a JSON object",
}


def read_json(text: str, kind: Any = Any) -> Any:
    """Read an argument, or a row of arguments, that is JSON. Raises `ValueError` if it is not a `kind`."""
    if is_too_deep(text.encode(), MAX_VALUE_NESTING):
        raise ValueError(too_deep(MAX_VALUE_NESTING))
    return msgspec.json.decode(text, type=kind)


class TextConverter:
    """Converts the texts of a function's arguments by the kinds of values that its parameters take.

    `parameters` are those of `taskd.functions`. `as_json` tells how JSON is
    written in the place where the texts come from, given a name and JSON text.
    An argument of no parameter stays text, for the server to refuse.
    """

    def __init__(self, parameters: Mapping[str, ParameterInfo], as_json: Callable[[str, str], str]) -> None:
        more = [each for each in parameters.values() if each.passed == "more_names"]
        self._more = more[0].kinds if more else []
        self._secret = {name for name, each in parameters.items() if each.secret}
        self._more_are_secret = any(each.secret for each in more)
        self._kinds = {
            name: each.kinds for name, each in parameters.items() if not each.passed.startswith("more_")
        }
        self._as_json = as_json

    def __call__(self, name: str, text: str) -> Any:
        """Return the value of one argument. Raises `ValueError`, with what would be right."""
        kinds = self._kinds.get(name, self._more)
        try:
            return convert_text(text, kinds)
        except ValueError as error:
            if name in self._secret or (name not in self._kinds and self._more_are_secret):
                what = f"argument {quoted(name)!r}, which is secret, is not {_expected(kinds)}"
                raise ValueError(what) from None
            hint = _json_instead(text, kinds)
            suggestion = f"; write {self._as_json(name, hint)}" if hint else ""
            raise ValueError(f"argument {quoted(name)!r}: {error}{suggestion}") from None


def convert_text(text: str, kinds: Sequence[Kind]) -> Any:
    """Convert a text to a value of one of `kinds`; without any, it stays as it is.

    A text stays a text if one is taken. Otherwise it is read as null (if it is
    empty), a truth value, a number, or JSON. Raises `ValueError` if it is none
    of what is taken.
    """
    by_type = {kind.type: kind for kind in kinds}
    string = by_type.get("string")
    if not kinds or (string is not None and (string.enum is None or text in string.enum)):
        return text
    for name, read in _READERS.items():
        kind = by_type.get(name)
        if kind is None or (
            name == "boolean" and ("integer" in by_type or "number" in by_type) and text in "01"
        ):
            continue
        with suppress(ValueError):
            value = read(text.strip())
            if kind.enum is None or value in kind.enum:
                return value
    raise ValueError(f"{quoted(text)!r} is not {_expected(kinds)}")


def _null(text: str) -> None:
    if text not in ("", "null"):
        raise ValueError(text)


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise ValueError(text)
    return _TRUTH[text.lower()]


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)  # JSON has only finite numbers
    return number


def _array(text: str) -> Any:
    return read_json(text, list)


def _object(text: str) -> Any:
    return read_json(text, dict)


_READERS: dict[KindName, Callable[[str], Any]] = {
    "null": _null,
    "boolean": _boolean,
    "integer": int,
    "number": _number,
    "array": _array,
    "object": _object,
}
"""How a text is read, in the order of the attempts: whole numbers before others."""


def _expected(kinds: Sequence[Kind]) -> str:
    """Name what is taken: ``an integer or null``, ``one of 1, 2``."""
    values = [value for kind in kinds for value in kind.enum or ()]
    names = [f"one of {quoted(', '.join(map(str, values)), MAX_VALUES)}"] if values else []
    names += [_NAMES[kind.type] for kind in kinds if kind.enum is None]
    return " or ".join(names)


def _json_instead(text: str, kinds: Sequence[Kind]) -> str:
    """Return JSON that was perhaps meant; "" if the parameter takes neither arrays nor objects."""
    arrays = [kind for kind in kinds if kind.type == "array"]
    if not arrays:
        return '{"name": …}' if any(kind.type == "object" for kind in kinds) else ""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):  # such as [a,b], from which a shell has taken the quotes
        text = text[1:-1]
    if len(text) > MAX_SUGGESTED or any(mark in text for mark in "[]{}\"'"):
        return "[…]"
    try:
        parts = [convert_text(part.strip(), arrays[0].items) for part in text.split(",") if part.strip()]
    except ValueError:
        return "[…]"
    return msgspec.json.encode(parts).decode()
