"""Answers of the methods about stored tasks: results, and why there is none."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from taskd.errors import InvalidParams, quoted
from taskd.model import Result
from taskd.protocol.event_lines import Kind
from taskd.server.failures import refused

__all__ = ["refused", "result", "unknown", "unknown_task"]


def result(value: Any) -> Result:
    """Return the result with this value."""
    return Result(Raw(msgspec.json.encode(value)))


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
