"""The operations of the HTTP API: their methods and paths, what they take, and how they may end.

The routes, the handlers and the OpenAPI document all come from this table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta, Raw

from taskd.model import NO_SUBMIT_OPTIONS, SubmitOptions
from taskd.protocol.stored_methods import NOT_GIVEN, STATES
from taskd.web.media import CSV, EVENT_STREAM, JSON

__all__ = [
    "IDEMPOTENCY_KEY",
    "MAX_SEQ",
    "OPERATIONS",
    "ROOT",
    "BatchQuery",
    "CsvQuery",
    "EventsQuery",
    "ListBatchesQuery",
    "ListQuery",
    "NewBatch",
    "NewTask",
    "NoQuery",
    "Operation",
    "TaskQuery",
    "WaitQuery",
    "find",
    "methods_of",
    "takes_body",
]

ROOT = b"/api/v1/"
"""The beginning of every path of the API."""

MAX_WAIT = 60
"""Seconds for which a request may wait for the end of a task: proxies give up after about as many."""

MAX_SEQ = 10**18 - 1
"""A number that no event has: those of a batch are small, those of a task begin anew with each attempt."""

IDEMPOTENCY_KEY = r'^(?:"([!#-~]{1,200})"|([!#-~]{1,200}))$'
"""A header Idempotency-Key: a token (`taskd.model.Token`), in quotation marks or not."""

Wait = Annotated[
    float, Meta(gt=0, le=MAX_WAIT, description="Seconds to wait for the end, before the answer is sent.")
]
After = Annotated[str, Meta(description="The id after which the list goes on: `next` of the last one.")]
Limit = Annotated[int, Meta(ge=1, le=1000, description="How many at most.")]


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query of an operation that has none."""


class WaitQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query of an operation that can wait for the end of a task."""

    wait: Wait | None = None


class TaskQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query about one task."""

    wait: Wait | None = None
    with_args: Annotated[bool, Meta(description="Whether the answer has the arguments, too.")] = False


class BatchQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query about one batch."""

    wait: Wait | None = None


class ListQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query for a list of tasks."""

    state: Literal[STATES] | None = None  # type: ignore[valid-type]
    function: str | None = None
    key: str | None = None
    batch: str | None = None
    like: Annotated[str, Meta(min_length=1, description="How their ids begin or end.")] | None = None
    after: Annotated[
        str, Meta(description="The id after which the list goes on: `next` of the last one.")
    ] = ""
    limit: Limit = 100


class ListBatchesQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query for a list of batches, which has fewer conditions than that for tasks."""

    like: Annotated[str, Meta(min_length=1, description="How their ids begin or end.")] | None = None
    after: Annotated[
        str, Meta(description="The id after which the list goes on: `next` of the last one.")
    ] = ""
    limit: Limit = 100


class EventsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query for the events of a task or a batch."""

    after: Annotated[
        int, Meta(ge=0, le=MAX_SEQ, description="The number of the last event that is known.")
    ] = 0
    limit: Limit = 1000


class CsvQuery(SubmitOptions, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The query of a batch whose body is CSV: what a body of JSON has itself, but for the arguments."""

    function: Annotated[str, Meta(description="The function, if the body is CSV.")] | None = None
    then: Annotated[str, Meta(description="The function that follows, if the body is CSV.")] | None = None

    @property
    def options(self) -> SubmitOptions:
        """The options of each task."""
        return SubmitOptions(*(getattr(self, name) for name in SubmitOptions.__struct_fields__))


class NewTask(msgspec.Struct, forbid_unknown_fields=True):
    """A task that is submitted: its function, its arguments by name or by position, and its options."""

    function: str
    args: Raw = NOT_GIVEN
    options: SubmitOptions = NO_SUBMIT_OPTIONS


class NewBatch(msgspec.Struct, forbid_unknown_fields=True):
    """A batch that is submitted: the arguments of each of its tasks, and a function that follows."""

    function: str
    args: list[Raw]
    options: SubmitOptions = NO_SUBMIT_OPTIONS
    then: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API.

    `name` is its name in the OpenAPI document. `path` goes behind `ROOT`, with ``{task}`` or
    ``{batch}`` for an id. `successes` has what its answers mean, by their statuses, `failures` the
    statuses of its problems, besides those that all operations have. `types` are the media
    types that its answers may have, `body_types` those of its body. `headers` are those of its
    requests that mean something.
    """

    name: str
    method: bytes
    path: str
    summary: str
    successes: dict[int, str]
    query: type[msgspec.Struct] = NoQuery
    body: type[msgspec.Struct] | None = None
    failures: tuple[int, ...] = ()
    types: tuple[str, ...] = (JSON,)
    body_types: tuple[str, ...] = (JSON,)
    headers: tuple[str, ...] = ()
    segments: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.path.split("/")))

    def ids(self, segments: list[str]) -> dict[str, str] | None:
        """Return the ids in a path, by their names; None if the path is not of this operation."""
        if len(segments) != len(self.segments):
            return None
        found = {}
        for own, given in zip(self.segments, segments, strict=True):
            if own.startswith("{"):
                if not given:
                    return None
                found[own[1:-1]] = given
            elif own != given:
                return None
        return found


