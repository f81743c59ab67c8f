"""Tasks that run at most once: the store has the start of each before a worker is given it.

So a few of them are marked as started ahead, and wait for a worker. If the
daemon is killed then, these fail as lost, although they had not begun: that is
the price of never running twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from taskd.durable.run import Run
from taskd.store.records import Start

__all__ = ["OnceGate"]

AHEAD = 4
"""Tasks that are marked and have no worker yet: enough to keep the workers busy while a commit runs, and no
more, since a kill of the daemon loses them."""


class Marks(Protocol):
    """Whoever stores that an attempt has begun."""

    def start(self, start: Start, answer: Callable[[bool], object]) -> None:
        """Store it; the answer is whether it was still the task's own."""


class OnceGate:
    """Holds claimed tasks until their starts are stored: then calls `give`, or `drop` if they are gone."""

    def __init__(self, marks: Marks, give: Callable[[Run], object], drop: Callable[[Run], object]) -> None:
        self._marks = marks
        self._give = give
        self._drop = drop
        self._held: deque[Run] = deque()
        self._ahead: set[Run] = set()

    def add(self, run: Run) -> None:
        """Hold a task until it may be given to a worker."""
        self._held.append(run)
        self._go_on()

    def remove(self, run: Run) -> None:
        """Count a task as ahead no more: a worker has it, or it has ended. Idempotent."""
        if run in self._ahead:
            self._ahead.remove(run)
            self._go_on()

    def drop(self, run: Run) -> None:
        """Hold a task no more. Idempotent."""
        if run in self._held:
            self._held.remove(run)

    def close(self) -> None:
        """Hold nothing any more, and mark nothing."""
        self._held.clear()

    def _go_on(self) -> None:
        while self._held and len(self._ahead) < AHEAD:
            run = self._held.popleft()
            self._ahead.add(run)
            run.mark()
            start = Start(run.record.new.id, run.attempt)
            self._marks.start(start, partial(self._marked, run))

    def _marked(self, run: Run, is_own: bool) -> None:  # noqa: FBT001
        if is_own:
            run.start_committed(is_own)
            self._give(run)
        else:  # it was cancelled while it was held
            self._drop(run)
