"""Batches: many tasks that were submitted together, with counts, one end, and a task to follow them.

A batch is accepted as a whole, in one short transaction, and its tasks are
then stored a part at a time, so that nothing else waits for 100 000 of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import msgspec

from taskd.store.records import Allowance, Event, Full, New, State

__all__ = [
    "COUNTS",
    "FAILED",
    "BatchRecord",
    "BatchState",
    "BatchStore",
    "CancelledRows",
    "NewBatch",
    "Rows",
    "counts",
    "follower",
]

BatchState = Literal["running", "succeeded", "failed", "cancelled"]

FAILED = frozenset({State.FAILED, State.EXPIRED, State.SET_ASIDE})
"""The states of tasks that a batch counts as failed."""


class Rows(msgspec.Struct, frozen=True):
    """A part of a batch: the ids of its next tasks, and the arguments of each as JSON text.

    `limit_keys` has the limit key of each, None if they have that of the batch's task.
    """

    ids: list[str]
    args: list[bytes]
    limit_keys: list[str | None] | None = None

    @property
    def size(self) -> int:
        """The bytes of the arguments."""
        return sum(map(len, self.args))

    def tasks(self, task: New) -> Iterator[New]:
        """Yield the tasks, which but for this part are like `task`."""
        for place, (name, args) in enumerate(zip(self.ids, self.args, strict=True)):
            key = task.limit_key if self.limit_keys is None else self.limit_keys[place]
            yield msgspec.structs.replace(task, id=name, args=args, limit_key=key)


class NewBatch(msgspec.Struct, frozen=True):
    """A batch to be stored.

    Each of its tasks is `task` with an id and arguments from `parts`, in which
    the ids grow; every part is stored in one transaction. Of all batches of an owner,
    which is that of `task`, only one has the same `token`. `then` is a task that is stored when all others
    have ended; it gets their counts as its arguments, besides those that it has by name.
    `keep` is for how many seconds the batch is kept after its end.
    """

    id: str
    task: New
    parts: Sequence[Rows]
    token: str | None = None
    then: New | None = None
    keep: float = 0.0

    @property
    def total(self) -> int:
        """The number of its tasks."""
        return sum(len(part.ids) for part in self.parts)

    @property
    def size(self) -> int:
        """The bytes of their arguments."""
        return sum(part.size for part in self.parts)


class BatchRecord(msgspec.Struct, frozen=True):
    """A batch, as it is now.

    `stored` counts the parts whose tasks are stored. `done` counts the tasks
    that succeeded, `failed` those that failed, expired or were set aside. With
    `is_cancelled`, somebody has asked for its cancellation. `ended` is when the last
    task ended, None before; it stays, even if a failed task is put back later.
    """

    id: str
    task: New
    total: int
    created: float
    parts: int
    keep: float = 0.0
    token: str | None = None
    then: New | None = None
    stored: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    is_cancelled: bool = False
    ended: float | None = None

    @property
    def over(self) -> int:
        """The number of tasks that have ended."""
        return self.done + self.failed + self.cancelled

    @property
    def is_stored(self) -> bool:
        """Whether all of its tasks are stored."""
        return self.stored == self.parts

    @property
    def state(self) -> BatchState:
        """The state: how it ended, if it has."""
        if self.ended is None:
            return "running"
        if self.is_cancelled and self.cancelled:
            return "cancelled"
        if self.failed:
            return "failed"
        return "cancelled" if self.cancelled else "succeeded"


class CancelledRows(msgspec.Struct, frozen=True):
    """The answer to `BatchStore.cancel_rows`.

    `events` are those of the tasks that were cancelled; `last` is the id of the
    last task that was looked at, None if none is left; `batch` is as it is now.
    """

    events: list[Event]
    last: str | None
    batch: BatchRecord | None


class BatchStore(Protocol):
    """The part of a store that keeps batches. The rules are those of `taskd.store.base.Store`."""

    def add(self, new: NewBatch, now: float, allowance: Allowance | None = None) -> BatchRecord | Full:
        """Accept a batch; return it, or the one that has its token. None of its tasks is stored yet.

        All of them wait, however; `allowance` is as for a single new task.
        """

    def unpack(self, batch: str, now: float) -> BatchRecord | None:
        """Store the next part of a batch's tasks; return it, None if there is no such batch."""

    def cancel(self, batch: str) -> BatchRecord | None:
        """Note that a batch shall be cancelled; return it as it was before."""

    def cancel_rows(self, batch: str, after: str, limit: int, now: float) -> CancelledRows:
        """Look at up to `limit` tasks of a batch after an id; cancel those that nobody has claimed.

        Tasks that have ended, and those that are claimed, stay as they are. In a
        batch that has ended there is nothing to look at.
        """

    def get(self, batch: str) -> BatchRecord | None:
        """Return a batch, None if there is none with this id."""

    def tasks(self, batch: str) -> list[str]:
        """Return the ids of all its tasks in their order, also of those that are forgotten already.

        Once a batch without a token has ended, a store may have forgotten them too.
        """

    def unended(self) -> list[BatchRecord]:
        """Return the batches that have not ended."""

    def find(
        self, like: str | None, after: str, limit: int, owner: str | None = None, *, newest: bool = False
    ) -> list[BatchRecord]:
        """Return up to `limit` batches whose ids follow `after`, in their order.

        `like`, `owner` and `newest` are as for tasks: with the last, they are those before `after`, in
        reverse order.
        """


def follower(batch: BatchRecord) -> New | None:
    """Return the task that follows a batch which has ended, with the counts among its arguments."""
    if batch.then is None:
        return None
    args = counts(batch.id, batch.done, batch.failed, batch.cancelled, batch.total, batch.then.args)
    return msgspec.structs.replace(batch.then, args=args)


COUNTS = ("batch", "done", "failed", "cancelled", "total")
"""The names of the arguments that the task after a batch gets."""


def counts(batch: str, done: int, failed: int, cancelled: int, total: int, own: bytes | None = None) -> bytes:
    """Return the arguments of the task that follows a batch, as JSON text.

    Those of its `own` come after the counts: an object of at least one member, without blanks around it.
    """
    values = (batch, done, failed, cancelled, total)
    args = msgspec.json.encode(dict(zip(COUNTS, values, strict=True)))
    return args if own is None else b"%b,%b" % (args[:-1], own[1:])
