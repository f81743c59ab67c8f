"""The contract of stores, which `tests/contracts/test_store.py` holds every store to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from taskd.store.audit import AuditStore
from taskd.store.batches import BatchRecord, BatchStore
from taskd.store.copying import CopyStore
from taskd.store.history import HistoryStore
from taskd.store.nodes import NodeStore
from taskd.store.queued import Queued
from taskd.store.records import (
    Accepted,
    Allowance,
    Event,
    Full,
    LastTick,
    New,
    Record,
    Settle,
    Shift,
    Start,
    State,
    Tick,
)

__all__ = [
    "CLAIM_BYTES",
    "Changes",
    "Filter",
    "KeyedWant",
    "Limit",
    "Overdue",
    "Own",
    "Store",
    "StoreError",
    "Want",
    "Written",
]

CLAIM_BYTES = 16 * 1024 * 1024
"""Bytes of arguments that one claim reads from a file: with the task that reaches them, it ends."""


class StoreError(Exception):
    """A failure of a store: its text has what is wrong, where, and what would be right."""


class KeyedWant(msgspec.Struct):
    """How many waiting tasks of a function with a concurrency key may be claimed: `count` altogether.

    With `keys`, each of these keys may have so many. Without, every key may have
    `each`, less what is claimed of it already: keys are taken in their order,
    those after `after` first. So a key with any number of waiting tasks leaves
    room for the others. Tasks whose `limit_key` is None are taken only
    `with_unkeyed`, last, as if they were those of one more key.
    """

    count: int
    keys: dict[str, int] | None = None
    each: int = 0
    claimed: Mapping[str | None, int] = {}
    after: str = ""
    with_unkeyed: bool = False

    def room(self, key: str | None) -> int:
        """Return how many of a key may be claimed, as far as the others leave room."""
        return max(self.each - self.claimed.get(key, 0), 0)


Want = int | KeyedWant
"""How many waiting tasks of a function may be claimed; fewer are, if their arguments reach `CLAIM_BYTES`.
Those without a limit key come first; for functions that have such keys, or owners, there is `KeyedWant`."""


class Limit(msgspec.Struct, frozen=True):
    """The limits of a function on all nodes together; None means no limit.

    At most `concurrency` are claimed or run, and at most `rate` start in `seconds`: with `by_key`,
    so many of each value of the concurrency key, which their limit keys have.
    """

    concurrency: int | None = None
    rate: int | None = None
    seconds: float = 0.0
    by_key: bool = False


class Changes(msgspec.Struct):
    """The changes of one transaction, in the order of the fields.

    `releases` are tasks that were claimed and will not be started: others may
    claim them. `want` says how many waiting tasks of each function may be claimed.
    `allowances` are those of new tasks, by their ids: with less room than these need, they are not accepted.
    `ticks` come after the submits. A `shift` comes before everything else: it moves
    the times of unfinished tasks that are not fixed, and the last ticks of the
    schedules that it names. `limits` are those of wanted functions: a store that several nodes share claims
    no more than these permit, and the store of one process, which sees to them itself, need not look at them.
    `limit_keys` are new limit keys of some of the releases, for such a store alone. With `is_trial` something
    is written in any case, so that a store that has failed and cannot be written yet raises `StoreError`.
    """

    submits: Sequence[New] = ()
    starts: Sequence[Start] = ()
    events: Sequence[Event] = ()
    settles: Sequence[Settle] = ()
    cancels: Sequence[str] = ()
    put_backs: Sequence[str] = ()
    releases: Sequence[str] = ()
    want: Mapping[str, Want] = {}
    ticks: Sequence[Tick] = ()
    shift: Shift | None = None
    is_trial: bool = False
    allowances: Mapping[str, Allowance] = {}
    limits: Mapping[str, Limit] = {}
    limit_keys: Mapping[str, str | None] = {}


class Own(msgspec.Struct):
    """Which starts, events and settles of a batch are of present attempts: only these are written."""

    starts: list[bool]
    events: list[bool]
    settles: list[bool]


class Written(msgspec.Struct):
    """The answers to a batch, each list in the order of what it answers.

    `own` says what was written of the starts, events and settles. `cancelled` and
    `put_back` have the states in which the tasks were before, None for tasks
    that do not exist; only tasks that wait or are scheduled are cancelled here,
    and only failed ones and those that were set aside are put back. `claims` are
    tasks that the caller may start, and that no later batch returns again until
    they have been settled as waiting. `events` are all that the batch has added
    to logs, those of each task in the order of their sequence numbers. `batches`
    are those whose counts have changed since the last transaction that returned them.
    `ticked` has the task of each tick, None for one that was there already, or has none.
    `again` has the functions whose limits have left tasks unclaimed that might be claimed later,
    with the seconds after which it is worth while to want them again, as far as that is known.
    """

    accepted: list[Accepted | Full]
    own: Own
    cancelled: list[State | None]
    put_back: list[State | None]
    claims: list[Record]
    events: list[Event] = []
    batches: list[BatchRecord] = []
    ticked: list[Accepted | None] = []
    again: dict[str, float] = {}


class Overdue(msgspec.Struct, frozen=True):
    """The ids of tasks whose deadlines have passed, and the first deadline that has not, None for none."""

    ids: list[str]
    next: float | None


class Filter(msgspec.Struct, frozen=True):
    """Which tasks `Store.find` returns: None stands for any. `like` is how an id begins, or how it ends.

    The `batch` "" stands for none.

    `error` is JSON text that the outcome of a task has which did not succeed. With `is_brief` they have
    neither arguments nor results, which may be large. With `newest`, the newest come first.
    """

    states: Collection[State] | None = None
    function: str | None = None
    batch: str | None = None
    key: str | None = None
    like: str | None = None
    is_brief: bool = False
    owner: str | None = None
    error: bytes | None = None
    newest: bool = False


class Store(Protocol):
    """A store. Not thread-safe but for reading: one thread writes.

    Times are seconds since 1970. Every method but the reading ones is one
    transaction: it takes place as a whole or, if it raises `StoreError`, not at all.
    """

    is_lasting: bool
    """Whether what is acknowledged is there after the end of the process, and of the machine."""

    @property
    def nodes(self) -> NodeStore | None:
        """The nodes that share it; None if it is that of one process."""

    @property
    def batches(self) -> BatchStore:
        """The batches that it keeps."""

    @property
    def history(self) -> HistoryStore:
        """The history: the work done in each minute and hour."""

    @property
    def audit(self) -> AuditStore:
        """The audit log."""

    @property
    def copies(self) -> CopyStore:
        """The part that copies are read from and added to, while no server uses the store."""

    @property
    def room(self) -> float:
        """The number of bytes of new tasks that there is room for; infinite if only the disk limits them."""

    def write(self, batch: Changes, now: float) -> Written:
        """Write a batch. Once this returns, nothing of it can be lost."""

    def rescue(self, now: float, once: Collection[str] = (), error: bytes | None = None) -> int:
        """End the attempts that were running when the last process ended; return how many.

        Each task has one loss more and waits again; those of the functions in
        `once` have failed with `error` (JSON text). Call this once, before
        anything is claimed. The event has the last sequence number of its attempt,
        since whoever ran it may have given out any of the others.
        """

    def promote(self, now: float, limit: int) -> float | None:
        """Let up to `limit` scheduled tasks that are due wait.

        Returns when the next one is due, None for never.
        """

    def overdue(self, now: float, limit: int) -> Overdue:
        """Return up to `limit` tasks that wait, have never been started, and whose deadlines have passed.

        This only reads. Claimed tasks are left out.
        """

    def prune(self, now: float, limit: int) -> int:
        """Forget up to `limit` ended tasks and batches that have been kept long enough; return how many."""

    def pause(self, function: str, *, paused: bool) -> bool:
        """Note that a function is paused, or is not any more; return whether it was.

        That changes nothing else: whoever claims tasks must ask for none of that function.
        """

    def paused(self) -> list[str]:
        """Return the functions that are paused, in order."""

    def get(self, id: str) -> Record | None:  # noqa: A002
        """Return a task, None if there is none with this id."""

    def find(self, wanted: Filter, after: str, limit: int) -> list[Record]:
        """Return up to `limit` tasks whose ids follow `after`, in the order of their ids.

        With `Filter.newest`, those whose ids come before `after`, "" for the last one, in reverse order.
        """

    def events(self, task: str, after: int, limit: int) -> list[Event]:
        """Return up to `limit` events of a task whose sequence numbers follow `after`, in their order."""

    def has_owners(self) -> bool:
        """Return whether any task has an owner."""

    def last_ticks(self) -> dict[str, LastTick]:
        """Return the last tick of each schedule, by its name."""

    def counts(self) -> dict[tuple[str, State], int]:
        """Return how many tasks of each function are in each state."""

    def queued(self, limit: int) -> list[Queued]:
        """Count the unfinished tasks by function and owner: the `limit` largest numbers, the rest as one."""

    def close(self) -> None:
        """Close the store. Idempotent."""
