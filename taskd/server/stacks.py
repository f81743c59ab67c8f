"""The present work of a worker: its task, and the stacks of its threads."""

from __future__ import annotations

import msgspec

__all__ = ["WorkerStack"]


class WorkerStack(msgspec.Struct, frozen=True):
    """The present work of a worker: its task, for how many `seconds`, and the `stack`, as text for people.

    `function`, `task` and `seconds` are None for a worker without a task. An empty `stack` is
    that of a worker which waits for one; None if it has printed none in time.
    """

    worker: int
    pid: int | None
    function: str | None
    task: int | None
    seconds: float | None
    stack: str | None
