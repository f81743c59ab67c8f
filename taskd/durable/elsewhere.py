"""Follows tasks and batches that other nodes run: reads their events and ends from the store.

The store hints at what has changed, and every hint may be lost: so it is asked again and again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.waiters import Waiters
from taskd.durable.writer import Execute
from taskd.net.timers import Alarm
from taskd.protocol.event_lines import Kind
from taskd.store.base import Store, StoreError
from taskd.store.batches import BatchRecord
from taskd.store.nodes import NodeRow, NodeStore
from taskd.store.records import Record

__all__ = ["Elsewhere"]

_log = Logger(namespace="taskd.store")

POLL_SECONDS = 0.5
"""Seconds between two looks; a tenth more or less, so that nodes do not fall into step."""

SETTLE_SECONDS = 0.01
"""Seconds after which others are asked to hint at what somebody here has begun to follow: by then, this node
has claimed most of what it was given itself."""


class Hub(Protocol):
    """Pushes events to whoever watches: `taskd.durable.events.EventHub`."""

    began: Callable[[str], object]
    """Called with a task or batch when somebody begins to watch it, and nobody else does."""

    def kind_of(self, id_: str, /) -> Kind | None:
        """Return whether it is a task or a batch that somebody watches; None if nobody does."""

    def watched_of(self, kind: Kind, /) -> list[str]:
        """Return the tasks or the batches that anybody watches."""

    def look_again(self, ids: Iterable[str], /) -> None:
        """Read the logs of these tasks for who watches them."""


class Batches(Protocol):
    """The batches of this node: `taskd.durable.batches.DurableBatches`."""

    began: Callable[[str], object]
    """Called with a batch when somebody begins to wait for its end, and nobody else does."""

    @property
    def awaited(self) -> Collection[str]:
        """The batches for whose ends somebody waits."""

    def changed(self, batches: list[BatchRecord], /) -> None:
        """Receive batches whose counts have changed."""


class _News(msgspec.Struct):
    """What the store has of what is watched: the last numbers of tasks, their ends, and batches."""

    seqs: dict[str, int]
    ends: list[Record]
    batches: list[BatchRecord]


class Elsewhere:
    """Looks for the events and ends of what others run. `runs` are the tasks that this node has claimed."""

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        nodes: NodeStore,
        read: Execute,
        hub: Hub,
        waiters: Waiters,
        batches: Batches,
        runs: Mapping[str, object],
    ) -> None:
        self._clock = clock
        self._store = store
        self._nodes = nodes
        self._read = read
        self._hub = hub
        self._waiters = waiters
        self._batches = batches
        self._runs = runs
        self._seqs: dict[str, int] = {}
        self._overs: dict[str, int] = {}
        self._alarm = Alarm(clock, self._look)
        self._is_reading = self._is_asked = self._is_stopped = False
        self._begun: set[str] = set()  # to follow, some ms ago
        self._noted: set[str] = set()  # for others, which hint at changes of these
        self._changed: set[str] = set()
        hub.began = waiters.began = batches.began = self._began

    def start(self) -> None:
        """Look from now on."""
        self._set_alarm()

    def stop(self) -> None:
        """Look no longer."""
        self._is_stopped = True

    def nodes(self) -> Deferred[list[NodeRow]]:
        """Return the nodes that live."""
        return self._read(self._nodes.rows)

    @property
    def node(self) -> int:
        """The number of this node."""
        return self._nodes.node

    def look_soon(self) -> None:
        """Look now, since something may have changed."""
        self._is_asked = self._is_reading
        self._alarm.set(self._clock.seconds())

    def changed(self, ids: Iterable[str]) -> None:
        """Look at these tasks and batches now, as far as anybody here follows them."""
        self._changed.update(ids)
        if not self._is_reading:
            self._look_at_changed()

    def _began(self, id_: str) -> None:
        if not self._begun:
            self._clock.callLater(SETTLE_SECONDS, self._note_begun)
        self._begun.add(id_)

    def _note_begun(self) -> None:
        begun, self._begun = self._begun, set()
        if not self._is_stopped:
            followed = {id_ for id_ in begun if id_ not in self._runs and self._is_followed(id_)}
            self._note(followed - self._noted)

    def _is_followed(self, id_: str) -> bool:
        return (
            self._waiters.are_there(id_) or id_ in self._batches.awaited or self._hub.kind_of(id_) is not None
        )

    def _note(self, ids: set[str]) -> None:
        if ids:
            self._noted |= ids
            self._nodes.watch(ids)

    def _forget(self, ids: set[str]) -> None:
        if ids:
            self._noted -= ids
            self._nodes.unwatch(ids)

    def _set_alarm(self) -> None:
        seconds = POLL_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311
        self._alarm.set(self._clock.seconds() + seconds)

    def _look(self) -> None:
        if self._is_stopped:
            return
        self._set_alarm()
        if self._is_reading:
            return
        awaited = {task for task in self._waiters.awaited if task not in self._runs}
        watched = {task for task in self._hub.watched_of("task") if task not in self._runs}
        batches = {*self._batches.awaited, *self._hub.watched_of("batch")}
        tasks = awaited | watched
        self._note((tasks | batches) - self._noted - self._begun)
        self._forget(self._noted - tasks - batches)
        self._seqs = {task: seq for task, seq in self._seqs.items() if task in tasks}
        self._overs = {batch: over for batch, over in self._overs.items() if batch in batches}
        self._ask(tasks, awaited, batches)

    def _look_at_changed(self) -> None:
        changed, self._changed = self._changed, set()
        if self._is_stopped:
            return
        kinds = {id_: self._hub.kind_of(id_) for id_ in changed if id_ not in self._runs}
        awaited = {id_ for id_ in kinds if self._waiters.are_there(id_)}
        waited = self._batches.awaited
        batches = {id_ for id_, kind in kinds.items() if kind == "batch" or id_ in waited}
        self._ask(awaited | {id_ for id_, kind in kinds.items() if kind == "task"}, awaited, batches)

    def _ask(self, tasks: set[str], awaited: set[str], batches: set[str]) -> None:
        if tasks or batches:
            self._is_reading = True
            known = {task: self._seqs[task] for task in tasks if task in self._seqs}
            reading = self._read(lambda: self._news(sorted(tasks), awaited, sorted(batches), known))
            reading.addCallbacks(self._have_read, self._broke)
            reading.addErrback(lambda reason: _log.failure("a bug in taskd", reason))
            reading.addCallback(self._go_on)

    def _go_on(self, _: None) -> None:
        """Look at what was hinted at meanwhile."""
        if self._is_asked:
            self._is_asked = False
            self._look()
        elif self._changed:
            self._look_at_changed()

    def _news(
        self, tasks: list[str], awaited: Collection[str], batches: list[str], known: Mapping[str, int]
    ) -> _News:
        seqs = self._nodes.last_seqs(tasks) if tasks else {}
        moved = [task for task in awaited if seqs.get(task) != known.get(task)]
        found = (self._store.batches.get(batch) for batch in batches)
        return _News(
            seqs,
            self._nodes.ends(moved) if moved else [],
            [batch for batch in found if batch is not None],
        )

    def _have_read(self, news: _News) -> None:
        self._is_reading = False
        changed = [task for task, seq in news.seqs.items() if self._seqs.get(task) != seq]
        self._seqs.update(news.seqs)
        self._hub.look_again([task for task in changed if task not in self._runs])
        for record in news.ends:
            if record.new.id not in self._runs:
                self._waiters.announce(record.new.id, record.state, record.outcome)
        batches = [batch for batch in news.batches if self._overs.get(batch.id) != _place(batch)]
        self._overs.update({batch.id: _place(batch) for batch in batches})
        if batches:
            self._batches.changed(batches)

    def _broke(self, reason: TwistedFailure) -> None:
        self._is_reading = False
        if reason.check(StoreError) is None:
            _log.failure("a bug in taskd", reason)


def _place(batch: BatchRecord) -> int:
    """Return a number that grows with each change of a batch."""
    return batch.over + (batch.ended is not None)
