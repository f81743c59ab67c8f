"""The limits of an owner: how many of its tasks run, and how many calls wait, with how many bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskd.errors import Busy, InvalidParams
from taskd.model import Grant, StoredCall
from taskd.scheduler.waiting_time import MAX_RETRY_AFTER, MIN_RETRY_AFTER, RETRY_AFTER

if TYPE_CHECKING:
    from taskd.scheduler.task import Task

__all__ = ["Quota", "check_size"]

_SMOOTHING = 0.25
"""The weight of the last start in the mean time between two of them: a few starts show a new pace."""


class Quota:
    """What one owner has in the scheduler, and its limits, which are those of `grant`.

    `waiting` and `bytes` count its calls that wait, `running` its tasks that workers have.
    Stored tasks that wait are counted by the store.
    """

    __slots__ = ("_last_start", "_pace", "bytes", "grant", "running", "waiting")

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.waiting = self.running = self.bytes = 0
        self._last_start: float | None = None
        self._pace = 0.0

    @property
    def is_full(self) -> bool:
        """Whether no more of its tasks may be started now."""
        limit = self.grant.running
        return limit is not None and self.running >= limit

    def check(self, task: Task, most: int) -> None:
        """Raise `Busy` unless the task of a call may wait, of at most `most`."""
        grant, now, size = self.grant, task.received, len(task.call.args or b"")
        check_size(grant, size)
        if self.waiting >= (most if grant.waiting is None else grant.waiting):
            raise Busy(
                f"{self.waiting} calls of {grant.owner} are waiting, as many as may",
                retry_after=self.retry_after(now),
            )
        if grant.bytes is not None and self.bytes + size > grant.bytes:
            raise Busy(
                f"{self.bytes} bytes of calls of {grant.owner} are waiting: of {grant.bytes} that may, "
                f"there is no room for {size} more",
                retry_after=self.retry_after(now),
            )

    def retry_after(self, now: float) -> float:
        """Estimate the seconds until the next task of the owner starts, by how they have started lately."""
        if self._last_start is None:
            return RETRY_AFTER
        seconds = max(self._pace, now - self._last_start)
        return round(min(max(seconds, MIN_RETRY_AFTER), MAX_RETRY_AFTER), 1)

    # --- called by the queue and the workers ---

    def enter(self, task: Task) -> None:
        """Count a task that waits."""
        self._count(task, 1)

    def leave(self, task: Task) -> None:
        """Count a task no more that has waited."""
        self._count(task, -1)

    def _count(self, task: Task, sign: int) -> None:
        if not isinstance(task.call, StoredCall):
            self.waiting += sign
            self.bytes += sign * len(task.call.args or b"")

    def started(self, task: Task, now: float) -> None:
        """Count a task as running, and no more as waiting."""
        self.leave(task)
        self.running += 1
        if self._last_start is not None:
            self._pace += _SMOOTHING * (now - self._last_start - self._pace)
        self._last_start = now


def check_size(grant: Grant, size: int) -> None:
    """Raise `InvalidParams` if arguments of so many bytes may never wait."""
    if grant.bytes is not None and size > grant.bytes:
        raise InvalidParams(
            f"the arguments take {size} bytes; waiting ones of {grant.owner} may take {grant.bytes}",
            argument="args",
            limit=grant.bytes,
        )
