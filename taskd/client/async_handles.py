"""Stored tasks and batches as coroutines, which run in asyncio's event loop as under Twisted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Protocol, TypeVar

from taskd.client.answers import (
    Event,
    Following,
    Kind,
    batch_counts,
    has_ended,
    not_in_time,
    result_of,
    task_result,
    value_of,
)
from taskd.client.patience import WAIT_STEP, Patience
from taskd.client.watches import Watch
from taskd.client.words import named_call
from taskd.errors import TaskdError
from taskd.model import Call, Outcome
from taskd.protocol.method_names import CANCEL, GET, RETRY, WAIT, WHY

__all__ = ["Asking", "AsyncBatch", "AsyncTask"]

R = TypeVar("R")


class Asking(Protocol):
    """A way to ask a server, in an event loop."""

    def clock(self) -> float:
        """Return seconds."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def outcome(self, call: Call) -> Outcome:
        """Send a call and wait for its outcome."""

    def watching(self, following: Following) -> AbstractAsyncContextManager[Watch]:
        """Watch the events of a task or a batch over one connection."""


class _Stored:
    """What is common to stored tasks and batches."""

    _kind: Kind

    def __init__(self, link: Asking, id: str) -> None:  # noqa: A002
        self.id = id
        self._link = link

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def state(self) -> str:
        """Return the state, as docs/protocol.md lists them."""
        state: str = value_of(await self._asked(GET), "state")
        return state

    async def cancel(self) -> str:
        """Cancel what has not ended; return what it was, once it has ended ("done" if it had before)."""
        was: str = value_of(await self._link.outcome(named_call(CANCEL, {"task": self.id})), "was")
        return was

    async def events(self, after: int = 0) -> AsyncIterator[Event]:
        """Iterate over the events after the one numbered `after`: those of the log, then each as it happens.

        It ends with the last event. If the connection is lost, it goes on with the events
        that follow; a server that is away has `taskd.client.patience.PATIENCE` seconds to come back.
        Raises the server's refusal, as for a task that it does not know.
        """
        following = Following(self._kind, self.id, after)
        patience = Patience(self._link.clock)
        while not following.is_over:
            try:
                async with self._link.watching(following) as watch:
                    patience.found()
                    while not following.is_over and (pushed := await watch.next()) is not None:
                        if (event := following.take(pushed)) is not None:
                            yield event
            except TaskdError as error:
                await self._link.sleep(patience.pause_after(error))

    async def _asked(self, method: str, **more: object) -> Outcome:
        return await self._link.outcome(named_call(method, {self._kind: self.id, **more}))

    async def _ended(self, timeout: float | None) -> dict[str, Any]:
        """Wait for the end, and return the answer of ``taskd.wait``. Raises `WaitTimeout`."""
        clock = self._link.clock
        patience = Patience(clock)
        ends_at = None if timeout is None else clock() + timeout
        while True:
            left = WAIT_STEP if ends_at is None else min(max(ends_at - clock(), 0.0), WAIT_STEP)
            try:
                shown: dict[str, Any] = result_of(await self._asked(WAIT, timeout=left))
            except TaskdError as error:
                pause = patience.pause_after(error)
                if ends_at is not None and clock() + pause > ends_at:
                    raise
                await self._link.sleep(pause)
                continue
            patience.found()
            if has_ended(self._kind, shown["state"]):
                return shown
            if timeout is not None and ends_at is not None and clock() >= ends_at:
                raise not_in_time(f"the {self._kind} {self.id}", timeout, "it goes on")


class AsyncTask(_Stored, Generic[R]):
    """A stored task. `joined` is whether the submit joined a task that was there."""

    _kind = "task"

    def __init__(self, link: Asking, id: str, *, joined: bool = False) -> None:  # noqa: A002
        super().__init__(link, id)
        self.joined = joined

    async def result(self, timeout: float | None = None) -> R:
        """Wait for the result, over restarts of the server too.

        Raises the class of `taskd.errors` that belongs to the error that the task has ended
        with; `WaitTimeout` after `timeout` seconds, and the task goes on.
        """
        result: R = task_result(await self._ended(timeout))
        return result

    async def retry(self) -> str:
        """Have a task that has failed, or was set aside, wait again; return the state that it was in."""
        was: str = value_of(await self._asked(RETRY), "was")
        return was

    async def why(self) -> dict[str, Any]:
        """Return what holds the task: docs/protocol.md describes it."""
        why: dict[str, Any] = result_of(await self._asked(WHY))
        return why


class AsyncBatch(_Stored):
    """A batch of stored tasks. `tasks` are their ids, if it was submitted here; `joined` as for a task."""

    _kind = "batch"

    def __init__(self, link: Asking, id: str, tasks: list[str], *, joined: bool = False) -> None:  # noqa: A002
        super().__init__(link, id)
        self.tasks = tasks
        self.joined = joined

    async def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait until all tasks have ended; return ``done``, ``failed``, ``cancelled``, ``total``, ``state``.

        The first four are counts. Raises `WaitTimeout` after `timeout` seconds; the batch goes on.
        """
        return batch_counts(await self._ended(timeout))
