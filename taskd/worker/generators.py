"""Generator functions: the values that they yield, and how they are ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

from msgspec import Raw

from taskd.errors import TooLarge
from taskd.functions.stops import TaskStopped
from taskd.worker.messages import Yielded
from taskd.worker.results import NotJSON, encode_result

__all__ = ["UnfitValue", "Yields", "consume", "consume_async"]


class UnfitValue(Exception):
    """A value that cannot be sent: `reason` has why."""

    def __init__(self, reason: NotJSON | TooLarge) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Yields:
    """The values that one attempt yields.

    They are sent one by one with `send`, or else collected. `limit` is in
    bytes of JSON, for all of them together, as it is for a result. While one is
    taken, which runs code of the app's objects, no stop is raised (`shield`).
    """

    def __init__(
        self,
        task: int,
        limit: int,
        send: Callable[[Yielded], object] | None,
        shield: Callable[[], AbstractContextManager[None]],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._task = task
        self._limit = limit
        self._send = send
        self._shield = shield
        self._is_stopped = is_stopped
        self._collected: list[bytes] = []
        self._count = 0
        self._size = 1

    def take(self, value: object) -> bool:
        """Send or keep a value; return whether more are wanted: not after a stop.

        Raises `UnfitValue`, and after the value was taken what stops the function.
        """
        if self._is_stopped():
            return False
        with self._shield():
            try:
                text = encode_result(value)
            except NotJSON as error:
                error.steps.append(f"[{self._count}]")
                raise UnfitValue(error) from None
            self._count += 1
            self._size += len(text) + 1
            if self._size >= self._limit:
                what = f"the {self._count} values yielded so far are {self._size} bytes of JSON"
                raise UnfitValue(TooLarge(f"{what}; the limit is {self._limit}, with LF", limit=self._limit))
            if self._send is None:
                self._collected.append(text)
            else:
                self._send(Yielded(self._task, Raw(text)))
        return True

    def result(self, returned: object) -> object:
        """Return the result of the attempt: what was collected, or else what the generator has returned."""
        return returned if self._send is not None else Raw(b"[%b]" % b",".join(self._collected))


def consume(generator: Generator[Any, Any, Any], yields: Yields) -> Any:
    """Run a generator to its end, and return the result of the attempt.

    The generator is closed whatever happens. A stop that comes between two values is
    raised in the generator, at its ``yield``, like one that comes while it runs.
    """
    stop: TaskStopped | None = None
    try:
        while True:
            try:
                if not yields.take(next(generator) if stop is None else generator.throw(stop)):
                    return None
            except StopIteration as end:
                return yields.result(end.value)
            except TaskStopped as raised:
                if generator.gi_frame is None:  # type: ignore[attr-defined]  # it has ended by it
                    raise
                stop = raised
            else:
                stop = None
    finally:
        generator.close()


async def consume_async(generator: AsyncGenerator[Any, Any], yields: Yields) -> Any:
    """Do as `consume` does with an async generator, which a stop cancels."""
    from asyncio import CancelledError, sleep

    step = anext(generator)
    try:
        while True:
            try:
                value = await step
            except StopAsyncIteration:
                return yields.result(None)
            if not yields.take(value):
                return None
            del value
            try:
                await sleep(0)  # others run, and a stop comes, even if the generator waits for nothing
                step = anext(generator)
            except CancelledError as cancelled:
                step = generator.athrow(cancelled)
    finally:
        await generator.aclose()
