"""Answers of the methods about stored tasks: results, and why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure as TwistedFailure

from taskd.errors import InvalidParams, quoted
from taskd.model import Outcome, Result
from taskd.protocol.event_lines import Kind
from taskd.server.failures import refused

Value = TypeVar("Value")

__all__ = ["answer_by", "refused", "result", "unknown", "unknown_task"]


def result(value: Any) -> Result:
    """Return the result with this value."""
    return Result(Raw(msgspec.json.encode(value)))


def answer_by(
    reading: Deferred[Value], got: Callable[[Value], object], answer: Callable[[Outcome], object]
) -> None:
    """Call `got` with what is read; what it raises is answered, and so is why nothing can be read."""

    def cannot(reason: TwistedFailure) -> None:
        answer(refused(reason.value))

    reading.addCallback(got).addErrback(cannot)


def unknown_task(task: str) -> InvalidParams:
    """Return the error for an id that is none of this store's tasks."""
    return unknown("task", task)


def unknown(kind: Kind, id: str) -> InvalidParams:  # noqa: A002
    """Return the error for an id that is none of this store's."""
    return InvalidParams(
        f"there is no {kind} {quoted(id)} in this store: it was never accepted here, or has been forgotten "
        "some time after its end (keep)",
        argument=kind,
    )
