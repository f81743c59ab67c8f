"""The OpenAPI document of the API: made from its operations, our data types and the registered functions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from taskd import __version__
from taskd.functions.registry import FunctionInfo
from taskd.model import Failure
from taskd.protocol.stored_methods import STATES
from taskd.web.api.answers import ANSWERS, ProblemView
from taskd.web.api.argument_schemas import Schema, function_schemas, one_of_functions, options_schemas
from taskd.web.api.table import (
    IDEMPOTENCY_KEY,
    MAX_SEQ,
    OPERATIONS,
    ROOT,
    NewBatch,
    NewTask,
    NoQuery,
    Operation,
)
from taskd.web.media import CSV, JSON
from taskd.web.problems import PROBLEM_TYPE

__all__ = ["openapi"]

OPENAPI = "3.1.0"

_REFERENCE = "#/components/schemas/{name}"

_DESCRIPTION = """\
Tasks that are stored before they are run, and outlive the connection that asked for them.

Times are in seconds: since 1970 if they are points in time. Errors are problems (RFC 9457), whose `code` is
that of the JSON-RPC protocol, and which have the members of its `data`. Integers are written without a
fraction: `5`, not `5.0`.
"""

_STATE: Schema = {"enum": list(STATES)}

_REFINED: dict[tuple[str, str], Schema] = {
    ("TaskView", "state"): _STATE,
    ("TaskView", "error"): {"$ref": _REFERENCE.format(name="Failure")},
    ("TaskView", "args"): {"type": ["array", "object"]},
    ("Why", "state"): _STATE,
    ("BatchView", "state"): {"enum": ["running", "succeeded", "failed", "cancelled"]},
}
"""What our types do not say, since they are JSON text or plain strings there."""

_HEADERS: dict[str, Schema] = {
    "Idempotency-Key": {
        "description": "A second request with the same key joins what the first has submitted.",
        "schema": {"type": "string", "pattern": IDEMPOTENCY_KEY},
    },
    "traceparent": {
        "description": "The place in a trace (W3C Trace Context) that the tasks belong to, unless an option "
        "names one. One that is not valid is ignored.",
        "schema": {"type": "string"},
    },
    "Last-Event-ID": {
        "description": "The `seq` of the last event that the client has; takes the place of `after`.",
        "schema": {"type": "integer", "minimum": 0, "maximum": MAX_SEQ},
    },
}

_REFUSALS = {
    400: "The request cannot be read: its JSON, or a parameter.",
    403: "A page of this origin may not do this, or nobody may over HTTP.",
    404: "There is no such task or batch: it was never accepted here, or has been forgotten.",
    406: "The client accepts no type that there is.",
    408: "The request has not come in time.",
    409: "The task is in a state in which this is not possible.",
    411: "The body must have a length.",
    413: "The body is too long.",
    414: "The request line is too long.",
    415: "The body has another type than those that are taken.",
    421: "The host is not known as a name of this server.",
    422: "There is no such function, or the arguments or options do not fit.",
    429: "The queue or the memory is full.",
    431: "The head of the request is too long, or has too many lines.",
    500: "There is a bug in taskd; see the log.",
    502: "No task server can be reached, or it has gone before it answered.",
    503: "The server is stopping, or its store cannot be used.",
    504: "The task server has not answered in time.",
}

_REFUSALS_OF_ALL = (400, 403, 406, 414, 421, 429, 431, 500, 502, 503, 504)

_REFUSALS_OF_HEADS = {414, 431}
"""The refusals of heads that were not read to the end, whose answers are plain texts."""

_REFUSALS_OF_BODIES = (408, 411, 413, 415)

_KINDS: dict[type[msgspec.Struct], str] = {NewTask: "Task", NewBatch: "Batch"}
"""The component of each request for every function, by the structure that it is decoded to."""

_RETRY = {429, 503}
"""The refusals that say when to try again."""


def openapi(functions: Sequence[FunctionInfo]) -> Schema:
    """Return the document for a server that has these functions."""
    types = [kind for answers in ANSWERS.values() for answer in answers.values() for kind in answer.types]
    types += [ProblemView, Failure]
    _, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    for (name, member), schema in _REFINED.items():
        components[name]["properties"][member] = schema
    components |= options_schemas()
    components |= function_schemas(functions)
    for schema in components.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    paths: dict[str, Schema] = {}
    for each in OPERATIONS:
        paths.setdefault(f"/{each.path}", {})[each.method.decode().lower()] = _operation(each, functions)
    return {
        "openapi": OPENAPI,
        "info": {"title": "taskd", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": ROOT.decode().rstrip("/")}],
        "paths": paths,
        "components": {"schemas": components, "responses": {str(each): _refusal(each) for each in _REFUSALS}},
    }


def _operation(operation: Operation, functions: Sequence[FunctionInfo]) -> Schema:
    described: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": list(_parameters(operation)),
        "responses": {
            **{str(status): _answer(operation, status) for status in operation.successes},
            **{str(each): {"$ref": f"#/components/responses/{each}"} for each in _refusals(operation)},
        },
    }
    if operation.body is not None:
        content: Schema = {JSON: {"schema": one_of_functions(_KINDS[operation.body], functions)}}
        if CSV in operation.body_types:
            content[CSV] = {"schema": {"type": "string"}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _refusals(operation: Operation) -> list[int]:
    statuses = {*_REFUSALS_OF_ALL, *operation.failures}
    if "{" in operation.path:
        statuses.add(404)
    if operation.body is not None:
        statuses.update(_REFUSALS_OF_BODIES)
    return sorted(statuses)


def _parameters(operation: Operation) -> Iterator[Schema]:
    for name in ("task", "batch"):
        if f"{{{name}}}" in operation.path:
            yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    if operation.query is not NoQuery:
        yield from _query(operation.query)
    for header in operation.headers:
        yield {"name": header, "in": "header", **_HEADERS[header]}


def _query(query: type[msgspec.Struct]) -> Iterator[Schema]:
    _, components = msgspec.json.schema_components([query], ref_template=_REFERENCE)
    schema = components[query.__name__]
    for name, value in schema["properties"].items():
        yield {
            "name": name,
            "in": "query",
            "required": name in schema["required"],
            "schema": _without_null(value),
        }


def _without_null(schema: Schema) -> Schema:
    """Return the schema of a value in a query, which cannot be null: it is left out then."""
    if "anyOf" not in schema:
        return schema
    (one,) = (each for each in schema["anyOf"] if each != {"type": "null"})
    return dict(one)


def _answer(operation: Operation, status: int) -> Schema:
    described: Schema = {"description": operation.successes[status]}
    answer = ANSWERS[operation.name].get(status)
    if answer is None:
        return described
    schemas, _ = msgspec.json.schema_components(answer.types, ref_template=_REFERENCE)
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
    described["content"] = {
        media: {"schema": schema if media == JSON else {"type": "string"}} for media in operation.types
    }
    if answer.headers:
        described["headers"] = _headers(answer.headers)
    return described


def _refusal(status: int) -> Schema:
    content: Schema = {PROBLEM_TYPE: {"schema": {"$ref": _REFERENCE.format(name="ProblemView")}}}
    if status in _REFUSALS_OF_HEADS:
        content = {"text/plain": {"schema": {"type": "string"}}}
    described: Schema = {"description": _REFUSALS[status], "content": content}
    if status in _RETRY:
        described["headers"] = {
            "Retry-After": {
                "description": "Seconds after which it may be different.",
                "schema": {"type": "integer", "minimum": 0},
            }
        }
    return described


def _headers(headers: Mapping[str, str]) -> Schema:
    return {
        name: {"description": meaning, "required": True, "schema": {"type": "string"}}
        for name, meaning in headers.items()
    }
