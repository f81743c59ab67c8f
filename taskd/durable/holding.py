"""The methods that hold stored tasks back, or put them back: pause, resume, retry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from taskd.durable.answers import refused, result
from taskd.durable.pauses import Pauses
from taskd.errors import InvalidParams, NotAllowed, quoted
from taskd.functions.registry import FunctionInfo
from taskd.model import Failure, Outcome
from taskd.server.methods import Asker
from taskd.store.base import StoreError
from taskd.store.records import Record, State

__all__ = ["Holder", "Holding"]


class Holder(Protocol):
    """The stored tasks, as far as these methods need them."""

    @property
    def pauses(self) -> Pauses:
        """The functions of which nothing is started."""

    def put_back(self, task: str, answer: Callable[[State | StoreError | None], object]) -> None:
        """Let a task that failed or was set aside wait again; the answer is its state before."""

    def get(self, task: str) -> Deferred[Record | None]:
        """Read a task."""


class Holding:
    """Handles ``taskd.pause``, ``taskd.resume`` and ``taskd.retry``; `unknown` answers about other ids."""

    def __init__(
        self,
        tasks: Holder,
        functions: Callable[[], list[FunctionInfo]],
        unknown: Callable[[Asker, str], object],
    ) -> None:
        self._tasks = tasks
        self._functions = functions
        self._unknown = unknown

    # --- pause ---

    def pause(self, asker: Asker, function: str, *, paused: bool) -> Outcome | None:
        """Pause or resume a function, and answer with what it was."""
        known, pauses = self._functions(), self._tasks.pauses
        if known and all(each.name != function for each in known) and function not in pauses.functions:
            method = "pause" if paused else "resume"
            raise InvalidParams(f"taskd.{method}: no such function: {quoted(function)}", argument="function")
        pauses.pause(function, paused=paused).addCallbacks(
            lambda was: asker.answer(result({"was": "paused" if was else "running"})),
            lambda reason: asker.answer(refused(reason.value)),
        )
        return None

    # --- retry ---

    def retry(self, asker: Asker, task: str) -> Outcome | None:
        """Put back a task that failed or was set aside, and answer with what it was."""

        def done(was: State | StoreError | None) -> None:
            if isinstance(was, StoreError):
                asker.answer(refused(was))
            elif was is None:
                self._unknown(asker, task)
            elif was not in (State.FAILED, State.SET_ASIDE):
                asker.answer(Failure.of(_not_to_be_retried(was)))
            else:
                # A key that another task has taken meanwhile shows in the state after this.
                self._tasks.get(task).addCallbacks(
                    lambda record: asker.answer(_retried(was, record)),
                    lambda reason: asker.answer(refused(reason.value)),
                )

        self._tasks.put_back(task, done)
        return None


def _not_to_be_retried(state: State) -> NotAllowed:
    name = _NAMES.get(state, state.name.lower())
    return NotAllowed(
        f"taskd.retry: the task {name}: only a task that failed or was set aside is put back",
        state=state.name.lower(),
    )


_NAMES = {
    State.SCHEDULED: "is scheduled, and starts by itself when it is due",
    State.WAITING: "waits already",
    State.RUNNING: "is running",
    State.SUCCEEDED: "has succeeded",
    State.CANCELLED: "was cancelled, which is final",
    State.EXPIRED: "has expired, which is final",
}


def _retried(was: State, record: Record | None) -> Outcome:
    if record is not None and record.state is was:
        key = record.new.key or ""
        return Failure.of(
            NotAllowed(
                f"taskd.retry: another unfinished task of {record.new.function} has the key {quoted(key)}: "
                "wait for its end, or cancel it",
                state=was.name.lower(),
            )
        )
    return result({"was": was.name.lower()})
