"""Ordinary calls of durable functions: each is stored, and answered when its task has ended."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Raw

from taskd.durable.answers import refused
from taskd.durable.tasks import DurableTasks
from taskd.durable.waiters import left_for_next_start
from taskd.errors import Busy, Cancelled, InternalError
from taskd.model import Failure, Grant, Outcome, Progress, Result
from taskd.protocol.requests import Request
from taskd.server.methods import Requester, Work
from taskd.store.base import StoreError
from taskd.store.records import ENDED, Accepted, State

__all__ = ["OrdinaryCall"]


class OrdinaryCall:
    """The stored task of a call whose caller waits. Implements `taskd.server.methods.StoredWork`.

    `note` is called once it is stored, unless it has joined another.
    """

    __slots__ = ("_note", "_request", "_requester", "_stop", "_task", "_tasks")

    def __init__(
        self,
        tasks: DurableTasks,
        request: Request[Work],
        requester: Requester,
        grant: Grant,
        note: Callable[[], object],
    ) -> None:
        self._tasks = tasks
        self._request = request
        self._note: Callable[[], object] | None = note
        self._requester: Requester | None = requester
        self._task = tasks.submit(request.function, request.args, request.options, self._stored, grant=grant)
        self._stop = tasks.waiters.wait(self._task, self._ended)
        request.work = self

    def cancel(self) -> None:
        """Cancel the task, whether it waits, runs, or waits for its next attempt."""
        self._tasks.cancel(self._task, self._cancelled)

    def detach(self) -> None:
        """Let the task go on without its caller."""
        self._requester = None
        self._stop()

    def _stored(self, accepted: Accepted | StoreError | Busy) -> None:
        note, self._note = self._note, None
        if not isinstance(accepted, Accepted):
            self._stop()
            self._answer(refused(accepted))
            return
        if note is not None and not accepted.joined:
            note()
        if self._request.wants_progress and self._requester is not None:
            self._tasks.waiters.listen(self._task, self._progressed)

    def _cancelled(self, state: State | StoreError | None) -> None:
        if state is State.RUNNING:  # it has begun while the store was asked
            self._tasks.cancel(self._task, lambda _: None)

    def _progressed(self, progress: Progress) -> None:
        if self._requester is not None:
            self._requester.task_progressed(self._request, progress)
            self._requester.flush()

    def _ended(self, state: State, outcome: bytes | None) -> None:
        if state not in ENDED:
            self._answer(Failure.of(left_for_next_start(f"task {self._task}")))
            return
        self._answer(outcome_of(self._request.function, state, outcome))

    def _answer(self, outcome: Outcome) -> None:
        requester, self._requester = self._requester, None
        self._request.work = None
        if requester is not None:
            requester.task_ended(self._request, outcome)
            requester.flush()


def outcome_of(function: str, state: State, outcome: bytes | None) -> Outcome:
    """Return what the caller of a function gets for its stored task, which has ended."""
    if state is State.SUCCEEDED and outcome is not None:
        return Result(Raw(outcome))
    if outcome is not None:
        return msgspec.json.decode(outcome, type=Failure)
    if state is State.CANCELLED:
        return Failure.of(Cancelled(f"{function} was cancelled before it was started", was="waiting"))
    return Failure.of(InternalError(f"the task has ended as {state.name.lower()}, without an outcome"))
