"""The answers to a client: results, errors, the states of stored tasks, and their events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from taskd.errors import (
    Cancelled,
    ParseError,
    TaskdError,
    TaskFailed,
    TimedOut,
    Unreachable,
    WaitTimeout,
    WorkerLost,
    exception_for,
)
from taskd.model import Call, Outcome, Result
from taskd.protocol.event_lines import Kind, ParsedEvent, parse_event
from taskd.protocol.method_names import ATTACH
from taskd.protocol.request_lines import encode_arguments

__all__ = [
    "ENDED",
    "Event",
    "Following",
    "Kind",
    "batch_counts",
    "has_ended",
    "lost",
    "not_in_time",
    "result_of",
    "task_result",
    "value_of",
]

ENDED = frozenset({"succeeded", "failed", "cancelled", "expired", "set_aside"})
"""The states of tasks, and the events, after which nothing happens by itself."""

_LAST_EVENTS = {"task": ENDED | {"detached"}, "batch": frozenset({"ended", "detached"})}
"""The events after which there may be no more, unless somebody puts a task back."""

_WITHOUT_ERROR: dict[str, tuple[type[TaskdError], str]] = {
    "cancelled": (Cancelled, "was cancelled"),
    "expired": (TimedOut, "was not started within its deadline"),
    "set_aside": (WorkerLost, "was set aside, since its process has died under it too often"),
}
"""What a task has ended with that has no error of its own, since no worker was concerned."""

_COUNTS = ("done", "failed", "cancelled", "total", "state")


class Event(msgspec.Struct, frozen=True):
    """An event of a stored task or a batch, as docs/protocol.md lists them.

    `at` is in seconds since 1970; `data` has the members that only this kind of event has.
    """

    seq: int
    event: str
    at: float
    data: dict[str, Any]

    @classmethod
    def of(cls, parsed: ParsedEvent) -> Event:
        """Return a parsed event with its data decoded."""
        return cls(parsed.seq, parsed.event, parsed.at, msgspec.json.decode(parsed.data))


def lost(server: str, why: str, *, sent: bool) -> Unreachable:
    """Return the error of a call whose connection could not be made or was lost."""
    what = "was lost before it answered; the task may have run" if sent else "cannot be reached"
    return Unreachable(f"the task server {server} {what}: {why}", server=server, sent=sent)


def result_of(outcome: Outcome) -> Any:
    """Return the decoded result of a call; raise the exception that it ended with, if any."""
    if isinstance(outcome, Result):
        return msgspec.json.decode(outcome.value)
    raise outcome.exception()


def value_of(outcome: Outcome, member: str) -> Any:
    """Return a member of a result that is an object. Raises as `result_of` does, and `ParseError`."""
    answer = result_of(outcome)
    if not isinstance(answer, dict) or member not in answer:
        raise ParseError(f"the server's answer has no {member}")
    return answer[member]


def not_in_time(what: str, seconds: float, consequence: str) -> WaitTimeout:
    """Return the error of a wait that took too long; `consequence` says what becomes of the task."""
    return WaitTimeout(f"{what} has not answered within {seconds:g} s; {consequence}", seconds=seconds)


# --- stored tasks and batches ------------------------------------------------


def has_ended(kind: Kind, state: str) -> bool:
    """Return whether a task or a batch in this state does nothing more by itself."""
    return state in ENDED if kind == "task" else state != "running"


def task_result(shown: Mapping[str, Any]) -> Any:
    """Return the result of an ended task, as ``taskd.wait`` shows it; raise the error that it ended with."""
    if shown["state"] == "succeeded":
        return shown.get("result")
    error = shown.get("error")
    if error is not None:
        raise exception_for(error["code"], error["message"], error.get("data"))
    kind, what = _WITHOUT_ERROR.get(shown["state"], (TaskFailed, "has failed"))
    raise kind(f"the task {shown.get('task')} {what}")


def batch_counts(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts and the state of a batch, as ``taskd.wait`` shows it."""
    return {name: shown[name] for name in _COUNTS}


class Following:
    """Decides which of the events that arrive are new, and which is the last. Does no I/O.

    On each connection, send `attach`, pass its answer to `attached`, and then each
    event to `take`. Events up to the number `after` count as known; -1 stands for all that
    there are. Once `is_over`, no event follows by itself.
    """

    def __init__(self, kind: Kind, id: str, after: int = 0) -> None:  # noqa: A002
        self.kind: Kind = kind
        self.id = id
        self.after = after
        self.is_over = False
        self._last_in_log = 0

    def attach(self) -> Call:
        """Return the call that asks for the events that are not known yet."""
        return Call(ATTACH, encode_arguments({self.kind: self.id, "after": self.after}))

    def attached(self, outcome: Outcome) -> None:
        """Take the answer to `attach`. Raises the error if it is one."""
        answer = result_of(outcome)
        self._last_in_log = answer["seq"]
        if self.after < 0:
            self.after = self._last_in_log
        self.is_over = has_ended(self.kind, answer["state"]) and self._last_in_log <= self.after

    def take(self, event: Raw) -> Event | None:
        """Return an event that has arrived if it is a new one of this task or batch, else None.

        Raises `ParseError` if it is no event.
        """
        parsed = parse_event(event)
        if (parsed.kind, parsed.id) != (self.kind, self.id):
            return None
        is_detached = parsed.event == "detached"  # no event of the log: its number is no place in that
        if parsed.seq <= self.after and not is_detached:
            return None
        self.after = max(self.after, parsed.seq)
        is_last = parsed.event in _LAST_EVENTS[self.kind] and parsed.seq >= self._last_in_log
        self.is_over = is_last or is_detached
        return Event.of(parsed)
