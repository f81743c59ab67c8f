"""Keeps calls of a Twisted client in flight, as `window.drive` does for clients that block."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from twisted.internet.defer import Deferred, DeferredList
from window import Meter


async def keep_calling(call: Callable[[int], Deferred[int]], meter: Meter, in_flight: int) -> None:
    """So many calls at any time, until the meter's time is over. Fails as a call does."""
    numbers = count()
    meter.start()

    async def caller() -> None:
        while meter.goes_on():
            number = next(numbers)
            meter.check(number, await call(number))

    callers = [Deferred.fromCoroutine(caller()) for _ in range(in_flight)]
    await DeferredList(callers, fireOnOneErrback=True, consumeErrors=True)
