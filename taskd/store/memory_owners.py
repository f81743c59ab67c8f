"""What of each owner waits in the store in memory."""

from __future__ import annotations

from taskd.store.memory_limits import size_of
from taskd.store.records import CANCELLABLE, Allowance, Full, Record

__all__ = ["MemoryOwners"]


class MemoryOwners:
    """Counts the tasks of each owner that wait or are scheduled, and the bytes of their arguments."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[int, int]] = {}

    def refusal(self, owner: str, allowance: Allowance | None, count: int, size: int) -> Full | None:
        """Return why so many more tasks with so many bytes must not wait, None if they may."""
        waiting, taken = self._waiting.get(owner, (0, 0))
        if allowance is None or allowance.permits(waiting + count, taken + size):
            return None
        return Full(waiting, taken)

    def add(self, owner: str, count: int, size: int) -> None:
        """Count more tasks, or fewer."""
        if owner:
            waiting, taken = self._waiting.get(owner, (0, 0))
            self._waiting[owner] = (waiting + count, taken + size)
            if waiting + count <= 0:
                del self._waiting[owner]

    def count(self, record: Record | None, sign: int) -> None:
        """Count a task in its state, or no more."""
        if record is not None and record.state in CANCELLABLE:
            self.add(record.new.owner, sign, sign * size_of(record.new.args))
