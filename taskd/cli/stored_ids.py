"""Ids of stored tasks as people write them: whole, or shortened to how they begin or end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from taskd.cli.stored_view import short_id
from taskd.client import TaskClient
from taskd.errors import InvalidParams, quoted
from taskd.protocol.method_names import GET, LIST

__all__ = ["Target", "as_id", "find_target", "full_id"]

_WHOLE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PART = re.compile(r"[0-9a-f-]+")

MAX_NAMED = 3
"""Tasks that an error about an ambiguous id names."""


def as_id(text: str) -> str:
    """Return a text that can be an id, or a part of one, as ids are written. Raises `ValueError`."""
    text = text.strip().lower()
    if not _PART.fullmatch(text):
        raise ValueError(f"{quoted(text)!r} is not the id of a task, nor how one begins or ends")
    return text


async def full_id(client: TaskClient, text: str) -> str:
    """Return the whole id of the one task or batch whose id begins or ends with `text`.

    A whole id is returned unchanged, whether there is such a task or not.
    Raises `ValueError` for a text that is no part of an id, and `InvalidParams`
    if nothing has it, or several have.
    """
    text = as_id(text)
    if _WHOLE.fullmatch(text):
        return text
    like = {"like": text, "limit": MAX_NAMED + 1}
    tasks = await client.request(LIST, like)
    batches = await client.request(LIST, {**like, "batches": True})
    if not tasks and not batches:
        raise InvalidParams(f"there is no task in this store whose id begins or ends with {text}")
    if len(tasks) + len(batches) > 1:
        names = [f"{short_id(task['task'])} ({task['function']}, {task['state']})" for task in tasks]
        names += [f"{short_id(batch['batch'])} (a batch of {batch['function']})" for batch in batches]
        more = " and others" if len(names) > MAX_NAMED else ""
        raise InvalidParams(
            f"{text} could be any of {', '.join(names[:MAX_NAMED])}{more}: write more of the id, "
            "from its beginning or its end"
        )
    return str(tasks[0]["task"] if tasks else batches[0]["batch"])


@dataclass(frozen=True, slots=True)
class Target:
    """A stored task or a batch, by its whole id."""

    kind: Literal["task", "batch"]
    id: str

    def params(self, **more: Any) -> dict[str, Any]:
        """Return the parameters that name it to a method."""
        return {self.kind: self.id, **more}


async def find_target(client: TaskClient, text: str) -> tuple[Target, dict[str, Any]]:
    """Return the task or the batch with an id, and how it is now.

    Raises as `full_id` does, and `InvalidParams` if there is neither.
    """
    whole = await full_id(client, text)
    target = Target("task", whole)
    try:
        return target, await client.request(GET, target.params())
    except InvalidParams as error:
        target = Target("batch", whole)
        try:
            return target, await client.request(GET, target.params())
        except InvalidParams:
            raise error from None
