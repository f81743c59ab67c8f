"""The parameters of a function: JSON arguments are checked and converted to Python values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import astuple

from taskd.errors import InvalidParams, quoted
from taskd.functions.raised import one_line, type_name
from taskd.functions.secrets import has_secret
from taskd.functions.signatures import NEEDED_AT_RUN_TIME, resolve, signature, takes_signature_of_another
from taskd.functions.wire_names import wire_name

__all__ = ["Parameters"]


_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_ARRAY = msgspec.json.Decoder(list[Raw])
MAX_REASON = 500
"""Characters of the reason why an argument does not fit: the reason may quote the argument."""

_ARRAY_STARTS, _NULL_STARTS = b"[n"
_EXPECTED = re.compile(
    r"Expected `(?P<expected>[^`]*)`(?P<bound> [^`]*?)?(?:, got `(?P<got>[^`]*)`)?"
    r"(?: - at `\$(?P<path>.*)`)?$"
)

_UNKNOWN_MEMBER = re.compile(r"Object contains unknown field `[^`]*`")

_Bound = tuple[Sequence[Any], dict[str, Any]]
"""Positional and keyword arguments, as a function is called with them."""

_AllDecoder = Callable[[Any], Any]
"""A function that decodes the JSON of all arguments into one structure; omitted ones are `UNSET`."""


def _custom_type(info: Any, seen: set[int]) -> type | None:
    """Find the first type in an annotation that JSON cannot be converted to; None if there is none."""
    if isinstance(info, msgspec.inspect.CustomType):
        return None if info.cls is object or issubclass(info.cls, PurePath) else info.cls
    if id(info) in seen:
        return None  # a structure that contains itself, or that occurs more than once
    seen.add(id(info))
    if isinstance(info, tuple):
        parts: Iterable[Any] = info
    elif isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        parts = (getattr(info, name) for name in info.__struct_fields__)
    else:
        return None
    return next((found for part in parts if (found := _custom_type(part, seen))), None)


def _known_members(error: msgspec.ValidationError, kind: Any) -> str:
    """Return which members there may be, if the error is an unknown one of the structure itself."""
    if _UNKNOWN_MEMBER.fullmatch(str(error)) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"; there may be: {', '.join(kind.__struct_encode_fields__) or 'none'}"
    return ""


def _convert_custom(kind: type, value: Any) -> Any:
    """Convert a JSON value to a type that msgspec does not know, but `_custom_type` lets pass."""
    if kind is object:
        return value
    if not isinstance(value, str):
        raise msgspec.ValidationError(f"Expected `str`, got `{type(value).__name__}`")
    return kind(value)


def _kind(parameter: inspect.Parameter) -> Any:
    """Return the type that an argument is converted to."""
    annotation = parameter.annotation
    return Any if annotation in (parameter.empty, object) else annotation


def _decoder(parameter: inspect.Parameter) -> msgspec.json.Decoder[Any]:
    kind = _kind(parameter)
    try:
        custom = _custom_type(msgspec.inspect.type_info(kind), set())
        decoder = msgspec.json.Decoder(kind, dec_hook=_convert_custom)
    except NameError as error:  # in a structure
        raise TypeError(f"parameter {parameter.name!r}: {error}; {NEEDED_AT_RUN_TIME}") from error
    except Exception as error:  # a union whose members JSON cannot tell apart, for example
        raise TypeError(f"parameter {parameter.name!r}: {error}") from error
    if custom is not None:
        raise TypeError(
            f"parameter {parameter.name!r}: JSON cannot be converted to {custom!r}; annotate what callers "
            "send (a text, a number, a dataclass …), and make the object of it inside the function"
        )
    return decoder


def _all_decoder(parameters: list[inspect.Parameter], *, array_like: bool) -> _AllDecoder:
    """Make a decoder for the arguments of all `parameters` at once.

    The decoder leaves out the defaults: only the function itself knows them for
    sure (a decorator that wraps it may have others than its signature shows).
    """
    fields = [
        (f"argument_{place}", _kind(parameter), *(() if parameter.default is parameter.empty else (UNSET,)))
        for place, parameter in enumerate(parameters)
    ]
    names = {field[0]: wire_name(parameter.name) for field, parameter in zip(fields, parameters, strict=True)}
    struct = msgspec.defstruct(
        "Arguments",
        fields,
        rename=names,
        array_like=array_like,
        kw_only=not array_like,  # in an object, a member with a default may precede one without
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(struct, dec_hook=_convert_custom).decode


def _without_end(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Drop the omitted arguments at the end."""
    end = len(given)
    while end and given[end - 1] is UNSET:
        end -= 1
    return given[:end]


