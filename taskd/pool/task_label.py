"""The label of a task in the log: as text in its lines, and as fields for programs."""

from __future__ import annotations

from dataclasses import dataclass

from taskd.model import StoredCall
from taskd.scheduler.task import Task

__all__ = ["TaskLabel", "label_of"]


@dataclass(frozen=True, slots=True)
class TaskLabel:
    """A task for the log: its function, its number and, if it has them, its stored id and its trace's."""

    function: str
    number: int
    id: str | None = None
    trace_id: str | None = None

    def __str__(self) -> str:
        """Return the name of the task in a line."""
        return f"{self.function} #{self.number}"

    def fields(self) -> dict[str, str | int | None]:
        """Return the values for an event of the log."""
        return {"function": self.function, "task": self.number, "id": self.id, "trace_id": self.trace_id}


def label_of(task: Task) -> TaskLabel:
    """Return what the log says of a task."""
    call, parent = task.call, task.call.options.traceparent
    return TaskLabel(
        task.stats.name,
        task.number,
        call.id if isinstance(call, StoredCall) else None,
        None if parent is None else parent.split("-")[1],
    )
