"""The operations of the API, as one literal table: what each takes, and what it answers with.

The table is what the OpenAPI document says of the API (`taskd.web.openapi`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from taskd.durable.attaching import MAX_EVENTS
from taskd.durable.batch_methods import BatchView
from taskd.durable.methods import MAX_LISTED, TaskView
from taskd.durable.reasons import Why
from taskd.functions.registry import FunctionInfo
from taskd.server.status import ServerStatus

__all__ = [
    "ANY_OBJECT",
    "JSON",
    "OPERATIONS",
    "PROBLEM",
    "Answer",
    "Operation",
    "ProblemView",
]

JSON, PROBLEM, CSV, EVENT_STREAM = (
    "application/json",
    "application/problem+json",
    "text/csv",
    "text/event-stream",
)

MAX_WAIT = 60
"""Seconds that an answer waits for the end of a task: proxies give up after about as many."""

Id = Annotated[str, Meta(description="The id of a task or a batch, or the end of one.")]


# --- what comes in -----------------------------------------------------------


class Wait(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long an answer waits for the end of a task, in seconds."""

    wait: (
        Annotated[float, Meta(gt=0, le=MAX_WAIT, description="Wait so many seconds for the end of the task.")]
        | None
    ) = None


class TaskQuery(Wait, frozen=True, forbid_unknown_fields=True):
    """How a task is shown."""

    with_args: Annotated[bool, Meta(description="Whether the arguments are part of the answer.")] = False


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a list."""

    like: Annotated[str, Meta(min_length=1, description="How the ids begin or end.")] | None = None
    after: Annotated[
        str, Meta(description="The id after which the list begins: `next` of the page before.")
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_LISTED)] = 100


class TasksQuery(Page, frozen=True, forbid_unknown_fields=True):
    """Which tasks are listed."""

    state: (
        Literal["scheduled", "waiting", "running", "succeeded", "failed", "cancelled", "expired", "set_aside"]
        | None
    ) = None
    function: str | None = None
    key: str | None = None
    batch: Annotated[str, Meta(description="The id of the batch that they belong to.")] | None = None


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which events of a task or a batch are wanted."""

    after: Annotated[int, Meta(ge=0, description="The `seq` of the last event that is not wanted again.")] = 0
    limit: Annotated[
        int, Meta(ge=1, le=MAX_EVENTS, description="At most so many events, if the answer is a list.")
    ] = MAX_EVENTS


# --- what goes out -----------------------------------------------------------


