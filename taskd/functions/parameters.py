"""The parameters of a function: JSON arguments checked and converted to Python ones."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from taskd.errors import InvalidParams, quoted

__all__ = ["Parameters", "python_name", "wire_name"]


def wire_name(parameter: str) -> str:
    """The name that a parameter has on the wire: ``from_`` is ``from`` there.

    Only an underscore that keeps a Python keyword apart is dropped.
    """
    bare = parameter.removesuffix("_")
    return bare if keyword.iskeyword(bare) else parameter


def python_name(argument: str) -> str:
    """The inverse of `wire_name`: the parameter that an argument on the wire stands for."""
    return argument + "_" if keyword.iskeyword(argument) else argument


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
MAX_REASON = 500
"""Characters of a reason why an argument does not fit: it may quote the argument."""

_ARRAY_STARTS, _NULL_STARTS = b"[n"
_EXPECTED = re.compile(r"Expected `(?P<expected>.*?)`(?:, got `(?P<got>.*?)`)?(?: - at `\$(?P<path>.*)`)?$")


def _custom_type(info: Any, seen: set[int]) -> type | None:
    """The first type in an annotation that msgspec does not know; None where it knows all."""
    if isinstance(info, msgspec.inspect.CustomType):
        return info.cls
    if id(info) in seen:
        return None  # a structure that holds itself, or one that stands in many places
    seen.add(id(info))
    if isinstance(info, tuple):
        parts: Iterable[Any] = info
    elif isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        parts = (getattr(info, name) for name in info.__struct_fields__)
    else:
        return None
    return next((found for part in parts if (found := _custom_type(part, seen))), None)


_AllDecoder = Callable[[Any], Any]


def _kind(parameter: inspect.Parameter) -> Any:
    """The type that an argument is converted to."""
    annotation = parameter.annotation
    return Any if annotation in (parameter.empty, object) else annotation


class Parameters:
    """The parameters of one function: how JSON arguments become Python ones.

    Raises `TypeError` or `NameError` where an annotation cannot be resolved
    or is no type that JSON can be converted to.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.signature = inspect.signature(function, eval_str=True)
        self._positional: list[inspect.Parameter] = []
        self._named: dict[str, inspect.Parameter] = {}
        self._more_positional: msgspec.json.Decoder[Any] | None = None
        self._more_named: msgspec.json.Decoder[Any] | None = None
        self._decoders: dict[str, msgspec.json.Decoder[Any]] = {}
        for parameter in self.signature.parameters.values():
            decoder = self._decoder(parameter)
            if parameter.kind is parameter.VAR_POSITIONAL:
                self._more_positional = decoder
            elif parameter.kind is parameter.VAR_KEYWORD:
                self._more_named = decoder
            else:
                self._decoders[parameter.name] = decoder
                self._named[wire_name(parameter.name)] = parameter
                if parameter.kind is not parameter.KEYWORD_ONLY:
                    self._positional.append(parameter)
        self._all_named, self._all_positional = self._decoders_of_all()

    def _decoders_of_all(self) -> tuple[_AllDecoder | None, _AllDecoder | None]:
        """What decodes all arguments at once, by name and by position.

        That is several times as fast as one by one, and fails wherever any of
        them is left out or does not fit: then it is done one by one, which
        finds out what is wrong. None where the function takes any number.
        """
        named = list(self._named.items())
        if not named or self._more_positional is not None or self._more_named is not None:
            return None, None
        fields = [(f"argument_{place}", _kind(parameter)) for place, (_, parameter) in enumerate(named)]
        wire_names = {field: name for (field, _), (name, _) in zip(fields, named, strict=True)}
        decoders: list[_AllDecoder | None] = [None, None]
        if len(self._positional) == len(named):
            for place, array_like in enumerate((False, True)):
                struct = msgspec.defstruct(
                    "Arguments", fields, rename=wire_names, array_like=array_like, forbid_unknown_fields=True
                )
                decoders[place] = msgspec.json.Decoder(struct).decode
        return decoders[0], decoders[1]

    @staticmethod
    def _decoder(parameter: inspect.Parameter) -> msgspec.json.Decoder[Any]:
        kind = _kind(parameter)
        if (custom := _custom_type(msgspec.inspect.type_info(kind), set())) is not None:
            raise TypeError(f"parameter {parameter.name}: JSON cannot be converted to {custom!r}")
        return msgspec.json.Decoder(kind)

    def bind(self, args: msgspec.Raw | None) -> tuple[list[Any], dict[str, Any]]:
        """Turn JSON arguments into positional and keyword ones, converted.

        `args` is the JSON text of an object (by name), of an array (by
        position), or None or null for no arguments. Raises `InvalidParams`, which
        names the first argument that does not fit.
        """
        first = _NULL_STARTS if args is None else memoryview(args)[0]
        if args is None or first == _NULL_STARTS:
            return self._bind_named({})
        at_once = self._all_positional if first == _ARRAY_STARTS else self._all_named
        if at_once is not None:
            try:
                return list(msgspec.structs.astuple(at_once(args))), {}
            except Exception:  # noqa: S110  # whatever it is, it is found below as well, and explained
                pass
        try:
            if first == _ARRAY_STARTS:
                return self._bind_positional(_ARRAY.decode(args))
            return self._bind_named(_OBJECT.decode(args))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidParams(f"the arguments cannot be read: {error}") from None

    def _bind_positional(self, values: list[msgspec.Raw]) -> tuple[list[Any], dict[str, Any]]:
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

    def _bind_named(self, values: dict[str, msgspec.Raw]) -> tuple[list[Any], dict[str, Any]]:
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

    @staticmethod
    def _require_default(parameter: inspect.Parameter) -> None:
        if parameter.default is parameter.empty:
            name = wire_name(parameter.name)
            raise InvalidParams(f"argument {name!r} is missing", argument=name, got="nothing")

    @staticmethod
    def _convert(name: str, decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw) -> Any:
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError as error:
            name = quoted(name)
            data = {"argument": name}
            if match := _EXPECTED.match(str(error)):
                found = match.groupdict()
                data["argument"] = name + (found.pop("path") or "")
                data |= {key: value for key, value in found.items() if value}
            raise InvalidParams(f"argument {name!r}: {quoted(str(error), MAX_REASON)}", **data) from None
        except Exception as error:  # a type of the app may check more, and raise what it likes
            why = quoted(f"{type(error).__name__}: {error}", MAX_REASON)
            raise InvalidParams(f"argument {name!r} cannot be read: {why}", argument=name) from None
