"""The clients of a drill: they submit each task until it is accepted, cancel some, and wait for some."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from random import Random
from typing import Any, TypeVar

from taskd.client.aio import AsyncClient
from taskd.drill.work import Asked, AskedBatch, Mix
from taskd.errors import Cancelled, TaskdError, TaskFailed, TimedOut, WorkerLost

__all__ = ["Load"]

ANSWER_SECONDS = 5.0
"""Seconds that a client waits for an answer; then it asks another node, with the same token."""

CONNECT_SECONDS = 0.5
"""Seconds that a client tries to reach a node; then it tries another."""

PAUSE_SECONDS = 0.1, 0.5
"""Seconds before a submit is sent again."""

MOST_AT_ONCE = 5000
"""Submits without an answer at once. There are more only if the rate is too high for the nodes; the load
waits then."""

LONGEST_LAG = 1.0
"""Seconds that the load may be late and make up for; what it has missed beyond that is left out."""

Answer = TypeVar("Answer")


class Load:
    """Submits what `mix` makes up, `rate` tasks a second, to nodes at these addresses.

    `refused` counts the submits that were not accepted, by the reason.
    """

    def __init__(self, addresses: Sequence[str], mix: Mix, rate: float, rng: Random, tag: str) -> None:
        self.refused: Counter[str] = Counter()
        self.accepted = 0
        self._clients = [AsyncClient(each, connect_timeout=CONNECT_SECONDS) for each in addresses]
        self._mix = mix
        self._rate = rate
        self._rng = rng
        self._tag = tag
        self._submitting: set[asyncio.Task[None]] = set()
        self._others: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float) -> None:
        """Submit for so many seconds."""
        began = time.monotonic()
        due = began
        while (now := time.monotonic()) < began + seconds:
            due = max(due, now - LONGEST_LAG)
            while due <= now and len(self._submitting) < MOST_AT_ONCE:
                asked = self._mix.next()
                due += (1 if isinstance(asked, Asked) else len(asked.rows)) / self._rate
                self._begin(self._submitting, self._submit(asked))
            await asyncio.sleep(max(due - time.monotonic(), 0.001))

    async def finish(self, seconds: float) -> None:
        """Wait until every submit is answered, for so many seconds at most."""
        if self._submitting:
            await asyncio.wait(self._submitting, timeout=seconds)

    async def close(self) -> None:
        """Ask for nothing any more."""
        left = [*self._submitting, *self._others]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for client in self._clients:
            await client.close()

    def _begin(self, among: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)

    # --- one task ---

    async def _submit(self, asked: Asked | AskedBatch) -> None:
        if isinstance(asked, AskedBatch):
            await self._submit_batch(asked)
            return

        def submit(client: AsyncClient) -> Awaitable[Any]:
            options = client.with_options(
                token=f"{self._tag} task {asked.number}", delay=asked.delay or None, wait=ANSWER_SECONDS
            )
            return options.submit(asked.function, *asked.args)

        handle = await self._accepted(asked, submit)
        asked.task, asked.accepted = handle.id, time.time()
        self.accepted += 1
        if asked.cancel_after is not None:
            self._begin(self._others, self._cancel(asked, handle))
        if asked.waits:
            self._begin(self._others, self._wait(asked, handle))

    async def _submit_batch(self, batch: AskedBatch) -> None:
        def submit(client: AsyncClient) -> Awaitable[Any]:
            options = client.with_options(token=f"{self._tag} batch {batch.number}", wait=ANSWER_SECONDS)
            return options.submit_batch("quick", [each.args for each in batch.rows], then="closed")

        handle = await self._accepted(batch, submit)
        batch.id, now = handle.id, time.time()
        for asked, task in zip(batch.rows, handle.tasks, strict=True):
            asked.task, asked.accepted, asked.tries = task, now, batch.tries
        self.accepted += len(batch.rows)

    async def _accepted(
        self, asked: Asked | AskedBatch, submit: Callable[[AsyncClient], Awaitable[Answer]]
    ) -> Answer:
        """Submit until it is accepted, by whatever node."""
        while True:
            asked.tries += 1
            try:
                return await submit(self._rng.choice(self._clients))
            except TaskdError as error:
                self.refused[error.name] += 1
            await asyncio.sleep(self._rng.uniform(*PAUSE_SECONDS))

    async def _cancel(self, asked: Asked, handle: Any) -> None:
        await asyncio.sleep(asked.cancel_after or 0.0)
        with suppress(TaskdError):
            was = await handle.cancel()
            asked.was, asked.cancelled = was, time.time()

    async def _wait(self, asked: Asked, handle: Any) -> None:
        try:
            asked.told = "succeeded", await handle.result()
        except (TaskFailed, Cancelled, TimedOut, WorkerLost) as error:
            asked.told = error.name, None
        except TaskdError:
            pass  # nobody could be asked any more
