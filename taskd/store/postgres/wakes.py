"""Notices of a transaction for other nodes, and the notifications that carry them.

| channel | payload |
|---|---|
| `taskd_wake` | functions of which tasks wait, with spaces; nothing for any |
| `taskd_nodes` | what concerns all: `node` (one has come), `pause`, `watch` (one follows others' tasks) |
| `taskd_node_N` | what concerns one: `cancel`, `drain`, `task ID…` (tasks and batches that it follows) |
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from taskd.store.nodes import Hint

__all__ = ["ALL", "WAKE", "Notice", "Wakes", "channel_of", "hint_of", "task_notices"]

WAKE, ALL = "taskd_wake", "taskd_nodes"

MAX_PAYLOAD = 7_000
"""Bytes of a payload: PostgreSQL takes 7999."""

Notice = tuple[str, str]
"""A channel and a payload."""


def channel_of(node: int) -> str:
    """Return the channel of one node."""
    return f"taskd_node_{node}"


@dataclass(slots=True)
class Wakes:
    """Notices of what others could do, or have to know, since something was committed."""

    waiting: dict[str, str] = field(default_factory=dict)
    """The tasks that wait, unclaimed, by their ids; with their functions."""
    functions: set[str] = field(default_factory=set)
    """Functions of which tasks wait."""
    is_any_waiting: bool = False
    """Whether tasks wait of functions that are not named."""
    to_all: set[str] = field(default_factory=set)
    """What concerns all nodes."""
    to_node: dict[int, set[str]] = field(default_factory=dict)
    """What concerns one of them, by its number."""
    changed: set[str] = field(default_factory=set)
    """The tasks and batches of which events were stored."""

    def ask(self, node: int, what: str) -> None:
        """Note what concerns a node."""
        self.to_node.setdefault(node, set()).add(what)

    def add(self, other: Wakes, events_of: Iterable[str] = ()) -> None:
        """Add what another transaction has, and the tasks of which it has stored events."""
        self.functions |= other.functions
        self.functions.update(other.waiting.values())
        self.is_any_waiting = self.is_any_waiting or other.is_any_waiting
        self.to_all |= other.to_all
        for node, what in other.to_node.items():
            self.to_node.setdefault(node, set()).update(what)
        self.changed.update(events_of)

    @property
    def has_notices(self) -> bool:
        """Whether there is anything for others, besides events."""
        return bool(self.functions or self.is_any_waiting or self.to_all or self.to_node)

    def notices(self) -> Iterator[Notice]:
        """Yield the notifications, but those about events."""
        if self.functions or self.is_any_waiting:
            names = " ".join(sorted(self.functions))
            is_short = len(names.encode()) <= MAX_PAYLOAD
            yield WAKE, "" if self.is_any_waiting or not is_short else names
        for what in sorted(self.to_all):
            yield ALL, what
        for node, asked in sorted(self.to_node.items()):
            for what in sorted(asked):
                yield channel_of(node), what


def task_notices(node: int, tasks: Collection[str]) -> Iterator[Notice]:
    """Yield the notifications for a node that follows these tasks and batches."""
    payload = "task"
    for task in sorted(tasks):
        if len(payload) + 1 + len(task) > MAX_PAYLOAD:
            yield channel_of(node), payload
            payload = "task"
        payload += f" {task}"
    yield channel_of(node), payload


def hint_of(channel: str, payload: str) -> Hint:
    """Return what a notification hints at: anything, if that is not known here."""
    if channel == WAKE:
        return Hint(functions=payload.split() or None)
    what, *rest = payload.split() or [""]
    if what == "task":
        return Hint(tasks=rest)
    if what in ("node", "pause", "cancel", "drain"):
        return Hint(renews=True)
    return Hint(everything=True)
