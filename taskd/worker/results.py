"""Results of functions as JSON: whatever has an obvious form in it, or a reason that names the place.

msgspec encodes most results by itself, but makes null of NaN and Infinity, and
lets two keys of a dict become the same member. So `encode_result` has it
encode a result twice: as JSON, and as MessagePack in a form that refuses keys
that are no strings, and in which such numbers are easy to find. If anything
is unusual, the result is walked through instead, by `_Walk`, which knows more
types and finds the place that is wrong.

Objects in a result run code of the app, which may raise anything. All of it ends as `NotJSON`.
"""

from __future__ import annotations

import array
import collections
import collections.abc
import datetime
import decimal
import enum
import os
import re
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from math import isfinite
from operator import index
from types import NoneType
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Raw, structs

from taskd.errors import TaskFailed, quoted
from taskd.functions.raised import encodable, one_line, type_name
from taskd.protocol.nesting import MAX_VALUE_NESTING, is_too_deep, too_deep

__all__ = ["NotJSON", "TooDeep", "encode_result"]

MAX_STEPS = 20
"""Steps of a path that an error shows: enough to find a value, and less than a line in most terminals."""

FEW_ITEMS = 20
"""Items of a result up to which it is quicker to look at each than to check what was encoded."""

KNOWN_TYPES = 1000
"""Types whose way into JSON a worker remembers: more than the results of any app have."""

_SCALARS = frozenset({str, int, bool, NoneType})
"""Types whose JSON needs no check."""

_encode = msgspec.json.Encoder().encode
_check = msgspec.msgpack.Encoder(order="deterministic", decimal_format="number").encode
_one_value = msgspec.json.Decoder(Raw).decode
_FLOAT = b"\xcb"
_has_non_finite = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search
"""Finds a float of MessagePack that is not finite; other bytes may look like one."""


MAX_DIGITS = 4300
"""Digits of an integer, as in the protocol. Python has the same limit, unless the app
or the environment has changed it."""


