"""The contract of stores whose sealed arguments can be replaced, since another key shall open them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

__all__ = ["MARK", "MAX_BYTES", "MAX_TASKS", "Change", "SealedArguments", "SealedStore"]

MAX_TASKS = 500
"""Tasks in one transaction: opening and sealing them takes some 50 ms."""

MAX_BYTES = 16 * 2**20
"""Bytes of arguments in one transaction: with the task that reaches them, it ends."""

MARK = b'"is_sealed"'
"""What is in the options of all tasks with sealed arguments, and of few others."""

Change = Callable[[str, str, bytes, bytes], bytes | None]
"""Returns the new arguments of a task, None for the old ones: takes its id, its function, its options and
its arguments. For a task of a batch that is not stored yet, the id is that of the batch."""

Place = TypeVar("Place")


class SealedArguments(Protocol[Place]):
    """The sealed arguments in a store. Each method is one transaction, and raises `StoreError`."""

    first_part: Place
    """What comes before all parts of batches."""

    def change_tasks(self, after: str, change: Change) -> str | None:
        """Change some tasks whose ids follow `after`; return the last id, None at the end."""

    def change_part(self, after: Place, change: Change) -> Place | None:
        """Change the rows of the next part of a batch whose tasks are not stored yet.

        The part follows `after`. Return its place, None at the end.
        """


class SealedStore(Protocol):
    """A store with such arguments."""

    @property
    def sealed(self) -> SealedArguments[Any]:
        """Its sealed arguments."""
