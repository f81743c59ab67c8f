"""Stored tasks and batches, as a Twisted program holds them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred

from taskd.client.answers import Event
from taskd.client.async_handles import Asking, AsyncBatch, AsyncTask

__all__ = ["DeferredBatch", "DeferredTask"]

R = TypeVar("R")


class _Deferring:
    """What is common to stored tasks and batches."""

    def __init__(self, stored: AsyncTask[Any] | AsyncBatch) -> None:
        self.id = stored.id
        self.joined = stored.joined
        self._stored = stored

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def state(self) -> Deferred[str]:
        """Return the state, as docs/protocol.md lists them."""
        return Deferred.fromCoroutine(self._stored.state())

    def cancel(self) -> Deferred[str]:
        """Cancel what has not ended; fires with what it was, once it has ended ("done" if it had before)."""
        return Deferred.fromCoroutine(self._stored.cancel())

    def events(self, after: int = 0) -> AsyncIterator[Event]:
        """Iterate over the events, with ``async for`` in a coroutine. As `AsyncTask.events`."""
        return self._stored.events(after)


class DeferredTask(_Deferring, Generic[R]):
    """A stored task. `joined` is whether the submit joined a task that was there."""

    def __init__(self, asking: Asking, id: str, *, joined: bool = False) -> None:  # noqa: A002
        self._task: AsyncTask[R] = AsyncTask(asking, id, joined=joined)
        super().__init__(self._task)

    def result(self, timeout: float | None = None) -> Deferred[R]:
        """Wait for the result, over restarts of the server too.

        Fails with the class of `taskd.errors` that belongs to the error that the task has ended
        with; with `WaitTimeout` after `timeout` seconds. Then, and if this is cancelled, the task goes on.
        """
        return Deferred.fromCoroutine(self._task.result(timeout))

    def retry(self) -> Deferred[str]:
        """Have a task that has failed, or was set aside, wait again; fires with the state that it was in."""
        return Deferred.fromCoroutine(self._task.retry())

    def why(self) -> Deferred[dict[str, Any]]:
        """Return what holds the task: docs/protocol.md describes it."""
        return Deferred.fromCoroutine(self._task.why())


class DeferredBatch(_Deferring):
    """A batch of stored tasks. `tasks` are their ids, if it was submitted here; `joined` as for a task."""

    def __init__(
        self,
        asking: Asking,
        id: str,  # noqa: A002
        tasks: list[str],
        *,
        joined: bool = False,
    ) -> None:
        self._batch = AsyncBatch(asking, id, tasks, joined=joined)
        self.tasks = tasks
        super().__init__(self._batch)

    def result(self, timeout: float | None = None) -> Deferred[dict[str, Any]]:
        """Wait until all tasks have ended.

        Fires with a dict of ``done``, ``failed``, ``cancelled``, ``total``, and ``state``. Fails with
        `WaitTimeout` after `timeout` seconds; the batch goes on.
        """
        return Deferred.fromCoroutine(self._batch.result(timeout))
