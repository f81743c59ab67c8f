"""The copy of a store's contents into another one, or into a file: as they are, a part at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Literal, Protocol

import msgspec
from msgspec.structs import replace

from taskd.store.audit import AuditEntry
from taskd.store.batches import BatchRecord, Rows
from taskd.store.history import HistoryRow
from taskd.store.records import ENDED, Event, LastTick, Record, State, last_seq

__all__ = [
    "PAGE",
    "PAGE_BYTES",
    "CopiedBatch",
    "CopiedTask",
    "CopiedTick",
    "CopyStore",
    "Copying",
    "Item",
    "Loaded",
    "NotCopied",
    "Paused",
    "Target",
    "kind_of",
    "missing",
    "page_of",
    "pages",
    "takers",
]

PAGE = 500
"""Tasks, batches or rows that are read or written at once: some 50 ms of a disk's and a processor's time."""

PAGE_BYTES = 16 * 2**20
"""Bytes of arguments and results that are read or written at once: what reaches them ends the page."""


class CopiedTask(msgspec.Struct, frozen=True):
    """A task with its log, whose events are in their order."""

    record: Record
    events: list[Event]

    @property
    def size(self) -> int:
        """The bytes of its arguments and its outcome."""
        return len(self.record.new.args or b"") + len(self.record.outcome or b"")


class CopiedBatch(msgspec.Struct, frozen=True):
    """A batch with all its parts, of which those whose tasks are stored have the ids alone.

    `is_changed` is whether its counts have changed since a transaction last returned it.
    """

    record: BatchRecord
    parts: list[Rows]
    is_changed: bool = False

    @property
    def unstored(self) -> list[Rows]:
        """The parts whose tasks are not stored yet."""
        return self.parts[self.record.stored :]

    @property
    def size(self) -> int:
        """The bytes of the arguments."""
        return sum(part.size for part in self.parts)


class CopiedTick(msgspec.Struct, frozen=True):
    """The last tick of a schedule."""

    name: str
    last: LastTick


class Paused(msgspec.Struct, frozen=True):
    """A function that is paused."""

    function: str


Item = CopiedTask | CopiedBatch | CopiedTick | Paused | HistoryRow | AuditEntry

Loaded = Literal["copied", "known", "key", "token"]
"""What has become of an item: it is there now, was there already, or another one has its key or its token."""

_KINDS: dict[type[Item], str] = {
    CopiedTask: "task",
    CopiedBatch: "batch",
    CopiedTick: "schedule",
    Paused: "paused",
    HistoryRow: "history",
    AuditEntry: "audit",
}


def kind_of(item: Item) -> str:
    """Return the word for what an item is."""
    return _KINDS[type(item)]


class Target(Protocol):
    """Whatever takes copies."""

    def load(self, items: Sequence[Item]) -> list[Loaded]:
        """Add items as they are; return what has become of each. All of it is one transaction.

        No task among them runs. What is there already stays as it is: a task or a batch with the same
        id, figures of the same period, an entry of the audit log that is equal. Of a schedule, the later
        tick stays.
        """


class CopyStore(Target, Protocol):
    """The part of a store that is copied from and to. Its methods raise `StoreError`.

    Those that read return a page: `PAGE` items at most, of which one may reach `PAGE_BYTES`. It is empty at
    the end.
    """

    def tasks(self, after: str, *, whole: bool) -> list[CopiedTask]:
        """Return tasks whose ids follow `after`, in their order; with `whole` also ended ones."""

    def batches(self, after: str, *, whole: bool) -> list[CopiedBatch]:
        """Return batches whose ids follow `after`, in their order; with `whole` also ended ones."""

    def marks(self) -> list[CopiedTick | Paused]:
        """Return all that is paused, and the last ticks of all schedules."""

    def history(self, after: HistoryRow | None) -> list[HistoryRow]:
        """Return rows after one, by the length of their periods, their times and their functions."""

    def audit(self, after: int) -> list[AuditEntry]:
        """Return entries whose numbers follow `after`, the oldest first."""


def pages(source: CopyStore, *, whole: bool) -> Iterator[Sequence[Item]]:
    """Yield the contents of a store: what is unfinished or, with `whole`, everything.

    Batches come before their tasks, so that each is counted if it ends at once.
    """
    yield source.marks()
    after = ""
    while batches := source.batches(after, whole=whole):
        yield batches
        after = batches[-1].record.id
    after = ""
    while tasks := source.tasks(after, whole=whole):
        yield tasks
        after = tasks[-1].record.new.id
    if whole:
        row = None
        while rows := source.history(row):
            yield rows
            row = rows[-1]
        number = 0
        while entries := source.audit(number):
            yield entries
            number = entries[-1].number


def page_of(sizes: Iterable[tuple[str, int]]) -> list[str]:
    """Return the first of these ids: as many as are read at once, by the bytes of each."""
    ids, size = [], 0
    for each, its in sizes:
        ids.append(each)
        size += its
        if size >= PAGE_BYTES:
            break
    return ids


def missing(entries: Sequence[AuditEntry], known: Iterable[AuditEntry]) -> list[bool]:
    """Return which of these entries are not among the known ones, whatever their numbers.

    Of equal ones, as many count as known as are there.
    """
    left = Counter(replace(each, number=0) for each in known)
    answers = []
    for entry in entries:
        plain = replace(entry, number=0)
        answers.append(left[plain] <= 0)
        left[plain] -= 1
    return answers


def takers(item: CopiedTask) -> Iterator[tuple[Literal["key", "token"], str, str, str]]:
    """Yield what no other task may have in common with one: what it is, owner, function and value.

    The function of a token is empty, since it is that of all tasks of the owner.
    """
    new = item.record.new
    if new.token is not None:
        yield "token", new.owner, "", new.token
    if new.key is not None and item.record.state not in ENDED:
        yield "key", new.owner, new.function, new.key


class NotCopied(msgspec.Struct, frozen=True):
    """A task or a batch that could not be copied, and why."""

    kind: str
    id: str
    reason: str


_TAKEN: dict[Loaded, str] = {
    "key": "another unfinished task of its function has its key",
    "token": "another one has its token",
}
_BATCH = "its batch could not be copied"
_ONCE = "it ran, and its function runs once at most"


class Copying:
    """One run of a copy into a target. It may be broken off at any time, and run again.

    `now` is in seconds since 1970. Tasks that still run, according to a file, wait again with a loss,
    as after the death of a server, unless their functions are in `once`.
    """

    def __init__(
        self, target: Target, now: float, *, whole: bool = False, once: Collection[str] = ()
    ) -> None:
        self._target = target
        self._now = now
        self._whole = whole
        self._once = once
        self._left_out: set[str] = set()
        self.copied: Counter[str] = Counter()
        """How many of each kind were copied."""
        self.known: Counter[str] = Counter()
        """How many were there already."""
        self.failed: list[NotCopied] = []
        """What could not be copied."""

    def run(self, given: Iterable[Sequence[Item]], after_page: Callable[[], object] = lambda: None) -> None:
        """Copy these pages; call `after_page` after each. Raises `StoreError`."""
        for page in given:
            items = [item for each in page if (item := self._fit(each)) is not None]
            for item, loaded in zip(items, self._target.load(items) if items else (), strict=True):
                if loaded == "copied":
                    self.copied[kind_of(item)] += 1
                elif loaded == "known":
                    self.known[kind_of(item)] += 1
                else:
                    self._fail(item, _TAKEN[loaded])
            after_page()

    def _fail(self, item: Item, reason: str) -> None:
        if isinstance(item, CopiedBatch):
            self._left_out.add(item.record.id)
            self.failed.append(NotCopied("batch", item.record.id, reason))
        elif isinstance(item, CopiedTask):
            self.failed.append(NotCopied("task", item.record.new.id, reason))

    def _fit(self, item: Item) -> Item | None:
        """Return an item as it will be there, None if it is left out."""
        if isinstance(item, CopiedTask):
            record = item.record
            if record.state in ENDED and not self._whole:
                return None
            if record.new.batch in self._left_out:
                self._fail(item, _BATCH)
                return None
            if record.state is State.RUNNING:
                if record.new.function in self._once:
                    self._fail(item, _ONCE)
                    return None
                return _rested(item, self._now)
            return item
        if isinstance(item, CopiedBatch):
            return item if self._whole or item.record.ended is None else None
        return item if self._whole or isinstance(item, CopiedTick | Paused) else None


def _rested(item: CopiedTask, now: float) -> CopiedTask:
    """Return a task that ran as it is after the death of its server."""
    record = item.record
    seq = max(record.last_seq + 1, last_seq(record.attempt))
    lost = Event(record.new.id, seq, "lost", now)
    waiting = replace(record, state=State.WAITING, losses=record.losses + 1, due=now, last_seq=seq)
    return CopiedTask(waiting, [*item.events, lost])
