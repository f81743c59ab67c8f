"""Many calls of a Twisted program, of which some are in flight, and whose results come as they are there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredQueue
from twisted.python.failure import Failure

from taskd.errors import TaskdError

__all__ = ["map_rows"]

Row = TypeVar("Row")


async def map_rows(
    call: Callable[[Row], Deferred[Any]], rows: Iterable[Row], concurrency: int, *, return_exceptions: bool
) -> AsyncIterator[tuple[Row, Any]]:
    """Yield each row with the result of its call, as they come; at most `concurrency` are in flight.

    The first error is raised, and the calls in flight are cancelled; with `return_exceptions`,
    the exceptions of `taskd.errors` take the places of results.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency is a number above 0, not {concurrency!r}")
    waiting = iter(rows)
    in_flight: dict[int, Deferred[Any]] = {}
    ended: DeferredQueue[tuple[int, Row, Any]] = DeferredQueue()
    number = 0

    def note_end(result: Any, number: int, row: Row) -> None:
        ended.put((number, row, result))

    try:
        while True:
            while len(in_flight) < concurrency:
                try:
                    row = next(waiting)
                except StopIteration:
                    break
                number += 1
                in_flight[number] = called = call(row)
                called.addBoth(note_end, number, row)
            if not in_flight:
                return
            which, row, result = await ended.get()
            del in_flight[which]
            if isinstance(result, Failure):
                if not (return_exceptions and isinstance(result.value, TaskdError)):
                    result.raiseException()
                result = result.value
            yield row, result
    finally:
        for called in list(in_flight.values()):
            called.cancel()
