"""How an attempt of a stored task ends: for good, to be tried again, or as if it had not begun."""

from __future__ import annotations

import random

import msgspec
from msgspec import Raw

from taskd.durable.run import Run
from taskd.errors import Cancelled, InvalidParams, MethodNotFound, ShuttingDown, TimedOut, WorkerLost
from taskd.functions.durability import DAY, Durability
from taskd.model import Failure, Outcome, Raised, Result
from taskd.store.records import Event, Settle, State

__all__ = [
    "CANCELLED_WAITING",
    "LOST_LEASE",
    "LOST_WITH_DAEMON",
    "STOPPING",
    "is_loss",
    "settle_of",
    "without_internals",
]

MAX_LOSSES = 2
"""Processes that may die under a task before it is set aside: the task itself probably kills them."""

MAX_BACKOFF = 3600.0
"""Seconds between two attempts at most."""

MAX_AFTER = 366 * DAY
"""Seconds after which a function can have its task tried again at most: nobody waits for more than a year."""

CANCELLED_WAITING = Failure.of(Cancelled("the task was cancelled while it waited", was="waiting"))
STOPPING = Failure.of(ShuttingDown("the server is shutting down"))
LOST_LEASE = Failure.of(WorkerLost("the node lost its store while the task ran: it is not run again (once)"))
LOST_WITH_DAEMON = msgspec.json.encode(
    Failure.of(WorkerLost("the daemon ended while the task ran, or was about to: it is not run again (once)"))
)
"""The outcome, as JSON text, of a task that runs once and was running when the daemon died."""

_NOT_ITS_FAULT = (ShuttingDown.code, MethodNotFound.code)
"""Why a task is not started, although it can be later: the daemon stops, or new code lacks the function."""


def settle_of(run: Run, outcome: Outcome, durability: Durability, now: float) -> Settle | None:
    """Return how an attempt has ended; None if it has not been started, and waits on in the store.

    `now` is in seconds since 1970.
    """
    record, attempt = run.record, run.attempt
    task = record.new.id
    seq = run.next_seq()
    if isinstance(outcome, Result):
        return Settle(task, attempt, State.SUCCEEDED, "succeeded", outcome=bytes(outcome.value), seq=seq)
    error = msgspec.json.encode(outcome)
    raised = run.raised
    trouble = _Trouble.of(outcome, raised)
    data = msgspec.json.encode(trouble)
    if outcome.code in _NOT_ITS_FAULT and not run.has_started:
        return None
    if outcome.code in _NOT_ITS_FAULT:
        return Settle(task, attempt, State.WAITING, "returned", seq=seq)
    if outcome.code == Cancelled.code:
        return Settle(task, attempt, State.CANCELLED, "cancelled", data, error, seq=seq)
    if outcome.code == TimedOut.code and not run.has_started:
        return Settle(task, attempt, State.EXPIRED, "expired", data, error, seq=seq)
    if is_loss(outcome):
        if durability.once:
            return Settle(task, attempt, State.FAILED, "failed", data, error, is_loss=True, seq=seq)
        if record.losses + 1 >= MAX_LOSSES:
            return Settle(task, attempt, State.SET_ASIDE, "set_aside", data, error, is_loss=True, seq=seq)
        return Settle(task, attempt, State.WAITING, "lost", data, is_loss=True, seq=seq)
    if run.has_started and record.errors < durability.retries and _may_retry(outcome, raised, durability):
        due = now + _delay(record.errors, raised, durability)
        data = msgspec.json.encode(msgspec.structs.replace(trouble, due=round(due, 3)))
        return Settle(task, attempt, State.SCHEDULED, "retrying", data, due=due, is_error=True, seq=seq)
    return Settle(task, attempt, State.FAILED, "failed", data, error, is_error=run.has_started, seq=seq)


def is_loss(outcome: Outcome) -> bool:
    """Return whether the process of an attempt has died under it."""
    return isinstance(outcome, Failure) and outcome.code == WorkerLost.code


class _Trouble(msgspec.Struct, frozen=True, omit_defaults=True):
    """The data of an event about a failed attempt; `due` is when it is tried again, in seconds since 1970.

    `output` is the tail of what it has printed; `memory` is in KiB.
    """

    error: Failure
    traceback: str | None = None
    due: float | None = None
    output: str | None = None
    memory: int | None = None

    @classmethod
    def of(cls, outcome: Failure, raised: Raised | None) -> _Trouble:
        if raised is None:
            return cls(outcome)
        return cls(outcome, raised.traceback, None, raised.printed or None, raised.peak_kib or None)


_INTERNAL = ("traceback", "output", "memory")
"""The members of an event that are for whoever answers for the function."""


def without_internals(event: Event) -> Event:
    """Return an event as callers get it who must not see tracebacks (``--error-details``), nor output."""
    if b'"error"' not in event.data or event.event == "partial":
        return event
    members = msgspec.json.decode(event.data, type=dict[str, Raw])
    for name in _INTERNAL:
        members.pop(name, None)
    return msgspec.structs.replace(event, data=msgspec.json.encode(members))


def _may_retry(outcome: Failure, raised: Raised | None, durability: Durability) -> bool:
    """Return whether a failure is one after which the function's tasks are tried again."""
    if outcome.code == TimedOut.code:
        return durability.retries_timeouts
    return outcome.code != InvalidParams.code if raised is None else raised.may_retry


def _delay(errors: int, raised: Raised | None, durability: Durability) -> float:
    """Return the seconds until the next attempt: what was asked for, or the back-off with full jitter."""
    if raised is not None and raised.after is not None:
        return min(raised.after, MAX_AFTER)
    return min(durability.backoff * 2.0 ** min(errors, 100), MAX_BACKOFF) * random.random()  # noqa: S311
