"""JSON Schemas of what functions take: their arguments, the request for one task, and that for a batch.

They say what is checked before a task is stored (`taskd.durable.rows`): how many
arguments there may be, their names and the kinds of their values. What else an
annotation demands is found out by the worker.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from taskd.durable.batch_methods import MAX_ROWS
from taskd.durable.rows import RowCheck
from taskd.errors import InvalidParams
from taskd.functions.descriptions import ParameterInfo
from taskd.functions.kinds import Kind, kinds_of
from taskd.functions.registry import FunctionInfo
from taskd.model import SubmitOptions
from taskd.store.batches import counts

__all__ = ["Schema", "component_name", "function_schemas", "one_of_functions", "options_schemas"]

Schema = dict[str, Any]
"""A JSON Schema."""

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._]")

_ANYTHING = kinds_of(Any)

_COUNTS = Raw(counts("", 0, 0, 0, 0))
"""What the function is called with that follows a batch."""


def component_name(function: str) -> str:
    """Return a function's name as part of that of a component, in which not all characters are allowed.

    All but ASCII letters, digits, ``.`` and ``_`` become their numbers in hexadecimal between two ``-``.
    """
    return _NOT_IN_NAMES.sub(lambda match: f"-{ord(match[0]):x}-", function)


def function_schemas(functions: Sequence[FunctionInfo]) -> dict[str, Schema]:
    """Return the components for these functions: arguments, and requests, of each."""
    followers = [each.name for each in functions if _follows_batches(each)]
    components: dict[str, Schema] = {}
    for each in functions:
        name = component_name(each.name)
        components[f"Arguments.{name}"] = arguments_schema(each)
        components[f"Task.{name}"] = _request(each, _task_args(each), "SubmitOptions")
        components[f"Batch.{name}"] = _request(each, _batch_args(each), "BatchOptions", then=_then(followers))
    return components


def one_of_functions(kind: str, functions: Sequence[FunctionInfo]) -> Schema:
    """Return the schema of a request for any of these functions; `kind` is ``Task`` or ``Batch``."""
    references = {each.name: f"#/components/schemas/{kind}.{component_name(each.name)}" for each in functions}
    return {
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "function", "mapping": references},
    }


def arguments_schema(function: FunctionInfo) -> Schema:
    """Return the schema of a function's arguments: an object, or an array if they can be given so."""
    parameters = function.parameters
    schema = {"title": function.name, "description": function.signature}
    by_position = _by_position(parameters)
    by_name = _by_name(parameters)
    return schema | (by_name if by_position is None else {"anyOf": [by_name, by_position]})


def _by_name(parameters: dict[str, ParameterInfo]) -> Schema:
    more = _only(parameters, "more_names")
    named = {name: each for name, each in parameters.items() if each.passed in ("either", "by_name")}
    return {
        "type": "object",
        "properties": {name: _described(each) for name, each in named.items()},
        "required": [name for name, each in named.items() if each.required],
        "additionalProperties": False if more is None else value_schema(more.kinds),
    }


def _by_position(parameters: dict[str, ParameterInfo]) -> Schema | None:
    if any(each.required for each in parameters.values() if each.passed == "by_name"):
        return None
    more = _only(parameters, "more_positions")
    places = [each for each in parameters.values() if each.passed == "either"]
    least = max((place for place, each in enumerate(places, 1) if each.required), default=0)
    schema: Schema = {"type": "array", "minItems": least}
    if places:
        schema["prefixItems"] = [_described(each) for each in places]
    if more is None:
        schema["maxItems"] = len(places)
    elif more.kinds != _ANYTHING:
        schema["items"] = value_schema(more.kinds)
    return schema


def _only(parameters: dict[str, ParameterInfo], passed: str) -> ParameterInfo | None:
    return next((each for each in parameters.values() if each.passed == passed), None)


def _described(parameter: ParameterInfo) -> Schema:
    schema = value_schema(parameter.kinds)
    if parameter.secret:
        schema |= {"writeOnly": True}
        if schema.get("type") == "string":
            schema |= {"format": "password"}
    return schema | {"description": parameter.annotation} if parameter.annotation else schema


def value_schema(kinds: Sequence[Kind]) -> Schema:
    """Return the schema of the values that are of one of these kinds."""
    if list(kinds) == _ANYTHING:
        return {}
    schemas = [_of_kind(kind) for kind in kinds]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _of_kind(kind: Kind) -> Schema:
    schema: Schema = {"type": kind.type}
    if kind.enum is not None:
        schema["enum"] = kind.enum
    if kind.items and kind.items != _ANYTHING:
        schema["items"] = value_schema(kind.items)
    return schema


# --- requests ---


def _request(function: FunctionInfo, args: Schema, options: str, then: Schema | None = None) -> Schema:
    once = "Once" if function.durable is not None and function.durable.once else ""
    properties: Schema = {
        "function": {"const": function.name},
        "args": args,
        "options": {"$ref": f"#/components/schemas/{options}{once}"},
    }
    if then is not None:
        properties["then"] = then
    is_needed = then is not None or _needs_arguments(function)
    return {
        "type": "object",
        "description": function.summary,
        "properties": properties,
        "required": ["function", "args"] if is_needed else ["function"],
        "additionalProperties": False,
    }


def _task_args(function: FunctionInfo) -> Schema:
    arguments = {"$ref": f"#/components/schemas/Arguments.{component_name(function.name)}"}
    return arguments if _needs_arguments(function) else {"anyOf": [arguments, {"type": "null"}]}


def _batch_args(function: FunctionInfo) -> Schema:
    row = {"$ref": f"#/components/schemas/Arguments.{component_name(function.name)}"}
    return {"type": "array", "items": row, "maxItems": MAX_ROWS}


def _needs_arguments(function: FunctionInfo) -> bool:
    return any(each.required for each in function.parameters.values())


def _then(followers: list[str]) -> Schema:
    return {
        "description": "The function that is called when all tasks of the batch have ended, with batch, "
        "done, failed, cancelled and total.",
        "enum": [*followers, None],
    }


def _follows_batches(function: FunctionInfo) -> bool:
    """Return whether a function takes the counts of a batch."""
    try:
        RowCheck(function.parameters).check(_COUNTS, "then")
    except InvalidParams:
        return False
    return True


# --- options ---

_AT_OR_DELAY: Schema = {
    "required": ["at", "delay"],
    "properties": {"at": {"type": "string"}, "delay": {"exclusiveMinimum": 0}},
}


def options_schemas() -> dict[str, Schema]:
    """Return the components of a submit's options, and of what batches and functions run once may have."""
    _, components = msgspec.json.schema_components([SubmitOptions], ref_template="")
    every = components["SubmitOptions"]
    every["not"] = _AT_OR_DELAY
    once = {"retries": {"enum": [0, None]}}
    batch = {"key": {"type": "null"}}
    return {
        "SubmitOptions": every,
        "SubmitOptionsOnce": _with(every, once),
        "BatchOptions": _with(every, batch),
        "BatchOptionsOnce": _with(every, once | batch),
    }


def _with(schema: Schema, properties: Schema) -> Schema:
    return {**schema, "properties": {**schema["properties"], **properties}}
