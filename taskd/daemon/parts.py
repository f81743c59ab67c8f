"""The parts of a daemon that stop in steps (task server, connections, gateway) and their contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred

__all__ = ["Part", "Parts", "TaskPart"]


class Part(Protocol):
    """A part of a daemon, as far as stopping the daemon needs it.

    Each method is called at most once, in this order. The exception is `abort`,
    which may come at any time, before and during `close`, and more than once.
    """

    def stop_accepting(self) -> None:
        """Refuse new work from now on; accepted work goes on."""

    def drain(self) -> Deferred[None]:
        """Return a Deferred that fires when all accepted work has ended."""

    def abort(self) -> None:
        """End at once what is left, so that `drain` or `close` fires soon."""

    def close(self) -> Deferred[None]:
        """Release everything; fires when nothing is left."""


class TaskPart(Part, Protocol):
    """A part in which tasks are in flight."""

    def announce_stop(self) -> None:
        """Be unready from now on, while everything is served as before; may come before `stop_accepting`."""

    def in_flight(self) -> Counter[str]:
        """Count what `drain` waits for, by the names of the functions."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one daemon, by kind.

    A gateway alone has no `connections` and no `server`, a task server alone no `gateway`.
    What is `lingering` is closed for everybody but the kernel.
    """

    gateway: Sequence[TaskPart] = ()
    connections: Sequence[Part] = ()
    server: Sequence[TaskPart] = ()
    lingering: Sequence[Part] = ()
    store: Sequence[Part] = ()

    @property
    def present(self) -> list[Part]:
        """The parts that this daemon has, of every kind."""
        return [*self.gateway, *self.connections, *self.store, *self.server, *self.lingering]

    @property
    def with_tasks(self) -> list[TaskPart]:
        """The parts in which tasks are in flight; connections only wait for them."""
        return [*self.gateway, *self.server]

    def in_flight(self) -> Counter[str]:
        """Count the tasks in flight, by function.

        A gateway's calls that go to the task server of the same daemon are
        tasks there, too: they are counted once.
        """
        counts: Counter[str] = Counter()
        for part in self.with_tasks:
            counts |= part.in_flight()
        return counts