OPERATIONS = (
    Operation(
        "submitTask",
        b"POST",
        "tasks",
        "Submit a task.",
        {202: "The task is stored, or has not ended in time.", 200: "The task has ended in time."},
        WaitQuery,
        NewTask,
        (422,),
        headers=("Idempotency-Key", "traceparent"),
    ),
    Operation("listTasks", b"GET", "tasks", "List tasks.", {200: "Tasks, without results."}, ListQuery),
    Operation("getTask", b"GET", "tasks/{task}", "Show a task.", {200: "The task."}, TaskQuery),
    Operation(
        "cancelTask",
        b"DELETE",
        "tasks/{task}",
        "Cancel a task.",
        {200: "What the task was, once it has ended."},
    ),
    Operation(
        "retryTask",
        b"POST",
        "tasks/{task}/retry",
        "Put back a task that failed or was set aside.",
        {200: "What the task was."},
        failures=(409,),
    ),
    Operation("explainTask", b"GET", "tasks/{task}/why", "Explain what holds a task.", {200: "The reason."}),
    Operation(
        "taskEvents",
        b"GET",
        "tasks/{task}/events",
        "Show the events of a task: as they happen, or a list.",
        {200: "Events.", 204: "The client has all events."},
        EventsQuery,
        types=(EVENT_STREAM, JSON),
        headers=("Last-Event-ID",),
    ),
    Operation(
        "submitBatch",
        b"POST",
        "batches",
        "Submit many tasks of one function, all or none.",
        {202: "The batch is stored."},
        CsvQuery,
        NewBatch,
        (422,),
        body_types=(JSON, CSV),
        headers=("Idempotency-Key", "traceparent"),
    ),
    Operation("listBatches", b"GET", "batches", "List batches.", {200: "Batches."}, ListBatchesQuery),
    Operation("getBatch", b"GET", "batches/{batch}", "Show a batch.", {200: "The batch."}, BatchQuery),
    Operation(
        "cancelBatch",
        b"DELETE",
        "batches/{batch}",
        "Cancel whatever of a batch has not ended.",
        {200: "What the batch was, once it has ended."},
    ),
    Operation(
        "batchEvents",
        b"GET",
        "batches/{batch}/events",
        "Show the events of a batch: as they happen, or a list.",
        {200: "Events.", 204: "The client has all events."},
        EventsQuery,
        types=(EVENT_STREAM, JSON),
        headers=("Last-Event-ID",),
    ),
    Operation("listFunctions", b"GET", "functions", "List the functions.", {200: "The functions."}),
    Operation("getStatus", b"GET", "status", "Show what the server does.", {200: "The status."}),
    Operation("getDescription", b"GET", "openapi.json", "Describe the API.", {200: "This document."}),
)
"""All operations of the API."""


def find(method: bytes, path: bytes) -> tuple[Operation, dict[str, str]] | None:
    """Return the operation of a path, and the ids in it; None if there is none with this method."""
    segments = _segments(path)
    for operation in OPERATIONS:
        if operation.method == method and (ids := operation.ids(segments)) is not None:
            return operation, ids
    return None


def methods_of(path: bytes) -> tuple[bytes, ...] | None:
    """Return the methods of a path, None if it does not exist. HEAD goes with GET."""
    segments = _segments(path)
    methods = [operation.method for operation in OPERATIONS if operation.ids(segments) is not None]
    if b"GET" in methods:
        methods.insert(methods.index(b"GET") + 1, b"HEAD")
    return tuple(methods) or None


def takes_body(path: bytes) -> bool:
    """Return whether any operation of a path has a body."""
    segments = _segments(path)
    return any(each.body is not None and each.ids(segments) is not None for each in OPERATIONS)


def _segments(path: bytes) -> list[str]:
    parts = path.removeprefix(ROOT).split(b"/")
    return [unquote_to_bytes(part).decode("utf-8", "replace") for part in parts]
