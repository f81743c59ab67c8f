"""Stored tasks for people: their short ids, times, errors and tables."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from taskd.cli.console import table
from taskd.printable import printable

__all__ = ["batches_table", "error_text", "moment", "short_id", "state_text", "tasks_table"]

MAX_ERROR = 100
"""Characters of an error in a table; `taskd show` has all of it."""


def short_id(task: str) -> str:
    """Return the end of an id, which differs where the beginnings of ids are times, and alike."""
    return task.rpartition("-")[2]


def moment(seconds: float) -> str:
    """Format a time, given in seconds since 1970, by the clock on the wall here."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):  # beyond the years that a calendar has
        return f"{seconds:g} s after 1970"


def state_text(task: dict[str, Any]) -> str:
    """Return the state of a task, as a word or two."""
    return str(task["state"]).replace("_", " ")


def error_text(error: Any) -> str:
    """Return an error of the protocol on one line: ``ValueError: no paper``, as far as it has that."""
    if not isinstance(error, dict):
        return ""
    data = error.get("data")
    kind = data.get("type") if isinstance(data, dict) else None
    message = " ".join(printable(str(error.get("message", ""))).split())
    return f"{printable(str(kind))}: {message}" if kind and not message.startswith(str(kind)) else message


def tasks_table(tasks: Iterable[dict[str, Any]]) -> Table:
    """Return a table of tasks, with short ids."""
    made = table("task", "function", "state", "submitted", "attempts", "", right=(4,))
    for task in tasks:
        made.add_row(
            short_id(task["task"]),
            Text(printable(task["function"])),
            state_text(task),
            moment(task["created"]),
            str(task["attempts"]),
            Text(_remark(task)),
        )
    return made


def batches_table(batches: Iterable[dict[str, Any]]) -> Table:
    """Return a table of batches, with short ids."""
    counted = ("done", "failed", "cancelled", "total")
    made = table("batch", "function", "state", "submitted", *counted, right=(4, 5, 6, 7))
    for batch in batches:
        made.add_row(
            short_id(batch["batch"]),
            Text(printable(batch["function"])),
            state_text(batch),
            moment(batch["created"]),
            *(str(batch[name]) for name in counted),
        )
    return made


def _remark(task: dict[str, Any]) -> str:
    remarks = [f"key {printable(task['key'])}"] if task.get("key") else []
    if task["state"] == "scheduled":
        remarks.append(f"due {moment(task['due'])}")
    error = error_text(task.get("error"))
    if error:
        remarks.append(error if len(error) <= MAX_ERROR else f"{error[: MAX_ERROR - 1]}…")
    return ", ".join(remarks)
