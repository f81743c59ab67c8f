"""The evidence of a drill: everything that there is to compare once it is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from taskd.drill.plan import Kill
from taskd.drill.runs import Run
from taskd.drill.task_log import Logged
from taskd.drill.work import Asked, AskedBatch

__all__ = ["UNFINISHED", "Evidence", "Stored", "StoredBatch"]

UNFINISHED = frozenset({"scheduled", "waiting", "running"})
"""The states of tasks that have not ended."""


class Stored(msgspec.Struct, frozen=True):
    """A task as the server shows it, and its log. Times are in seconds since 1970."""

    task: str
    function: str
    state: str
    attempts: int = 0
    errors: int = 0
    losses: int = 0
    ended: float | None = None
    batch: str | None = None
    args: list[Any] | dict[str, Any] = msgspec.field(default_factory=list)
    result: Any = None
    error: dict[str, Any] | None = None
    events: Sequence[Logged] = ()

    @property
    def number(self) -> int | None:
        """The number of the task among those that were asked for; None for the call at a batch's end."""
        args = self.args
        first = args[0] if isinstance(args, list) and args else None
        return first if isinstance(first, int) else None


class Follower(msgspec.Struct, frozen=True):
    """The call at the end of a batch."""

    function: str
    task: str


class StoredBatch(msgspec.Struct, frozen=True):
    """A batch as the server shows it."""

    batch: str
    state: str
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    total: int = 0
    then: Follower | None = None

    @property
    def counts(self) -> list[int]:
        """How many tasks were done, failed and cancelled, and how many there are."""
        return [self.done, self.failed, self.cancelled, self.total]


@dataclass(slots=True)
class Evidence:
    """The answers to clients, the notes of the functions, and the contents of the store.

    `refused` counts the submits that were not accepted, by the reason; each was sent again.
    `log_faults` are lines in the nodes' logs that show a bug, and `died` the nodes that ended by themselves.
    `seconds` is how long the load went on, and `late` the number of seconds after which a start is late.
    `was_interrupted` is whether somebody has ended the load, `was_read` whether the store could be read, and
    `has_settled` whether everything had the time to end.
    """

    asked: Sequence[Asked] = ()
    batches: Sequence[AskedBatch] = ()
    stored: Mapping[str, Stored] = field(default_factory=dict)
    stored_batches: Mapping[str, StoredBatch] = field(default_factory=dict)
    runs: Mapping[str, Sequence[Run]] = field(default_factory=dict)
    kills: Sequence[Kill] = ()
    refused: Counter[str] = field(default_factory=Counter)
    log_faults: Sequence[str] = ()
    died: Sequence[str] = ()
    seconds: float = 0.0
    late: float = 10.0
    was_interrupted: bool = False
    was_read: bool = True
    has_settled: bool = True
