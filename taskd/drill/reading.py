"""Reads everything that the store has, through the nodes: whether all has ended, and then all of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from taskd.client.aio import Links
from taskd.client.words import named_call
from taskd.drill.evidence import UNFINISHED, Stored, StoredBatch
from taskd.drill.task_log import Logged
from taskd.errors import TaskdError
from taskd.model import Result
from taskd.protocol.method_names import EVENTS, GET, LIST, QUEUE

__all__ = ["LOOK_SECONDS", "Reading", "is_finished"]

PAGE = 1000
"""Tasks in one answer, and events: the most that the server gives."""

AT_ONCE = 64
"""Questions in flight."""

ANSWER_SECONDS = 10.0
LOOK_SECONDS = 0.25
"""Seconds between two looks at whether everything has ended."""

Value = TypeVar("Value")


class _Listed(msgspec.Struct, frozen=True):
    task: str = ""
    batch: str = ""


class _Queued(msgspec.Struct, frozen=True):
    scheduled: int
    waiting: int
    running: int


class Reading:
    """Asks the nodes at these addresses, in turn until one answers."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._links = [Links(address, None, ANSWER_SECONDS) for address in addresses]

    async def close(self) -> None:
        """Close the connections."""
        for links in self._links:
            await links.here().close()

    async def unfinished(self) -> int:
        """Return how many tasks have not ended."""
        rows = await self._ask(list[_Queued], QUEUE)
        return sum(each.scheduled + each.waiting + each.running for each in rows)

    async def settled(self, seconds: float) -> bool:
        """Wait until no task is unfinished, for so many seconds at most; return whether that is so."""
        ending = time.monotonic() + seconds
        while await self.unfinished():
            if time.monotonic() > ending:
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return True

    async def tasks(self) -> dict[str, Stored]:
        """Return every task with its log."""
        ids = [each.task for each in await self._all(lambda each: each.task)]
        found = await self._each(self._task, ids)
        return {each.task: each for each in found}

    async def batches(self) -> dict[str, StoredBatch]:
        """Return every batch."""
        ids = [each.batch for each in await self._all(lambda each: each.batch, batches=True)]
        found = await self._each(self._batch, ids)
        return {each.batch: each for each in found}

    async def _all(self, key: Callable[[_Listed], str], **params: Any) -> list[_Listed]:
        found: list[_Listed] = []
        while True:
            after = key(found[-1]) if found else ""
            page = await self._ask(list[_Listed], LIST, after=after, limit=PAGE, **params)
            found += page
            if len(page) < PAGE:
                return found

    async def _each(self, read: Callable[[str], Any], ids: Sequence[str]) -> list[Any]:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(id_: str) -> Any:
            async with room:
                return await read(id_)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(id_)) for id_ in ids]
        return [task.result() for task in tasks]

    async def _task(self, task: str) -> Stored:
        stored = await self._ask(Stored, GET, task=task, with_args=True)
        events = await self._ask(list[Logged], EVENTS, task=task, limit=PAGE)
        return msgspec.structs.replace(stored, events=events)

    async def _batch(self, batch: str) -> StoredBatch:
        return await self._ask(StoredBatch, GET, batch=batch)

    async def _ask(self, kind: type[Value], method: str, **params: Any) -> Value:
        """Return an answer. Raises the error of the last node if none has one."""
        failed: TaskdError | None = None
        for links in self._links:
            try:
                outcome = await links.here().outcome(named_call(method, params), wait=ANSWER_SECONDS)
            except TaskdError as error:
                failed = error
                continue
            if isinstance(outcome, Result):
                return msgspec.json.decode(outcome.value, type=kind)
            failed = outcome.exception()
        assert failed is not None
        raise failed


def is_finished(tasks: Mapping[str, Stored], batches: Mapping[str, StoredBatch]) -> bool:
    """Return whether every task and every batch has ended."""
    return not any(each.state in UNFINISHED for each in tasks.values()) and not any(
        each.state == "running" for each in batches.values()
    )
