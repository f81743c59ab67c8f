"""The nodes that share a store: what each tells of itself, and what it learns when it renews its lease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from taskd.store.records import Record

__all__ = ["Beat", "Lease", "NodeInfo", "NodeRow", "NodeStore", "Places"]


class NodeInfo(msgspec.Struct, frozen=True):
    """A node as it shows itself to the others. Its number in the store identifies it.

    `name` is for people: there may be others with the same. `functions` are those that it runs, `once`
    those of them that run once at most, `labels` those that it was given. `workers` is their number,
    `running` how many tasks they have. One that `is_draining` claims nothing.
    """

    name: str = ""
    version: str = ""
    functions: Sequence[str] = ()
    once: Sequence[str] = ()
    labels: Sequence[str] = ()
    workers: int = 0
    running: int = 0
    is_draining: bool = False


class NodeRow(msgspec.Struct, frozen=True):
    """A node as the store has it: times in seconds since 1970 by its clock; `claimed` counts its tasks."""

    node: int
    info: NodeInfo
    started: float
    seen: float
    claimed: int = 0
    drain: bool = False


class Lease(msgspec.Struct, frozen=True):
    """A task that a node has claimed or runs."""

    task: str
    node: int
    owner: str


class Places(msgspec.Struct, frozen=True):
    """The tasks and starts that a limit counts of one function, or of one value of its key, on all nodes.

    `leases` are the tasks that have places, and `started` are the starts that the rate counts, of which
    the first counts no more in `seconds`, None if there are none. `unstarted` leases count as starts too.
    """

    leases: list[Lease]
    unstarted: int = 0
    started: int = 0
    seconds: float | None = None


class Beat(msgspec.Struct, frozen=True):
    """The answer to a renewal.

    `now` is the time by the store's clock, in seconds since 1970. Unless it `is_mine`, the node was
    taken for dead, its tasks were given to others, and it needs a new number. `cancelled` are the ids
    of its claimed tasks that somebody has cancelled at another node. `paused` are the functions of which
    nothing is started. `rescued` is how many tasks of dead nodes wait again by this renewal. With
    `drain`, somebody wants the node to claim nothing any more.
    """

    now: float
    is_mine: bool = True
    cancelled: Sequence[str] = ()
    paused: Sequence[str] = ()
    rescued: int = 0
    drain: bool = False


class NodeStore(Protocol):
    """The part of a store that many nodes share. Its methods raise `StoreError`."""

    node: int
    """The number of this node."""

    def now(self) -> float:
        """Return the time by the store's clock, in seconds since 1970."""

    def renew(self, info: NodeInfo, lost: bytes = b"null", *, rescues: bool = True) -> Beat:
        """Show that this node lives, on a connection of its own; rescue the tasks of those that do not.

        `lost` is the outcome, as JSON text, of tasks that run once and were running.
        """

    def rejoin(self) -> None:
        """Take a new number, since the old one was taken for dead."""

    def rows(self) -> list[NodeRow]:
        """Return the nodes that live, by their numbers."""

    def drain(self, node: int, *, drain: bool) -> bool:
        """Have a node claim nothing any more, or again; return whether there is such a node."""

    def last_seqs(self, tasks: Sequence[str]) -> dict[str, int]:
        """Return the last sequence numbers of these tasks, without those that do not exist."""

    def ends(self, tasks: Sequence[str]) -> list[Record]:
        """Return those of these tasks that have ended."""

    def places(self, function: str, key: str) -> Places:
        """Return what the limits of a function count, with this value of its concurrency key ("" if none)."""
