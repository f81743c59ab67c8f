"""The node of this process in a PostgreSQL store, among the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from taskd.store.nodes import Beat, Described, Hint, NodeInfo, NodeRow
from taskd.store.postgres.connection import Line
from taskd.store.postgres.listening import Listening
from taskd.store.postgres.literals import texts
from taskd.store.postgres.nodes import (
    cut_off,
    describe,
    drain,
    leave,
    living,
    now_of,
    register,
    renew,
    rescue,
)
from taskd.store.postgres.reading import Reading
from taskd.store.postgres.transaction import Transaction
from taskd.store.records import Record

__all__ = ["PostgresNodes"]

Result = TypeVar("Result")

_LAST_SEQS = " UNION ALL ".join(
    f"SELECT id, last_seq FROM taskd.{table} WHERE id = ANY($1::text[])"
    for table in ("later", "ready", "lease", "ended")
)


class Run(Protocol):
    """Does something in one transaction, on the writer's connection or on another one."""

    def __call__(self, work: Callable[[Transaction], Result], line: Line | None = None, /) -> Result: ...


class PostgresNodes:
    """The node of one store object. Implements `taskd.store.nodes.NodeStore`.

    `line` is the connection for renewals, which have a thread of their own; `pids` returns the server's
    processes for all connections.
    """

    def __init__(
        self,
        run: Run,
        read: Callable[..., list[Any]],
        reading: Reading,
        line: Line,
        info: NodeInfo,
        pids: Callable[[], list[int]],
        listening: Listening,
    ) -> None:
        self._run = run
        self._read = read
        self._reading = reading
        self._line = line
        self._info = info
        self._described: Sequence[Described] = ()
        self._pids = pids
        self._listening = listening
        self.node = 0
        self.node = run(lambda transaction: register(transaction, info))

    def now(self) -> float:
        """Return the time by the database's clock. Raises `StoreError`."""
        return self._run(now_of, self._line)

    def renew(self, info: NodeInfo, lost: bytes = b"null", *, rescues: bool = True) -> Beat:
        """Show that this node lives, and rescue the tasks of those that do not. Raises `StoreError`."""
        self._info = info

        # Once after each change, so that the nodes with the newest app have the last word.
        is_new = info.described != self._described

        def renewed(transaction: Transaction) -> Beat:
            beat = renew(transaction, info, self._pids())
            self._listening.outbox.surroundings(transaction)
            if is_new:
                describe(transaction, info.described)
            return beat

        beat = self._run(renewed, self._line)
        self._described = info.described
        if not (beat.is_mine and rescues):
            return beat
        # Apart from the renewal, which must not wait for anything.
        self._run(cut_off, self._line)
        rescued = self._run(lambda transaction: rescue(transaction, beat.now, (), lost), self._line)
        return msgspec.structs.replace(beat, rescued=rescued)

    def rejoin(self) -> None:
        """Become a new node. Raises `StoreError`."""

        def rejoin(transaction: Transaction) -> int:
            leave(transaction)
            return register(transaction, self._info)

        self.node = self._run(rejoin)
        self._listening.outbox.poke()  # it listens to the channel of the old one

    def leave(self) -> None:
        """Claim nothing any more, and let others have what has not been started. Raises `StoreError`."""
        self._run(leave)

    def listen(self, hint: Callable[[Hint], object]) -> None:
        """Begin to give hints to others, and to call `hint` with theirs, in a thread of its own."""
        self._listening.listen(hint)

    @property
    def polls(self) -> str | None:
        """Why no hints come; None if they do."""
        return self._listening.fault

    def watch(self, ids: Collection[str]) -> None:
        """Have others hint at what becomes of these tasks and batches."""
        self._listening.outbox.watch(ids)

    def unwatch(self, ids: Collection[str]) -> None:
        """Have them hint at these no more."""
        self._listening.outbox.unwatch(ids)

    def rows(self) -> list[NodeRow]:
        """Return the nodes that live. Raises `StoreError`."""
        return self._run(living, self._line)

    def drain(self, node: int, *, drain: bool) -> bool:
        """Have a node claim nothing any more, or again. Raises `StoreError`."""
        return self._run(lambda transaction: _drain(transaction, node, is_drained=drain), self._line)

    def last_seqs(self, tasks: Sequence[str]) -> dict[str, int]:
        """Return the last sequence numbers of these tasks. Raises `StoreError`."""
        return dict(self._read(_LAST_SEQS, texts(tasks)))

    def ends(self, tasks: Sequence[str]) -> list[Record]:
        """Return those of these tasks that have ended. Raises `StoreError`."""
        found = (self._reading.get(task) for task in tasks)
        return [record for record in found if record is not None and record.ended is not None]


_drain = drain
