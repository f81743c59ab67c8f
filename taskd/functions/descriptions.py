"""Descriptions of parameters and signatures, in the names of the wire, for callers."""

from __future__ import annotations

import datetime
import enum
import inspect
import math
from collections.abc import Collection, Iterator
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from taskd.errors import quoted
from taskd.functions.kinds import Kind, kinds_of
from taskd.functions.parameters import Parameters
from taskd.functions.wire_names import wire_name

__all__ = ["ParameterInfo", "describe_parameters", "signature_text"]

MAX_DEFAULT = 100
"""Characters of a default in a signature: it may be a table of a million rows."""

MAX_NUMBER = 2**53
"""The greatest default, or its absolute value, that programs in every language read unchanged."""

Passed = Literal["either", "by_name", "more_positions", "more_names"]

_PASSED: dict[Any, Passed] = {
    inspect.Parameter.KEYWORD_ONLY: "by_name",
    inspect.Parameter.VAR_POSITIONAL: "more_positions",
    inspect.Parameter.VAR_KEYWORD: "more_names",
}


class ParameterInfo(msgspec.Struct, frozen=True):
    """The description of one parameter, as the method `taskd.functions` returns it.

    `kinds` are the kinds of JSON values that it takes. `required` tells whether
    it has no default. `passed` is "either" (by name or by position), "by_name"
    (by name alone), or, for parameters that take any number of arguments,
    "more_positions" (``*args``) or "more_names" (``**kwargs``). `annotation` is
    for people: the annotation as it is written, "" for none. A `secret` argument is shown nowhere.
    `default` is left out if it is no short text, number or truth value, and that of a `secret` parameter.
    """

    kinds: list[Kind]
    required: bool = False
    passed: Passed = "either"
    annotation: str = ""
    secret: bool = False
    default: str | int | float | bool | UnsetType = UNSET


def describe_parameters(parameters: Parameters) -> dict[str, ParameterInfo]:
    """Describe each parameter by its name on the wire, in the order of the signature."""
    written = parameters.signature.parameters
    return {
        wire_name(each.name): ParameterInfo(
            kinds_of(Any if each.annotation is each.empty else each.annotation),
            each.default is each.empty and _PASSED.get(each.kind, "either") in ("either", "by_name"),
            _PASSED.get(each.kind, "either"),
            annotation_text(written[each.name].annotation if each.name in written else each.annotation),
            each.name in parameters.secret,
            UNSET if each.name in parameters.secret else _default(each.default),
        )
        for each in parameters.resolved
    }


def _default(value: Any) -> str | int | float | bool | UnsetType:
    """Return a default as callers would write it, if a form has room for it."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if type(value) is str:
        return value if len(value) <= MAX_DEFAULT else UNSET
    if type(value) is int:
        return value if abs(value) <= MAX_NUMBER else UNSET
    if type(value) is float:
        return value if math.isfinite(value) else UNSET
    return value if type(value) is bool else UNSET


def annotation_text(annotation: Any) -> str:
    """Return an annotation as it is written, "" if there is none."""
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def signature_text(signature: inspect.Signature, secret: Collection[str] = ()) -> str:
    """Return a signature in Python's notation, with the names on the wire: ``(from: str, n: int = 1)``.

    The defaults of `secret` parameters are not shown.
    """
    returned = annotation_text(signature.return_annotation)
    return f"({', '.join(_parts(signature, secret))})" + (f" -> {returned}" if returned else "")


def _parts(signature: inspect.Signature, secret: Collection[str]) -> Iterator[str]:
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    positional_only = kinds.count(inspect.Parameter.POSITIONAL_ONLY)
    first_named = len(kinds)  # of those that need a star of their own before them
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        first_named = kinds.index(inspect.Parameter.KEYWORD_ONLY)
    for index, parameter in enumerate(signature.parameters.values()):
        if index and index == positional_only:
            yield "/"
        if index == first_named:
            yield "*"
        yield _parameter_text(parameter, is_secret=parameter.name in secret)
    if kinds and len(kinds) == positional_only:
        yield "/"


_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def _parameter_text(parameter: inspect.Parameter, *, is_secret: bool) -> str:
    text = _STARS.get(parameter.kind, "") + wire_name(parameter.name)
    annotation = annotation_text(parameter.annotation)
    if annotation:
        text += f": {annotation}"
    if parameter.default is parameter.empty:
        return text
    try:
        default = quoted(" ".join(repr(parameter.default).splitlines()), MAX_DEFAULT)
    except Exception:  # it is an object of the app, whose repr may do anything
        default = "…"
    if is_secret and parameter.default is not None:
        default = "…"
    return f"{text} = {default}" if annotation else f"{text}={default}"
