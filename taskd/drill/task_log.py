"""The check of a stored task's log: one end, which is the last event, and every attempt in its order."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

__all__ = ["LAST_EVENTS", "Logged", "faults_of_log", "has_ended_twice"]

LAST_EVENTS = ("succeeded", "failed", "cancelled", "expired", "set_aside")
"""The events with which a log may end: each is also the name of the task's state then."""


class Logged(msgspec.Struct, frozen=True):
    """An event of a log; `attempt` is that of a start."""

    seq: int
    event: str
    attempt: int | None = None


def has_ended_twice(events: Sequence[Logged]) -> bool:
    """Return whether a log has more than one end."""
    return sum(each.event in LAST_EVENTS for each in events) > 1


def faults_of_log(state: str, attempts: int, events: Sequence[Logged]) -> list[str]:
    """Return what is wrong with the log of a task that has ended in `state` after so many `attempts`."""
    faults = []
    names = [each.event for each in events]
    ends = [name for name in names if name in LAST_EVENTS]
    if ends != [state] or names[-1] != state:
        faults.append(f"is {state}, and has ended as {ends}: {names}")
    numbers = [each.seq for each in events]
    if numbers != sorted(set(numbers)):
        faults.append(f"has the sequence numbers {numbers}")
    started = [each.attempt for each in events if each.event == "started"]
    if started != list(range(1, attempts + 1)):
        faults.append(f"has started the attempts {started} of {attempts}")
    return faults
