"""The nodes that share a store: what each tells of itself, and what it learns when it renews its lease."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import msgspec

from taskd.store.records import Record

__all__ = ["Beat", "Described", "Hint", "Lease", "NodeInfo", "NodeRow", "NodeStore", "Places"]


class Described(msgspec.Struct, frozen=True):
    """The properties of a function that a submit of its tasks by SQL needs, in which no node takes part.

    Its tasks are kept for `keep` seconds after their ends. `key` is its concurrency key, and `place`
    the position of that argument, None if it can be given by name alone. `secrets` is JSON text, which
    arguments are secret, None if none are; nodes with a key for them seal them (`is_sealed`).
    """

    name: str
    keep: float = 3600.0
    once: bool = False
    key: str | None = None
    place: int | None = None
    secrets: str | None = None
    is_sealed: bool = False


class NodeInfo(msgspec.Struct, frozen=True):
    """A node as it shows itself to the others. Its number in the store identifies it.

    `name` is for people: there may be others with the same. `functions` are those that it runs, `once`
    those of them that run once at most, `labels` those that it was given. `workers` is their number,
    `running` how many tasks they have. One that `is_draining` claims nothing. `described` are all
    functions of its app, also those that it does not run.
    """

    name: str = ""
    version: str = ""
    functions: Sequence[str] = ()
    once: Sequence[str] = ()
    labels: Sequence[str] = ()
    workers: int = 0
    running: int = 0
    is_draining: bool = False
    described: Sequence[Described] = ()


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


class Hint(msgspec.Struct, frozen=True):
    """A hint at what another node may have changed in the store. It may be lost, or be about nothing.

    `functions` are those of which tasks may wait, None if it can be any. `tasks` are tasks and
    batches, of those that are watched, with new events. If it `renews`, a renewal may have news. With
    `everything`, anything may have changed: hints have been lost. One without any of these comes when
    `NodeStore.polls` has changed.
    """

    functions: Sequence[str] | None = ()
    tasks: Sequence[str] = ()
    renews: bool = False
    everything: bool = False


class NodeStore(Protocol):
    """The part of a store that many nodes share. Its methods raise `StoreError`."""

    node: int
    """The number of this node."""

    @property
    def polls(self) -> str | None:
        """Why no hints come, so that the node has to look for itself now and then; None if they do."""

    def listen(self, hint: Callable[[Hint], object]) -> None:
        """Begin to give hints to other nodes, and to call `hint` with theirs, in another thread."""

    def watch(self, ids: Collection[str]) -> None:
        """Have other nodes hint at new events of these tasks and batches, too, soon.

        There is a hint at these when that has begun: look then, and you miss none.
        """

    def unwatch(self, ids: Collection[str]) -> None:
        """Have them hint at these no more."""

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
