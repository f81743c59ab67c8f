"""The answers of the API's operations: the types of their JSON, and their headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from taskd.durable.batch_methods import BatchView
from taskd.durable.reasons import Why
from taskd.durable.views import TaskView
from taskd.functions.registry import FunctionInfo
from taskd.server.status import ServerStatus

__all__ = ["ANSWERS", "Answer", "ProblemView"]


class ProblemView(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request was refused or has failed (RFC 9457).

    `code` is the error's code in the JSON-RPC protocol, if it has one; the members of its data follow.
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
    """An event of a task or of a batch, and the members that events with its name have."""

    seq: int
    event: str
    at: float
    task: str | None = None
    batch: str | None = None


class EventList(msgspec.Struct, frozen=True):
    """A part of the events of a task or of a batch; `next` is the `after` of the next part."""

    events: list[EventView]
    next: int


class FunctionList(msgspec.Struct, frozen=True):
    """The functions that can be called."""

    functions: list[FunctionInfo]


Document = dict[str, Any]
"""An OpenAPI document."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON that an operation answers with, which is of one of `types`, and headers: what they mean."""

    types: tuple[Any, ...]
    headers: Mapping[str, str] | None = None


_LOCATION = {"Location": "The address of what was accepted."}

ANSWERS: dict[str, dict[int, Answer]] = {
    "submitTask": {200: Answer((TaskView,), _LOCATION), 202: Answer((SubmittedTask, TaskView), _LOCATION)},
    "listTasks": {200: Answer((TaskList,))},
    "getTask": {200: Answer((TaskView,))},
    "cancelTask": {200: Answer((Was,))},
    "retryTask": {200: Answer((Was,))},
    "explainTask": {200: Answer((Why,))},
    "taskEvents": {200: Answer((EventList,))},
    "submitBatch": {202: Answer((SubmittedBatch,), _LOCATION)},
    "listBatches": {200: Answer((BatchList,))},
    "getBatch": {200: Answer((BatchView,))},
    "cancelBatch": {200: Answer((Was,))},
    "batchEvents": {200: Answer((EventList,))},
    "listFunctions": {200: Answer((FunctionList,))},
    "getStatus": {200: Answer((ServerStatus,))},
    "getDescription": {200: Answer((Document,))},
}
"""By the names of operations and the statuses of their answers; those without a body are left out."""
