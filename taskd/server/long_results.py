"""Long results on their way from workers: counted for whom they are for, and held up or dropped."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from taskd.scheduler.arrivals import Arrival
from taskd.scheduler.task import Task

__all__ = ["LongResults", "ResultSource"]


class ResultSource(Protocol):
    """The pool, as far as long results need it."""

    def read_on(self, number: int) -> None:
        """Read from a worker again."""

    def drop_result(self, number: int) -> None:
        """Read what a worker sends, but drop the rest of its present message."""


class LongResults:
    """The long results that arrive, one from each worker at most."""

    def __init__(self) -> None:
        self._arrivals: dict[int, Arrival] = {}

    def grows(self, source: ResultSource, number: int, task: Task | None, size: int) -> bool:
        """Count a result of which `size` bytes have come from a worker; return whether to read on.

        `task` is the one that the worker runs, None if it has ended already.
        """
        subscriber = None if task is None else task.subscriber
        if subscriber is None or task is None or not subscriber.wants_result(task.key, size):
            self._drop(source, number)
            return True
        arrival = self._arrivals.get(number)
        if arrival is None:
            account = subscriber.account()
            if account is None:
                return True
            task.limit = None  # its function has returned
            arrival = self._arrivals[number] = account.arrival(
                partial(source.read_on, number),
                partial(self._drop, source, number),
                partial(subscriber.needs, task.key),
            )
        return arrival.grow(size - arrival.size)

    def _drop(self, source: ResultSource, number: int) -> None:
        self.ended(number)
        source.drop_result(number)

    def ended(self, number: int) -> None:
        """Note that a worker's result is complete, or will not be."""
        arrival = self._arrivals.pop(number, None)
        if arrival is not None:
            arrival.end()