def _convert_secret(name: str, decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw) -> Any:
    """Convert a secret argument. Raises `InvalidParams`, which has nothing of the value but its type."""
    name = quoted(name)
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        why, data = "its value does not fit", {}
        match = _EXPECTED.match(str(error))
        if match is not None and error.__cause__ is None:
            data = {key: value for key in ("expected", "got") if (value := match[key])}
            data["expected"] += match["bound"] or ""
            why = ", ".join(f"{key} {value}" for key, value in data.items())
    except Exception as error:  # a type of the app may run checks that raise anything
        why, data = f"its check has raised {type_name(type(error))}", {}
    # Without the cause, whose text and traceback may have the value.
    raise InvalidParams(f"argument {name!r}, which is secret: {why}", argument=name, **data) from None


class Parameters:
    """The parameters of one function: how JSON arguments become Python ones.

    `signature` has the annotations as they are written, `resolved` the
    parameters with types, `secret` the names of those that are shown nowhere.
    Raises `TypeError`, which names the parameter, if an annotation cannot be
    resolved or is not a type that JSON can be converted to, or if there is no signature.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.signature = signature(function)
        self.resolved = resolve(self.signature, function)
        self.secret = frozenset(each.name for each in self.resolved if has_secret(each.annotation))
        self._is_wrapper = takes_signature_of_another(function)
        self._positional: list[inspect.Parameter] = []
        self._named: dict[str, inspect.Parameter] = {}
        self._more_positional: msgspec.json.Decoder[Any] | None = None
        self._more_named: msgspec.json.Decoder[Any] | None = None
        self._secret_decoders: list[msgspec.json.Decoder[Any]] = []
        self._decoders: dict[str, msgspec.json.Decoder[Any]] = {}
        for parameter in self.resolved:
            decoder = _decoder(parameter)
            if parameter.name in self.secret:
                self._secret_decoders.append(decoder)
            if parameter.kind is parameter.VAR_POSITIONAL:
                self._more_positional = decoder
            elif parameter.kind is parameter.VAR_KEYWORD:
                self._more_named = decoder
            else:
                self._decoders[parameter.name] = decoder
                self._named[wire_name(parameter.name)] = parameter
                if parameter.kind is not parameter.KEYWORD_ONLY:
                    self._positional.append(parameter)
        # In the order of the signature, where keyword-only parameters come last.
        self._names = [(each.name, each.kind is each.POSITIONAL_ONLY) for each in self._named.values()]
        self._most_positional = len(self._positional)
        self._required_positional = sum(each.default is each.empty for each in self._positional)
        self._all_required = self._required_positional == len(self._named)
        # If the last of up to this many arguments was given, all can be passed by position.
        self._no_gap = min(self._required_positional + 1, self._most_positional)
        self._all_named = self._decoder_by_name()
        self._all_positional = self._decoder_by_position()

    def _decoder_by_name(self) -> _AllDecoder | None:
        if self._more_named is not None:
            return None
        return _all_decoder(list(self._named.values()), array_like=False)

    def _decoder_by_position(self) -> _AllDecoder | None:
        only_named = [each for each in self._named.values() if each.kind is each.KEYWORD_ONLY]
        if self._more_positional is not None or any(each.default is each.empty for each in only_named):
            return None
        return _all_decoder(self._positional, array_like=True)

    def bind(self, args: Raw | None) -> _Bound:
        """Turn JSON arguments into positional and keyword ones, converted.

        `args` is the JSON text of an object (by name), of an array (by
        position), or None or null for no arguments. An omitted argument that
        has a default is omitted from the call too. Raises `InvalidParams`,
        which names the first argument that does not fit; its cause is the
        exception of the app's code that has refused the argument, if that did.
        """
        # Decoding all arguments at once is several times as fast as one by one. If
        # anything is wrong it fails, and decoding them one by one finds out what.
        first = _NULL_STARTS if args is None else memoryview(args)[0]
        if args is None or first == _NULL_STARTS:
            return self._bind_named({})
        at_once = self._all_positional if first == _ARRAY_STARTS else self._all_named
        if at_once is not None:
            try:
                given = astuple(at_once(args))
            except Exception:  # noqa: S110  # the slow path below fails as well, with an explanation
                pass
            else:
                if self._all_required:
                    return given, {}
                if given and given[-1] is UNSET:
                    given = _without_end(given)
                if len(given) <= self._no_gap or first == _ARRAY_STARTS:
                    return given, {}
                if (bound := self._around_gaps(given)) is not None:
                    return bound
        return self.bind_one_by_one(args)

    def _around_gaps(self, given: tuple[Any, ...]) -> _Bound | None:
        """Pass keyword-only arguments, and those that follow an omitted one, by name.

        Returns None if one of them is positional-only.
        """
        for value in given:
            if value is UNSET:
                break
        else:
            if len(given) <= self._most_positional:
                return given, {}
        first_by_name = self._required_positional
        while first_by_name < self._most_positional and given[first_by_name] is not UNSET:
            first_by_name += 1
        named: dict[str, Any] = {}
        for place in range(first_by_name, len(given)):
            if (value := given[place]) is not UNSET:
                name, positional_only = self._names[place]
                if positional_only:
                    return None
                named[name] = value
        return given[:first_by_name], named

    def bind_one_by_one(self, args: Raw | None) -> _Bound:
        """Do what `bind` does, but convert each argument separately: slower, with precise errors."""
        if args is None or memoryview(args)[0] == _NULL_STARTS:
            return self._bind_named({})
        try:
            if memoryview(args)[0] == _ARRAY_STARTS:
                return self._bind_positional(_ARRAY.decode(args))
            return self._bind_named(_OBJECT.decode(args))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidParams(f"the arguments cannot be read: {error}") from None

    def _bind_positional(self, values: list[msgspec.Raw]) -> _Bound:
        positional: list[Any] = []
        for parameter, raw in zip(self._positional, values, strict=False):
            positional.append(self._convert(wire_name(parameter.name), self._decoders[parameter.name], raw))
        for raw in values[len(positional) :]:
            if self._more_positional is None:
                raise InvalidParams(
                    f"takes {len(self._positional)} positional arguments, got {len(values)}",
                    expected=len(self._positional),
                    got=len(values),
                )
            positional.append(self._convert(str(len(positional)), self._more_positional, raw))
        for parameter in self._positional[len(values) :]:
            self._require_default(parameter)
        for parameter in self._named.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                self._require_default(parameter)
        return positional, {}

    def _bind_named(self, values: dict[str, msgspec.Raw]) -> _Bound:
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for name, raw in values.items():
            parameter = self._named.get(name)
            if parameter is not None:
                named[parameter.name] = self._convert(name, self._decoders[parameter.name], raw)
            elif self._more_named is not None and name not in self._decoders:
                named[name] = self._convert(name, self._more_named, raw)
            else:
                known = ", ".join(self._named) or "none"
                shown = quoted(name)
                raise InvalidParams(f"no parameter {shown!r}; the parameters are: {known}", argument=shown)
        left_out: str | None = None
        for parameter in self._named.values():
            if parameter.name not in named:
                self._require_default(parameter)
                left_out = left_out or wire_name(parameter.name)
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                if left_out is not None:
                    name = wire_name(parameter.name)
                    raise InvalidParams(f"{name} can be given only along with {left_out}", argument=left_out)
                positional.append(named.pop(parameter.name))
        return positional, named

    def _require_default(self, parameter: inspect.Parameter) -> None:
        if parameter.default is parameter.empty:
            name = wire_name(parameter.name)
            # A wrapper of (*args, **kwargs) does not show what it passes by itself.
            hint = (
                "; if a decorator passes it, __signature__ of the decorator's wrapper must leave it out"
                if self._is_wrapper
                else ""
            )
            raise InvalidParams(f"argument {name!r} is missing{hint}", argument=name, got="nothing")

    def _convert(self, name: str, decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw) -> Any:
        if any(each is decoder for each in self._secret_decoders):
            return _convert_secret(name, decoder, raw)
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError as error:
            name = quoted(name)
            data = {"argument": name}
            if match := _EXPECTED.match(str(error)):
                found = match.groupdict()
                data["argument"] = name + (found.pop("path") or "")
                found["expected"] += found.pop("bound") or ""
                data |= {key: value for key, value in found.items() if value}
            why = quoted(str(error), MAX_REASON) + _known_members(error, decoder.type)
            # The cause, if there is one, is what a check of the app has raised.
            misfit = InvalidParams(f"argument {name!r}: {why}", **data)
            raise misfit from error.__cause__
        except Exception as error:  # a type of the app may run checks that raise anything
            why = quoted(one_line(error), MAX_REASON)
            raise InvalidParams(f"argument {name!r} cannot be read: {why}", argument=name) from error