class NotJSON(Exception):
    """A value that JSON cannot hold: `kind` is its type, `steps` lead to it, the innermost first."""

    def __init__(self, kind: type, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.steps: list[str] = []

    def __str__(self) -> str:
        steps = self.steps[::-1]
        more = "…" if len(steps) > MAX_STEPS else ""
        return f"result{''.join(steps[:MAX_STEPS])}{more} {self.reason}"

    def failure(self) -> TaskFailed:
        """Return the error for the caller."""
        reason = encodable(str(self))
        return TaskFailed(f"the result is not JSON: {reason}", type=type_name(self.kind), message=reason)


class TooDeep(NotJSON):
    """A result that is nested deeper than the protocol allows; `kind` is the type of all of it."""

    def __init__(self, kind: type) -> None:
        super().__init__(kind, f"is {too_deep(MAX_VALUE_NESTING)}")

    def __str__(self) -> str:
        return f"result {self.reason}"

    def failure(self) -> TaskFailed:
        """Return the error for the caller, with the limit."""
        error = super().failure()
        error.data["limit"] = MAX_VALUE_NESTING
        return error


def encode_result(result: object) -> bytes:
    """Encode a result as JSON, on one line. Raises `NotJSON` if it cannot be encoded, and nothing else."""
    try:
        value = _encoded(result)
        if len(value) > MAX_DIGITS and sys.get_int_max_str_digits() != MAX_DIGITS:
            value = _encoded_with_own_limit(result)
    except TooDeep:
        raise TooDeep(type(result)) from None
    except NotJSON:
        if sys.get_int_max_str_digits() == MAX_DIGITS:
            raise
        value = _encoded_with_own_limit(result)
    if len(value) > MAX_VALUE_NESTING and is_too_deep(value, MAX_VALUE_NESTING):
        raise TooDeep(type(result))
    return value


def _encoded_with_own_limit(result: object) -> bytes:
    """Encode a result while integers may have as many digits as the protocol allows."""
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(MAX_DIGITS)
    try:
        return _encoded(result)
    finally:
        sys.set_int_max_str_digits(digits)


def _encoded(result: object) -> bytes:
    kind = type(result)
    try:
        value = _encode(result)
        if kind in _SCALARS or _is_plain(result, kind):
            return value
        # A `msgspec.Raw` is copied into `value` as it is.
        _one_value(value)
        if not value.isascii():
            value.decode("utf-8")
        if b"\n" in value:
            value = value.replace(b"\n", b" ")
        if kind is list and b'"' not in value and b"n" not in value:
            return value  # nothing but numbers
        checked = _check(result)
        if _FLOAT not in checked or not _has_non_finite(checked):
            return value
    except BaseException:  # noqa: S110  # the walk explains it, or knows the types that msgspec does not
        pass
    try:
        return _encode(_Walk().plain(result)).replace(b"\n", b" ")
    except NotJSON:
        raise
    except BaseException as error:  # MemoryError, for one
        raise NotJSON(kind, f"cannot be written: {one_line(error)}") from None


def _is_plain(result: Any, kind: type) -> bool:
    """Return True if nothing can be wrong with a result: quick for short ones, and else False."""
    if kind is dict and len(result) <= FEW_ITEMS:
        for key, item in result.items():
            if type(key) is not str or type(item) not in _SCALARS:
                if type(item) is float and type(key) is str and isfinite(item):
                    continue
                return False
        return True
    if kind is list and len(result) <= FEW_ITEMS:
        return _SCALARS.issuperset(map(type, result))
    return kind is float and isfinite(result)


class _Walk:
    """One walk through a result, which makes plain values of everything in it."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def plain(self, value: Any) -> Any:
        """Return a value that msgspec encodes as it should be. Raises `NotJSON`, and nothing else."""
        kind = type(value)
        try:
            return _way(kind)(self, value)  # type: ignore[arg-type]  # a type is hashable
        except NotJSON:
            raise
        except RecursionError:
            raise NotJSON(kind, "is nested too deeply") from None
        except BaseException as error:  # SystemExit too, since it is the app's code that raises it
            raise NotJSON(kind, f"cannot be read: {one_line(error)}") from None

    def array(self, value: Iterable[Any]) -> list[Any]:
        """Return the items of `value`, made plain."""
        self._enter(value)
        made: list[Any] = []
        try:
            for item in value:
                made.append(self.plain(item))  # noqa: PERF401  # the length is the place of the one that fails
        except NotJSON as error:
            error.steps.append(f"[{len(made)}]")
            raise
        self._leave(value)
        return made

    def dictionary(self, value: dict[Any, Any]) -> dict[str, Any]:
        """Return a dict, made plain: its items are those of `dict`, as for msgspec."""
        return self.members(value, dict.items(value))

    def mapping(self, value: Any) -> dict[str, Any]:
        """Return an object with keys, made plain."""
        keys = list(value.keys())
        for key, times in Counter(keys).items():
            if times > 1:  # what has the key is no value then, but all of them
                raise _two_keys(value, self._member(key))
        return self.members(value, ((key, value[key]) for key in keys))

    def members(self, owner: object, items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        """Return `items` as a dict, made plain. Raises `NotJSON` if two keys become one member."""
        self._enter(owner)
        made: dict[str, Any] = {}
        for key, item in items:
            member = self._member(key)
            if member in made:
                raise _two_keys(owner, member)
            try:
                made[member] = self.plain(item)
            except NotJSON as error:
                error.steps.append(f".{quoted(member)}" if member.isidentifier() else f"[{_shown(member)}]")
                raise
        self._leave(owner)
        return made

    def structure(self, value: msgspec.Struct) -> msgspec.Struct:
        """Return a copy with plain members, since only msgspec knows how a `Struct` wants to be encoded."""
        self._enter(value)
        # Of `Struct` itself, since an app's class may have its own.
        copy: msgspec.Struct = msgspec.Struct.__copy__(value)  # type: ignore[attr-defined]
        for field, member in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
            try:
                if (held := getattr(value, field)) is not UNSET:
                    structs.force_setattr(copy, field, self.plain(held))
            except NotJSON as error:
                error.steps.append(f".{member}")
                raise
        self._leave(value)
        return copy

    def listed(self, value: Any) -> Any:
        """Return the items of an array, or the value of a scalar, made plain: those of numpy, for example."""
        dtype = getattr(value, "dtype", None)
        unit = _IN_MICROSECONDS.get(getattr(dtype, "kind", ""))
        if unit is not None and getattr(dtype, "str", "").endswith(_FINER_UNITS):
            value = value.astype(unit)
        items = value.tolist()
        if type(items) is type(value) and hasattr(type(value), "__float__"):
            return _float(value)  # a long double, which has no type of its own in Python
        return self.other(value, items)

    def other(self, value: object, other: object) -> Any:
        """Return `other`, which `value` has given in its place, made plain."""
        if type(other) is type(value):
            raise _unknown(type(value))
        return self.plain(other)

    def _member(self, key: object) -> str:
        """Return the name of the member that a dict's key becomes."""
        kind = type(key)
        try:
            plain = self.plain(key)
        except NotJSON as error:
            raise NotJSON(kind, f"has a key that {error.reason}") from None
        if type(plain) is str:
            return plain
        if type(plain) not in _KEYS:
            raise NotJSON(kind, f"has a key of type {type_name(kind)}: make it a str or a number")
        text = _encode(plain)
        return str(msgspec.json.decode(text)) if text.startswith(b'"') else text.decode()

    def _enter(self, value: object) -> None:
        if id(value) in self._open:
            raise NotJSON(type(value), "contains itself")
        if len(self._open) == MAX_VALUE_NESTING:
            raise TooDeep(type(value))
        self._open.add(id(value))

    def _leave(self, value: object) -> None:
        self._open.discard(id(value))


_Way: TypeAlias = Callable[[_Walk, Any], Any]
"""How a value of one type is made plain."""

_KEYS = frozenset({int, float, bool, NoneType, Raw})
"""Plain types of keys whose JSON is the name of the member, besides str; Raw is that of a date, for one."""


def _shown(member: str) -> str:
    return _encode(quoted(member)).decode()


def _two_keys(owner: object, member: str) -> NotJSON:
    return NotJSON(type(owner), f"has two keys that both become the member {_shown(member)}")


def _is_proxy(kind: type) -> bool:
    """Return whether values of a type claim to be of another one, for which they stand."""
    return any("__class__" in vars(each) for each in kind.__mro__ if each is not object)


def _unknown(kind: type) -> NotJSON:
    if _is_proxy(kind):
        why = "stands for an object of another type: return that one"
    elif issubclass(kind, Iterator):
        why = "can be read only once: make it a list"
    elif hasattr(kind, "__await__"):
        why = "has to be awaited"
    elif hasattr(kind, "__anext__"):
        why = "can be read only once, by async for: make it a list"
    else:
        why = "has no form in JSON: make it a str, a number, a list or a dict"
    return NotJSON(kind, f"is of type {type_name(kind)}, which {why}")


def _text(value: Any) -> str:
    text = str.__str__(value)  # without the methods of a subclass
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            surrogate = ord(text[error.start])
            reason = f"has a lone surrogate, U+{surrogate:04X}, which UTF-8 cannot hold"
            raise NotJSON(type(value), reason) from None
    return text


def _integer(value: Any) -> int:
    # Without the methods of a subclass, of which `index` may return an instance too.
    number = int.__int__(value if issubclass(type(value), int) else index(value))
    if number.bit_length() > 64:
        try:
            _encode(number)
        except ValueError:
            raise NotJSON(type(value), f"has more than {MAX_DIGITS} digits") from None
    return number


def _float(value: Any) -> float:
    number = float.__float__(value if issubclass(type(value), float) else float(value))
    if not isfinite(number):
        raise NotJSON(type(value), f"is {number}, which JSON cannot hold")
    return number


def _decimal(value: decimal.Decimal) -> str:
    plain = decimal.Decimal(value)
    if not plain.is_finite():
        raise NotJSON(type(value), f"is {plain}, which JSON cannot hold")
    return str(plain)


def _leaf(value: object) -> Raw:
    """Have msgspec encode a value at once, so that the place is known if it cannot."""
    return Raw(_encode(value))


def _raw(value: Raw) -> Raw:
    if is_too_deep(bytes(value), MAX_VALUE_NESTING):
        raise TooDeep(Raw)
    try:
        _one_value(value)
        bytes(value).decode("utf-8")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJSON(Raw, f"is a msgspec.Raw that is not JSON: {error}") from None
    return value


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the members of a dataclass or of an attrs class that msgspec encodes."""
    kind = type(value)
    held: dict[str, Any] = getattr(value, "__dict__", {})
    if hasattr(kind, "__dataclass_fields__"):
        names = [name for name in kind.__dataclass_fields__ if name in held or _is_data(kind, name)]
    else:
        slots = [name for each in kind.__mro__ for name in each.__dict__.get("__slots__", ())]
        names = [name for name in [*held, *slots] if not name.startswith("_")]
    for name in dict.fromkeys(names):
        try:
            member = getattr(value, name)
        except AttributeError:
            continue  # it was deleted, or never set
        if member is not UNSET:
            yield name, member


def _is_data(kind: type, name: str) -> bool:
    """Return whether a class has a slot or a property of that name."""
    return any(hasattr(type(each.__dict__.get(name)), "__set__") for each in kind.__mro__)


_WAYS: dict[type, _Way] = {
    str: lambda _, value: _text(value),
    bool: lambda _, value: value,
    NoneType: lambda _, value: value,
    int: lambda _, value: _integer(value),
    float: lambda _, value: _float(value),
    list: _Walk.array,
    tuple: _Walk.array,
    dict: _Walk.dictionary,
    Raw: lambda _, value: _raw(value),
    memoryview: lambda _, value: _leaf(value.tobytes()),
    datetime.datetime: lambda _, value: _leaf(value),
    datetime.date: lambda _, value: _leaf(value),
    datetime.time: lambda _, value: _leaf(value),
    datetime.timedelta: lambda _, value: _leaf(value),
    uuid.UUID: lambda _, value: _leaf(value),
}
"""The ways of types that are frequent, or have no subclasses."""

_WAYS_OF_SUBCLASSES: list[tuple[type | tuple[type, ...], _Way]] = [
    (enum.Enum, lambda walk, value: walk.other(value, value._value_)),
    (str, lambda _, value: _text(value)),
    (int, lambda _, value: _integer(value)),
    (float, lambda _, value: _float(value)),
    ((bytes, bytearray), lambda _, value: _leaf(memoryview(value).tobytes())),
    (decimal.Decimal, lambda _, value: _decimal(value)),
    (datetime.datetime, lambda _, value: _leaf(_plain_datetime(value))),
    (datetime.time, lambda _, value: _leaf(_plain_time(value))),
    (
        datetime.timedelta,
        lambda _, value: _leaf(datetime.timedelta(value.days, value.seconds, value.microseconds)),
    ),
    (datetime.date, lambda _, value: _leaf(datetime.date(value.year, value.month, value.day))),
    (uuid.UUID, lambda _, value: uuid.UUID.__str__(value)),
    (msgspec.Struct, _Walk.structure),
    (array.array, lambda walk, value: walk.other(value, value.tolist())),
    (dict, _Walk.dictionary),
    ((list, tuple), _Walk.array),
]
"""The ways of a type's subclasses; the first that fits."""


def _plain_datetime(value: datetime.datetime) -> datetime.datetime:
    if value.year != value.year:  # like NaN
        raise NotJSON(type(value), f"is {value}, which JSON cannot hold")
    date = (value.year, value.month, value.day)
    return datetime.datetime(
        *date, value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold
    )


def _plain_time(value: datetime.time) -> datetime.time:
    return datetime.time(
        value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold
    )


def _plain_timedelta(value: datetime.timedelta) -> datetime.timedelta:
    return datetime.timedelta(value.days, value.seconds, value.microseconds)


_IN_MICROSECONDS = {"M": "datetime64[us]", "m": "timedelta64[us]"}
_FINER_UNITS = ("[ns]", "[ps]", "[fs]", "[as]")
"""Units of numpy's times that `datetime` does not have: `tolist` would make mere integers of them."""


@lru_cache(KNOWN_TYPES)
def _way(kind: type) -> _Way:
    """Find how values of a type are made plain. Only its type counts: `__class__` may be the app's code."""
    way = _WAYS.get(kind)
    if way is None:
        way = next((way for base, way in _WAYS_OF_SUBCLASSES if issubclass(kind, base)), None)
    return way or _way_by_protocol(kind)


_WAYS_BY_ATTRIBUTE: list[tuple[str, _Way]] = [
    ("__dataclass_fields__", lambda walk, value: walk.members(value, _fields(value))),
    ("__attrs_attrs__", lambda walk, value: walk.members(value, _fields(value))),
    ("model_dump", lambda walk, value: walk.other(value, value.model_dump(mode="json"))),  # Pydantic
    ("isidentifier", lambda _, value: _text(str(value))),  # as a str has: a UserString, a lazy text of Django
    ("tolist", _Walk.listed),
    ("__index__", lambda _, value: _integer(value)),
    ("__float__", lambda _, value: _float(value)),
    ("__fspath__", lambda _, value: _text(os.fsdecode(value))),
]
"""The ways of types of other packages, by what their values can do; the first that fits."""


def _way_by_protocol(kind: type) -> _Way:
    if issubclass(kind, type):
        raise _unknown(kind)  # a class, which may have the attributes of its instances
    if _is_proxy(kind):
        raise _unknown(kind)  # a proxy, whose items may be the keys of a dict or the characters of a str
    for attribute, way in _WAYS_BY_ATTRIBUTE:
        if hasattr(kind, attribute):
            return way
    if hasattr(kind, "keys") and hasattr(kind, "__getitem__"):
        return _Walk.mapping
    if issubclass(kind, collections.abc.Collection):
        return _Walk.array
    raise _unknown(kind)
