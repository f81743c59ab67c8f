"""Handles of stored tasks and batches, for programs that block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, Generic, TypeVar

from taskd.client.answers import Event, Following, Kind, batch_counts, has_ended, task_result
from taskd.client.exchanges import Exchanges
from taskd.client.words import named_call
from taskd.errors import WaitTimeout
from taskd.model import Call
from taskd.protocol.method_names import CANCEL, GET, RETRY, WAIT, WHY

__all__ = ["Batch", "Task"]

Returned = TypeVar("Returned")

LATE = 1.0
"""Seconds that the answer to a wait may come after its time: the server measures that itself."""


class _Handle:
    """What tasks and batches have in common."""

    _kind: Kind

    def __init__(self, exchanges: Exchanges, id: str, *, joined: bool = False) -> None:  # noqa: A002
        self._exchanges = exchanges
        self.id = id
        self.joined = joined
        """Whether the submit has joined one that there was before, by its key or its token."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def _what(self) -> str:
        return f"the {self._kind} {self.id}"

    def state(self) -> str:
        """Return its state, as docs/protocol.md lists them."""
        shown = self._exchanges.ask(named_call(GET, {self._kind: self.id}), self._what())
        state: str = shown["state"]
        return state

    def events(self, after: int = 0) -> Iterator[Event]:
        """Yield its events after the one numbered `after`, each as it happens, up to its last.

        0 is all of them, -1 none of those that there are. If the connection is lost, it
        goes on over another after the last event that was yielded.
        """
        return self._exchanges.follow(Following(self._kind, self.id, after))

    def cancel(self) -> str:
        """Cancel it, and wait until it has ended; returns what it was before: its state, or "done"."""
        answer = self._exchanges.ask(named_call(CANCEL, {"task": self.id}), self._what())
        was: str = answer["was"]
        return was

    def _ended(self, timeout: float | None) -> dict[str, Any]:
        """Return what the server shows of it when it has ended. Raises `WaitTimeout`."""
        until = None if timeout is None else monotonic() + timeout

        def question() -> tuple[Call, float | None]:
            if until is None:
                return named_call(WAIT, {self._kind: self.id}), None
            left = max(until - monotonic(), 0.0)
            return named_call(WAIT, {self._kind: self.id, "timeout": left}), left + LATE

        try:
            shown: dict[str, Any] = self._exchanges.ask_patiently(question, self._what(), until)
        except WaitTimeout:
            shown = {"state": "running"}
        if not has_ended(self._kind, shown["state"]):
            assert timeout is not None
            why = f"{self._what()} has not ended within {timeout:g} s; it goes on"
            raise WaitTimeout(why, seconds=timeout)
        return shown


class Task(_Handle, Generic[Returned]):
    """A stored task: it outlives this program, and `Client.task` finds it again by its `id`."""

    _kind = "task"

    def result(self, timeout: float | None = None) -> Returned:
        """Wait for its end, and return its result; raise the error of `taskd.errors` that it ended with.

        Raises `WaitTimeout` after `timeout` seconds; the task goes on.
        """
        result: Returned = task_result(self._ended(timeout))
        return result

    def retry(self) -> str:
        """Put it back after it has failed or was set aside; returns what it was. Raises `NotAllowed`."""
        answer = self._exchanges.call(named_call(RETRY, {"task": self.id}), self._what())
        was: str = answer["was"]
        return was

    def why(self) -> dict[str, Any]:
        """Return what holds it: its ``state``, the ``reason`` in words, and more for programs."""
        answer: dict[str, Any] = self._exchanges.ask(named_call(WHY, {"task": self.id}), self._what())
        return answer


class Batch(_Handle):
    """A batch of stored tasks; `tasks` are their ids if this program has submitted it."""

    _kind = "batch"

    def __init__(
        self,
        exchanges: Exchanges,
        id: str,  # noqa: A002
        tasks: Sequence[str] = (),
        *,
        joined: bool = False,
    ) -> None:
        super().__init__(exchanges, id, joined=joined)
        self.tasks = tasks

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait until all tasks have ended; return how many were ``done``, ``failed`` and ``cancelled``.

        There are also the ``total`` and the ``state``. Raises `WaitTimeout` after `timeout` seconds.
        """
        return batch_counts(self._ended(timeout))