class ProblemView(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request was refused or has failed (RFC 9457).

    `code` is the error's code in docs/protocol.md; the members of its data follow.
    """

    type: str
    title: str
    status: int
    detail: str
    code: int | None = None


class SubmittedTask(msgspec.Struct, frozen=True):
    """The task that there is now, and whether it was there before (`joined`)."""

    task: str
    joined: bool


class SubmittedBatch(msgspec.Struct, frozen=True):
    """The batch that there is now, its tasks in order, and whether it was there before (`joined`)."""

    batch: str
    tasks: list[str]
    joined: bool


class TaskList(msgspec.Struct, frozen=True):
    """A page of tasks, without results; `next` is the `after` of the next page, null if this is the last."""

    tasks: list[TaskView]
    next: str | None


class BatchList(msgspec.Struct, frozen=True):
    """A page of batches; `next` is the `after` of the next page, null if this is the last."""

    batches: list[BatchView]
    next: str | None


class Was(msgspec.Struct, frozen=True):
    """The state of a task or a batch before it was cancelled or put back."""

    was: str


class EventView(msgspec.Struct, frozen=True):
    """An event of a task or of a batch, with more members by its name (docs/protocol.md)."""

    seq: int
    event: str
    at: float
    task: str | None = None
    batch: str | None = None


class EventList(msgspec.Struct, frozen=True):
    """Events of a task or of a batch."""

    events: list[EventView]


ANY_OBJECT = dict[str, Any]


# --- the table ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """One kind of answer: what it means, the types of its JSON, and its other media types and headers.

    Without `types` it has no body.
    """

    meaning: str
    types: tuple[Any, ...] = ()
    other_types: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: a method and a path below ``/api/v1``, what comes in, and every status that goes out.

    `query` is the structure of the query, `body` ``Task`` or ``Batch`` if the
    body is a request for one (`taskd.web.argument_schemas`).
    """

    method: str
    path: str
    name: str
    summary: str
    answers: Mapping[int, Answer]
    refusals: tuple[int, ...] = ()
    query: type[msgspec.Struct] | None = None
    body: Literal["Task", "Batch"] | None = None
    takes_csv: bool = False
    headers: tuple[str, ...] = ()


_LOCATION = {"Location": "The address of what was accepted."}

_STORE = (403, 421, 429, 502, 503, 504)
"""The refusals of all operations on stored tasks."""

_FOUND = (404, *_STORE)

_BODY = (400, 408, 411, 413, 415, 422)

OPERATIONS = (
    Operation(
        "POST", "/tasks", "submitTask", "Store a task, before it is run.",
        {
            200: Answer("The task has ended while the request waited.", (TaskView,)),
            202: Answer(
                "The task is stored; or, if the request has waited, it has not ended.",
                (SubmittedTask, TaskView),
                headers=_LOCATION,
            ),
        },
        (*_BODY, *_STORE), Wait, "Task", headers=("Idempotency-Key", "traceparent"),
    ),
    Operation(
        "GET", "/tasks", "listTasks", "List tasks in the order of their ids.",
        {200: Answer("A page of tasks.", (TaskList,))}, (400, 422, *_STORE), TasksQuery,
    ),
    Operation(
        "GET", "/tasks/{id}", "getTask", "Show a task.",
        {
            200: Answer("The task; if the request was to wait, it has ended.", (TaskView,)),
            202: Answer("The request has waited, and the task has not ended.", (TaskView,)),
        },
        (400, *_FOUND), TaskQuery,
    ),
    Operation(
        "DELETE", "/tasks/{id}", "cancelTask", "Cancel a task.",
        {200: Answer("What the task was before. It has ended.", (Was,))}, _FOUND,
    ),
    Operation(
        "POST", "/tasks/{id}/retry", "retryTask", "Put back a task that failed or was set aside.",
        {200: Answer("What the task was before. It waits again.", (Was,))}, (409, *_FOUND),
    ),
    Operation(
        "GET", "/tasks/{id}/why", "whyTask", "Say what holds a task.",
        {200: Answer("What holds it, if anything does.", (Why,))}, _FOUND,
    ),
    Operation(
        "GET", "/tasks/{id}/events", "taskEvents", "Send the events of a task, as they happen or as a list.",
        {
            200: Answer("Events.", (EventList,), (EVENT_STREAM,)),
            204: Answer("There will be no more events than those that the client has."),
        },
        (400, *_FOUND), EventsQuery, headers=("Last-Event-ID",),
    ),
    Operation(
        "POST", "/batches", "submitBatch", "Store many tasks of one function, all or none.",
        {202: Answer("All tasks are stored.", (SubmittedBatch,), headers=_LOCATION)},
        (*_BODY, *_STORE), None, "Batch", takes_csv=True, headers=("Idempotency-Key", "traceparent"),
    ),
    Operation(
        "GET", "/batches", "listBatches", "List batches in the order of their ids.",
        {200: Answer("A page of batches.", (BatchList,))}, (400, 422, *_STORE), Page,
    ),
    Operation(
        "GET", "/batches/{id}", "getBatch", "Show a batch.",
        {
            200: Answer("The batch; if the request was to wait, it has ended.", (BatchView,)),
            202: Answer("The request has waited, and the batch has not ended.", (BatchView,)),
        },
        (400, *_FOUND), Wait,
    ),
    Operation(
        "DELETE", "/batches/{id}", "cancelBatch", "Cancel whatever of a batch has not ended.",
        {200: Answer("What the batch was before. It has ended.", (Was,))}, _FOUND,
    ),
    Operation(
        "GET", "/batches/{id}/events", "batchEvents",
        "Send the events of a batch, as they happen or as a list.",
        {
            200: Answer("Events.", (EventList,), (EVENT_STREAM,)),
            204: Answer("There will be no more events than those that the client has."),
        },
        (400, *_FOUND), EventsQuery, headers=("Last-Event-ID",),
    ),
    Operation(
        "GET", "/functions", "listFunctions", "List the functions that can be called.",
        {200: Answer("The functions.", (list[FunctionInfo],))}, _STORE,
    ),
    Operation(
        "GET", "/status", "getStatus", "Show what the server and its workers are doing.",
        {200: Answer("The status.", (ServerStatus,))}, _STORE,
    ),
    Operation(
        "GET", "/openapi.json", "getDescription", "Describe this API: this document.",
        {200: Answer("The document.", (ANY_OBJECT,))}, _STORE,
    ),
)  # fmt: skip
