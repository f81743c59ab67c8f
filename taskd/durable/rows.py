"""The rows of a batch, checked against the function's parameters before any of them is accepted.

The daemon knows how many arguments there may be, their names and their kinds;
what else an annotation demands is found out by the worker, as for any task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import or_
from typing import Any, Literal

import msgspec
from msgspec import Raw

from taskd.errors import InvalidParams, quoted
from taskd.functions.descriptions import ParameterInfo
from taskd.functions.hiding import MASK
from taskd.functions.kinds import Kind, KindName

__all__ = ["RowCheck"]

_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_ARRAY = msgspec.json.Decoder(list[Raw])

_TYPES: dict[int, KindName] = {
    **dict.fromkeys(b"-0123456789", "number"),
    **dict.fromkeys(b"tf", "boolean"),
    ord("n"): "null",
    ord('"'): "string",
    ord("["): "array",
    ord("{"): "object",
}
"""The type of a JSON value, by its first character."""


MAX_EXACT = 4096
"""Bytes of a value of which more is checked than its type: the elements of a long array take time and room
in the daemon, and the worker checks them anyway."""

_PYTHON: dict[KindName, Any] = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": int | float,
    "string": str,
    "array": list,
    "object": dict,
}

_MASK = msgspec.json.encode(MASK)

_WITH_ARTICLE = {"null": "null", "array": "an array", "object": "an object"}


class _Values:
    """The values of one parameter: those of its kinds, or any if there are none."""

    __slots__ = ("_exact", "_is_secret", "_types", "expected")

    def __init__(self, parameter: ParameterInfo) -> None:
        kinds = parameter.kinds
        self._is_secret = parameter.secret
        types: set[KindName] = {"number" if kind.type == "integer" else kind.type for kind in kinds}
        self._types = types or set(_PYTHON)
        self._exact = _exact(kinds)
        self.expected = " | ".join(_texts(kinds))

    def check(self, value: Raw) -> None:
        """Raise `ValueError` with what the value is, if it is none of these."""
        text = memoryview(value)
        if self._is_secret and text == _MASK:
            raise ValueError(f"{MASK}, which is shown in the place of the real value")
        got = _TYPES[text[0]]
        if got not in self._types:
            raise ValueError(got)
        if self._exact is None or text.nbytes > MAX_EXACT:
            return
        try:
            self._exact.decode(value)
        except msgspec.ValidationError:
            another = "another value, which is secret"
            raise ValueError(another if self._is_secret else quoted(bytes(value).decode())) from None


def _texts(kinds: Iterable[Kind]) -> Iterable[str]:
    for kind in kinds:
        if kind.enum is not None:
            yield from (msgspec.json.encode(value).decode() for value in kind.enum)
        elif kind.items:
            items = " | ".join(_texts(kind.items))
            yield f"array of {items}" if len(kind.items) == 1 else f"array of ({items})"
        else:
            yield kind.type


def _exact(kinds: Sequence[Kind]) -> msgspec.json.Decoder[Any] | None:
    """Return a decoder of exactly these kinds, None if types alone decide."""
    if not any(kind.type == "integer" or kind.enum is not None or kind.items for kind in kinds):
        return None
    try:
        return msgspec.json.Decoder(_union(kinds))
    except TypeError:  # such as the literals 1 and true, which msgspec cannot tell apart: the worker can
        return None


def _union(kinds: Iterable[Kind]) -> Any:
    return reduce(or_, map(_python_type, kinds))


def _python_type(kind: Kind) -> Any:
    if kind.enum is not None and kind.type in ("integer", "string"):
        return Literal[tuple(kind.enum)]
    if kind.type == "array" and kind.items:
        return list[_union(kind.items)]  # type: ignore[misc]  # known at run time alone
    return _PYTHON[kind.type]


class RowCheck:
    """Checks arguments against a function's parameters; with None, against no particular ones."""

    def __init__(self, parameters: dict[str, ParameterInfo] | None) -> None:
        self._is_open = parameters is None
        given = parameters or {}
        self._places = [name for name, each in given.items() if each.passed == "either"]
        named = {name: each for name, each in given.items() if each.passed in ("either", "by_name")}
        self._values = {name: _Values(each) for name, each in named.items()}
        self._required = {name for name, each in named.items() if each.required}
        self._more_positions = _more(given, "more_positions")
        self._more_names = _more(given, "more_names")

    def check(self, row: Raw, where: str) -> None:
        """Check the arguments of one task. Raises `InvalidParams`, which begins with `where`."""
        first = memoryview(row)[0]
        if first == ord("["):
            if not self._is_open:
                self._check_array(_ARRAY.decode(row), where)
        elif first == ord("{"):
            if not self._is_open:
                self._check_object(_OBJECT.decode(row), where)
        else:
            got = _TYPES.get(first, "null")
            raise InvalidParams(
                f"{where}: the arguments of a task are an object or an array, not {_with_article(got)}",
                argument=where,
                expected="object | array",
                got=got,
            )

    def _check_array(self, values: list[Raw], where: str) -> None:
        if len(values) > len(self._places) and self._more_positions is None:
            raise InvalidParams(
                f"{where}: takes {len(self._places)} positional arguments, got {len(values)}",
                argument=where,
                expected=len(self._places),
                got=len(values),
            )
        self._check_values(dict(zip(self._places, values, strict=False)), where)
        if self._more_positions is not None:
            for place, value in enumerate(values[len(self._places) :], len(self._places)):
                _check_value(self._more_positions, value, where, f"[{place}]")

    def _check_object(self, values: dict[str, Raw], where: str) -> None:
        if self._more_names is None:
            for name in values:
                if name not in self._values:
                    known = ", ".join(self._values) or "none"
                    raise InvalidParams(
                        f"{where}: no parameter {quoted(name)!r}; the parameters are: {known}", argument=where
                    )
        self._check_values(values, where)

    def _check_values(self, given: dict[str, Raw], where: str) -> None:
        for name in self._required:
            if name not in given:
                raise InvalidParams(f"{where}: argument {name!r} is missing", argument=where, got="nothing")
        for name, value in given.items():
            values = self._values.get(name, self._more_names)
            if values is not None:
                _check_value(values, value, where, repr(quoted(name)))


def _more(parameters: dict[str, ParameterInfo], passed: str) -> _Values | None:
    return next((_Values(each) for each in parameters.values() if each.passed == passed), None)


def _check_value(values: _Values, value: Raw, where: str, name: str) -> None:
    try:
        values.check(value)
    except ValueError as error:
        raise InvalidParams(
            f"{where}: argument {name}: expected {values.expected}, got {error}",
            argument=where,
            expected=values.expected,
            got=str(error),
        ) from None


def _with_article(name: KindName) -> str:
    return _WITH_ARTICLE.get(name, f"a {name}")
