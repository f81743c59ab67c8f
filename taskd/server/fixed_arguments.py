"""Arguments that a token fixes: added to every call of a function that takes them, and never replaced.

Arguments are JSON texts here, as everywhere in the daemon: they are looked through for the
fixed names, and get the fixed values at their end, where these count even if a name comes twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from taskd.errors import Busy, InvalidParams, NotAllowed, quoted
from taskd.functions.registry import FunctionInfo
from taskd.functions.wire_names import RESERVED
from taskd.protocol.method_names import SUBMIT, SUBMIT_BATCH
from taskd.protocol.methods import bound
from taskd.protocol.requests import Request

__all__ = ["FindFunctions", "Fixed", "check_fixed", "fix_arguments", "fixed_for"]

Fixed: TypeAlias = Mapping[str, Raw]
"""Fixed arguments as JSON texts, by their names on the wire."""

FindFunctions: TypeAlias = Callable[[], Mapping[str, FunctionInfo]]
"""Returns the functions that can be called, by name; none before the app is imported."""

STARTING_SECONDS = 1.0
"""Seconds after which a caller should try again whose function is not known yet: an import takes as long."""

_EMPTY = Raw(b"{}")
_NULL = b"null"
_BLANK = b" \t\r\n"


def fix_arguments(request: Request[Any], fixed: Fixed, functions: FindFunctions) -> None:
    """Put the fixed arguments into a call of a function, or into what is submitted.

    Raises `NotAllowed` if it has others in their place, and `Busy` as long as nobody knows what the
    function takes.
    """
    if not request.function.startswith(RESERVED):
        request.args = _with_fixed(request.function, request.args, fixed, functions)  # type: ignore[misc]
    elif request.function in (SUBMIT, SUBMIT_BATCH):
        args, named = bound(request)
        parameters = submit_parameters(request.function, args, named)
        _fix_submitted(request, parameters, fixed, functions)


def fixed_for(function: str, fixed: Fixed, functions: FindFunctions) -> dict[str, Raw]:
    """Return the fixed arguments that a function takes. Raises `Busy` as `fix_arguments` does."""
    return {name: fixed[name] for name in _names_taken(function, fixed, functions)}


def check_fixed(function: str, args: bytes | None, fixed: Fixed, functions: FindFunctions) -> None:
    """Check the arguments of a call that others may have made: they must have the fixed values.

    Those of a function that is not known must have all of these, since it may come back and take them.
    Raises `NotAllowed`, and `Busy` as `fix_arguments` does.
    """
    names = _names_taken(function, fixed, functions, unknown=list(fixed))
    if not names:
        return
    try:
        [found] = _decoder(tuple(names)).decode(b"[%b]" % (args or b"{}"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None  # they are not given by name
    for place, name in enumerate(names):
        given = UNSET if found is None else getattr(found, f"argument_{place}")
        if given is UNSET or not _is_same(bytes(given), bytes(fixed[name])):
            raise NotAllowed(
                f"{function}: the token fixes the argument {quoted(name)!r}, and the task has another value, "
                "or none by that name",
                reason="argument",
                argument=name,
            )


def _is_same(one: bytes, other: bytes) -> bool:
    """Return whether two JSON texts mean the same value, of the same type."""
    if one == other:
        return True
    try:
        return _canonical(one) == _canonical(other)
    except (ValueError, RecursionError):  # which functions could not read either
        return False


def _canonical(text: bytes) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(text), order="sorted")


def submit_parameters(method: str, args: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a submit by their names."""
    return {**dict(zip(_NAMES[method], args, strict=False)), **named}


_NAMES = {
    SUBMIT: ("function", "args", "options", "token"),
    SUBMIT_BATCH: ("function", "args", "options", "then", "token"),
}


def _fix_submitted(
    request: Request[Any], parameters: dict[str, Any], fixed: Fixed, functions: FindFunctions
) -> None:
    function, args = parameters["function"], parameters.get("args", [])
    if request.function == SUBMIT:
        given = None if isinstance(args, list) or bytes(args) == _NULL else args
        parameters["args"] = _with_fixed(function, given, fixed, functions) or _EMPTY
    else:
        names = _names_taken(function, fixed, functions)
        if names:
            wanted = {name: fixed[name] for name in names}
            _check(function, b"[%b]" % b",".join(map(bytes, args)), wanted)
            parameters["args"] = [_added(bytes(row), wanted) for row in args]
    # Written anew, so that no member is there twice.
    request.args = Raw(msgspec.json.encode(parameters))  # type: ignore[misc]


def _with_fixed(function: str, args: Raw | None, fixed: Fixed, functions: FindFunctions) -> Raw | None:
    names = _names_taken(function, fixed, functions)
    if not names:
        return args
    given = b"{}" if args is None else bytes(args)
    wanted = {name: fixed[name] for name in names}
    _check(function, b"[%b]" % given, wanted)
    return _added(given, wanted)


def _names_taken(
    function: str, fixed: Fixed, functions: FindFunctions, unknown: Sequence[str] = ()
) -> Sequence[str]:
    """Return the names of the fixed arguments that a function takes, or else the `unknown` ones."""
    known = functions()
    if not known:
        why = "the app is being imported, and what its functions take is not known yet"
        raise Busy(why, retry_after=STARTING_SECONDS)
    info = known.get(function)
    if info is None:
        return unknown  # whoever runs a call reports that there is no such function
    parameters = info.parameters
    if any(each.passed == "more_names" for each in parameters.values()):
        return list(fixed)
    return [name for name in fixed if name in parameters]


def _check(function: str, rows: bytes, wanted: Fixed) -> None:
    """Raise `NotAllowed` unless every row gives its arguments by name, and none of them another value."""
    try:
        found = _decoder(tuple(wanted)).decode(rows)
    except msgspec.ValidationError:
        names = ", ".join(wanted)
        raise NotAllowed(
            f"{function}: the token fixes {names}, so the arguments are given by name", reason="argument"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidParams(f"{function}: the arguments cannot be read: {error}") from None
    for place, (name, value) in enumerate(wanted.items()):
        fixed_text, field = bytes(value), f"argument_{place}"
        for row in found:
            given = getattr(row, field)
            if given is not UNSET and bytes(given) != fixed_text:
                raise NotAllowed(
                    f"{function}: the argument {quoted(name)!r} is fixed by the token: leave it out",
                    reason="argument",
                    argument=name,
                )


def _decoder(names: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Return a decoder for rows of arguments that reads these alone."""
    found = _decoders.get(names)
    if found is None:
        if len(_decoders) >= MAX_DECODERS:
            _decoders.clear()
        fields: list[Any] = [(f"argument_{place}", Raw | UnsetType, UNSET) for place in range(len(names))]
        renamed = {f"argument_{place}": name for place, name in enumerate(names)}
        row = msgspec.defstruct("_Row", fields, rename=renamed)
        found = _decoders[names] = msgspec.json.Decoder(list[row])  # type: ignore[valid-type]
    return found


MAX_DECODERS = 100
"""Decoders that are kept: an app fixes arguments by a few names, but whoever signs tokens chooses them."""

_decoders: dict[tuple[str, ...], msgspec.json.Decoder[Any]] = {}


def _added(args: bytes, wanted: Fixed) -> Raw:
    """Return the JSON text of an object with more members at its end."""
    begun = args.strip(_BLANK)[:-1].rstrip(_BLANK)
    more = b",".join([b"%b:%b" % (msgspec.json.encode(name), bytes(value)) for name, value in wanted.items()])
    return Raw(b"%b%b%b}" % (begun, b"" if begun == b"{" else b",", more))
