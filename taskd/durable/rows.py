"""The rows of a batch, checked against the function's parameters before any of them is accepted.

The daemon knows how many arguments there may be, their names and their kinds;
what else an annotation demands is found out by the worker, as for any task.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from taskd.errors import InvalidParams, quoted
from taskd.functions.descriptions import ParameterInfo
from taskd.functions.kinds import KindName

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


class RowCheck:
    """Checks arguments against a function's parameters; with None, against no particular ones."""

    def __init__(self, parameters: dict[str, ParameterInfo] | None) -> None:
        self._is_open = parameters is None
        given = parameters or {}
        self._places = [name for name, each in given.items() if each.passed == "either"]
        named = {name: each for name, each in given.items() if each.passed in ("either", "by_name")}
        self._types = {name: _types(each) for name, each in named.items()}
        self._required = {name for name, each in named.items() if each.required}
        self._more_positions = any(each.passed == "more_positions" for each in given.values())
        self._more_names = any(each.passed == "more_names" for each in given.values())

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
        if len(values) > len(self._places) and not self._more_positions:
            raise InvalidParams(
                f"{where}: takes {len(self._places)} positional arguments, got {len(values)}",
                argument=where,
                expected=len(self._places),
                got=len(values),
            )
        given = dict(zip(self._places, values, strict=False))
        self._check_values(given, where)

    def _check_object(self, values: dict[str, Raw], where: str) -> None:
        if not self._more_names:
            for name in values:
                if name not in self._types:
                    known = ", ".join(self._types) or "none"
                    raise InvalidParams(
                        f"{where}: no parameter {quoted(name)!r}; the parameters are: {known}", argument=where
                    )
        self._check_values({name: values[name] for name in values if name in self._types}, where)

    def _check_values(self, given: dict[str, Raw], where: str) -> None:
        for name in self._required:
            if name not in given:
                raise InvalidParams(f"{where}: argument {name!r} is missing", argument=where, got="nothing")
        for name, value in given.items():
            got = _TYPES[memoryview(value)[0]]
            types = self._types[name]
            if got not in types:
                expected = " | ".join(types)
                raise InvalidParams(
                    f"{where}: argument {name!r}: expected {expected}, got {got}",
                    argument=where,
                    expected=expected,
                    got=got,
                )


def _types(parameter: ParameterInfo) -> list[KindName]:
    # Whether a number is an integer depends on more than its first character: 1.0 is one.
    types: list[KindName] = ["number" if kind.type == "integer" else kind.type for kind in parameter.kinds]
    return list(dict.fromkeys(types))


def _with_article(name: KindName) -> str:
    if name == "null":
        return name
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"
