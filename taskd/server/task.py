"""A task: one call on its way through the task server."""

from __future__ import annotations

from typing import Any, Protocol

from taskd.model import NO_OPTIONS, Call, Outcome, Progress
from taskd.protocol.session import Request
from taskd.scheduler.states import DONE, NEW
from taskd.scheduler.stats import FunctionStats
from taskd.scheduler.workers import Stop
from taskd.worker.messages import IS_SHORT, NULL, WANTS_PROGRESS, Attempt

__all__ = ["Caller", "Task", "attempt_message"]


class Task(Request):
    """A request with what the scheduler has to know of it (`taskd.scheduler.workers.SchedulableTask`).

    One object for both: there may be very many, and each is made and
    forgotten within microseconds. What follows `state` is set by `TaskServer`
    when it takes the task; a request for the server's own methods never gets it.
    """

    __slots__ = (
        "attempt",
        "caller",
        "deadline",
        "limit",
        "losses",
        "number",
        "priority",
        "received",
        "started",
        "state",
        "stats",
        "stop",
        "worker",
    )

    caller: Caller
    stats: FunctionStats
    number: int
    priority: int
    received: float
    limit: float | None
    deadline: float | None
    started: float
    worker: int
    attempt: int
    losses: int
    stop: Stop | None

    def __init__(self, call: Call, batch: Any = None) -> None:
        # As `Request.__init__` has it: a call less, of which there are very many.
        self.call = call
        self._batch = batch
        self._ready = None
        self.state = NEW

    @property
    def is_in_flight(self) -> bool:
        """Whether it has been taken, and not ended."""
        return self.state is not NEW and self.state is not DONE

    @property
    def is_throttled(self) -> bool:
        """Whether its outcome would only pile up."""
        return self.caller.is_full


def attempt_message(task: Task) -> Attempt:
    """What a worker is told of a task."""
    call = task.call
    flags = IS_SHORT if task.stats.is_short else 0
    if call.options is not NO_OPTIONS and call.options.progress:
        flags |= WANTS_PROGRESS
    return Attempt(task.number, task.attempt, call.function, call.args or NULL, flags)


class Caller(Protocol):
    """Who gets the outcomes: one connection."""

    @property
    def is_full(self) -> bool:
        """Whether it leaves too much unread; `TaskServer.resume` follows the end of that."""

    def find(self, request_id: Any) -> Task | None:
        """Its request in flight that has this id (`msgspec.Raw`), None where there is none."""

    def answered(self, request: Task, outcome: Outcome) -> None:
        """The request has ended. `flush` follows."""

    def reported(self, request: Task, progress: Progress) -> None:
        """The request is so far. `flush` follows."""

    def flush(self) -> None:
        """Send what has been answered and reported."""
