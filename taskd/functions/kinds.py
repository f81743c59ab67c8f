"""Kinds: which JSON values a parameter takes, as `taskd.functions` tells callers that have only text.

A kind is a small part of JSON Schema, derived from the resolved annotation.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, Literal

import msgspec
from msgspec import inspect as types

__all__ = ["Kind", "KindName", "kinds_of"]

KindName = Literal["null", "boolean", "integer", "number", "string", "array", "object"]

Format = Literal["", "date", "date-time", "time", "duration", "uuid", "base64"]


class Kind(msgspec.Struct, frozen=True, omit_defaults=True):
    """One kind of JSON value: its `type`, as in JSON Schema, where a number may be an integer.

    `enum` lists the values, if there are no others. `items` are the kinds of
    an array's elements, if they all are of the same; empty if nothing is known.
    `format` is how a string is written: as a date, for example; empty if any is taken.
    """

    type: KindName
    enum: list[Any] | None = None
    items: list[Kind] = []
    format: Format = ""


_ANY = tuple(Kind(name) for name in ("null", "boolean", "number", "string", "array", "object"))

_FORMATS: dict[type[types.Type], Format] = {
    types.BytesType: "base64",
    types.ByteArrayType: "base64",
    types.MemoryViewType: "base64",
    types.DateTimeType: "date-time",
    types.DateType: "date",
    types.TimeType: "time",
    types.TimeDeltaType: "duration",
    types.UUIDType: "uuid",
}
"""Types that are strings of a format of their own, by the names of JSON Schema, but for "base64"."""

_ARRAYS = (
    types.ListType, types.SetType, types.FrozenSetType, types.VarTupleType, types.TupleType,
    types.NamedTupleType,
)  # fmt: skip
_OBJECTS = (types.DictType, types.TypedDictType, types.DataclassType, types.StructType)

_PLAIN: dict[type[types.Type], KindName] = {
    types.NoneType: "null",
    types.BoolType: "boolean",
    types.IntType: "integer",
    types.FloatType: "number",
    types.StrType: "string",
    **dict.fromkeys(_FORMATS, "string"),
    **dict.fromkeys(_ARRAYS, "array"),
    **dict.fromkeys(_OBJECTS, "object"),
}


def kinds_of(annotation: Any) -> list[Kind]:
    """Return the kinds of JSON values that can be converted to a resolved annotation, each type once."""
    return _merged(_kinds(types.type_info(annotation), with_items=True))


def _merged(kinds: Iterator[Kind]) -> list[Kind]:
    merged: dict[KindName, Kind] = {}
    for kind in kinds:
        known = merged.get(kind.type)
        if known is None:
            merged[kind.type] = kind
        elif known.enum is not None:
            merged[kind.type] = Kind(kind.type, [*known.enum, *kind.enum]) if kind.enum is not None else kind
    return list(merged.values())


def _kinds(info: types.Type, *, with_items: bool) -> Iterator[Kind]:
    if isinstance(info, types.UnionType):
        for part in info.types:
            yield from _kinds(part, with_items=with_items)
    elif isinstance(info, types.LiteralType):
        yield from map(_one_value, info.values)
    elif isinstance(info, types.EnumType):
        yield from _members(info.cls)
    elif isinstance(info, types.Metadata):
        yield from _kinds(info.type, with_items=with_items)
    elif isinstance(info, types.DecimalType):
        yield from (Kind("string"), Kind("number"))
    elif isinstance(info, types.StructType) and info.array_like:
        yield Kind("array")
    elif isinstance(info, types.CustomType) and issubclass(info.cls, PurePath):
        yield Kind("string")
    elif (name := _PLAIN.get(type(info))) is not None:
        item = getattr(info, "item_type", None) if with_items else None
        # No deeper: a type may contain itself.
        items = [] if item is None else _merged(_kinds(item, with_items=False))
        yield Kind(name, items=items, format=_FORMATS.get(type(info), ""))
    else:
        yield from _ANY


def _members(enumeration: type[enum.Enum]) -> Iterator[Kind]:
    # With a `_missing_` of its own, it makes members of other values too.
    is_open = any("_missing_" in vars(base) for base in enumeration.__mro__ if base is not enum.Enum)
    for member in enumeration:
        kind = _one_value(member.value)
        yield Kind(kind.type) if is_open else kind


def _one_value(value: Any) -> Kind:
    if value is None:
        return Kind("null")
    if isinstance(value, bool):
        return Kind("boolean", [value])
    return Kind("integer" if isinstance(value, int) else "string", [value])
