"""The store in a PostgreSQL database. Many nodes may share it: each task is claimed by one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import count
from math import inf
from threading import Lock
from typing import Any, TypeVar

import psycopg
from psycopg import Connection

from taskd.store.base import Changes, Filter, Overdue, StoreError, Written
from taskd.store.nodes import NodeInfo
from taskd.store.postgres.accepting import accept, tick
from taskd.store.postgres.attempts import write_attempts
from taskd.store.postgres.batches import PostgresBatches, close_batches, shift_batches
from taskd.store.postgres.by_hand import cancel, put_back, release
from taskd.store.postgres.claims import claim, has_waiting
from taskd.store.postgres.connection import Database, Line
from taskd.store.postgres.copying import PostgresCopies
from taskd.store.postgres.limited import claim_limited
from taskd.store.postgres.listening import Listening
from taskd.store.postgres.literals import numbers
from taskd.store.postgres.membership import PostgresNodes
from taskd.store.postgres.nodes import rescue
from taskd.store.postgres.operators import PostgresAudit, PostgresHistory
from taskd.store.postgres.reading import Reading
from taskd.store.postgres.schema import migrate
from taskd.store.postgres.sealed import PostgresSealed
from taskd.store.postgres.transaction import Transaction, value_of
from taskd.store.postgres.upkeep import promote, prune, shift
from taskd.store.queued import Queued
from taskd.store.records import Event, LastTick, Record, State

__all__ = ["PostgresStore"]

Result = TypeVar("Result")

_TRIAL = "INSERT INTO taskd.paused SELECT '' WHERE false"
_PAUSE = "INSERT INTO taskd.paused VALUES ($1::text) ON CONFLICT DO NOTHING RETURNING 1"
_RESUME = "DELETE FROM taskd.paused WHERE function = $1::text RETURNING 1"
_UNDO_TURN = """
WITH gone AS (
    DELETE FROM taskd.lease WHERE node = $1::int AND turn = ANY($2::bigint[]) AND NOT started RETURNING *
)
INSERT INTO taskd.ready
SELECT id, function, limit_key, priority, due, deadline, owner, batch, size, attempt, errors, losses,
    last_seq, keep, keyed FROM gone
"""


class PostgresStore:
    """Keeps tasks in a database. Implements `taskd.store.base.Store`.

    Each object is a node of its own: what it claims, no other one does. `nodes.renew`
    has to be called every 2 seconds, from one thread; a node that has not done so for 10
    seconds is dead, and others `rescue` what it had. Raises `StoreError` if the database
    cannot be used: there is none, it is newer, or its rights do not suffice.
    """

    is_lasting = True
    room = inf

    def __init__(self, dsn: str, info: NodeInfo | None = None) -> None:
        self._database = Database(dsn)
        self.name = self._database.name
        """What names the database to people."""
        self._turns = count(1)
        self._in_doubt: list[int] = []
        self._writer = Line(self._database, "writer")
        self._reader = Line(self._database, "reader")
        self._beats = Line(self._database, "node")
        self._reading = Lock()
        self._is_closed = False
        self._listening = Listening(self._database, lambda: 0 if self.nodes is None else self.nodes.node)
        self._prepare()
        self.batches = PostgresBatches(self._run, self._read)
        self.history = PostgresHistory(self._run, self._read)
        self.audit = PostgresAudit(self._run, self._read)
        self.copies = PostgresCopies(self._run, self._read)
        self.sealed = PostgresSealed(self._run)
        self._questions = Reading(self._read)
        self.nodes: PostgresNodes | None = None
        self.nodes = PostgresNodes(
            *(self._run, self._read, self._questions, self._beats, info or NodeInfo()),
            self._pids,
            self._listening,
        )

    def _pids(self) -> list[int]:
        lines = (self._writer, self._reader, self._beats)
        return [pid for line in lines if (pid := line.pid) is not None]

    def _prepare(self) -> None:
        try:
            connection = self._database.connect("migration")
        except psycopg.Error as error:
            raise self._database.error("opened", error) from error
        try:
            migrate(connection, self.name)
        except psycopg.Error as error:
            raise self._database.error("opened", error) from error
        finally:
            connection.close()

    def _run(self, work: Callable[[Transaction], Result], line: Line | None = None) -> Result:
        """Do what `work` does in one transaction. Raises `StoreError`."""

        def done(transaction: Transaction) -> Callable[[], Result]:
            result = work(transaction)
            return lambda: result

        return self._finish(done, line)

    def _finish(
        self, work: Callable[[Transaction], Callable[[], Result]], line: Line | None = None
    ) -> Result:
        """Do what `work` does in one transaction; return what the function that it returns does."""
        self._check_open()
        turn, node = next(self._turns), 0 if self.nodes is None else self.nodes.node
        last: list[Transaction] = []

        def run(connection: Connection[Any]) -> Callable[[], Result]:
            transaction = Transaction(connection, node, turn)
            last[:] = [transaction]
            if self._in_doubt:
                transaction.execute(_UNDO_TURN, node, numbers(self._in_doubt))
            return work(transaction)

        line = line or self._writer
        try:
            result = line.run(run)
        except StoreError:
            if line is self._writer and line.is_in_doubt:
                self._in_doubt.append(turn)  # it may have claimed tasks of which nobody knows
            raise
        if line is self._writer:
            self._in_doubt.clear()
        self._listening.outbox.committed(last[0])
        return result

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreError(f"{self.name} is closed: the daemon stops")

    # --- one transaction each ---

    def write(self, batch: Changes, now: float) -> Written:
        """Write a batch. Raises `StoreError`."""
        return self._finish(lambda transaction: _write(transaction, batch, now))

    def rescue(self, now: float, once: Collection[str] = (), error: bytes | None = None) -> int:
        """End the attempts of nodes that are dead or have left. Raises `StoreError`."""
        return self._run(lambda transaction: rescue(transaction, now, once, error))

    def promote(self, now: float, limit: int) -> float | None:
        """Let scheduled tasks that are due wait. Raises `StoreError`."""
        return self._run(lambda transaction: promote(transaction, now, limit))

    def prune(self, now: float, limit: int) -> int:
        """Forget ended tasks. Raises `StoreError`."""
        return self._run(lambda transaction: prune(transaction, now, limit))

    def pause(self, function: str, *, paused: bool) -> bool:
        """Note that a function is paused, or is not any more. Raises `StoreError`."""
        statement = _PAUSE if paused else _RESUME

        def pause(transaction: Transaction) -> bool:
            transaction.wakes.to_all.add("pause")
            return bool(transaction.rows(statement, function))

        return self._run(pause) is not paused

    # --- reading, from any thread ---

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self._reading:
            self._check_open()
            return self._reader.read(query, list(map(value_of, values)))

    def paused(self) -> list[str]:
        """Return the functions that are paused. Raises `StoreError`."""
        return self._questions.paused()

    def get(self, id: str) -> Record | None:  # noqa: A002
        """Return a task. Raises `StoreError`."""
        return self._questions.get(id)

    def find(self, wanted: Filter, after: str, limit: int) -> list[Record]:
        """Return tasks in the order of their ids. Raises `StoreError`."""
        return self._questions.find(wanted, after, limit)

    def events(self, task: str, after: int, limit: int) -> list[Event]:
        """Return events of a task. Raises `StoreError`."""
        return self._questions.events(task, after, limit)

    def overdue(self, now: float, limit: int) -> Overdue:
        """Return tasks whose deadlines have passed. Raises `StoreError`."""
        return self._questions.overdue(now, limit)

    def has_owners(self) -> bool:
        """Return whether any task has an owner. Raises `StoreError`."""
        return self._questions.has_owners()

    def last_ticks(self) -> dict[str, LastTick]:
        """Return the last tick of each schedule. Raises `StoreError`."""
        return self._questions.last_ticks()

    def counts(self) -> dict[tuple[str, State], int]:
        """Return how many tasks there are. Raises `StoreError`."""
        return self._questions.counts()

    def queued(self, limit: int) -> list[Queued]:
        """Return how many unfinished tasks there are. Raises `StoreError`."""
        return self._questions.queued(limit)

    def close(self) -> None:
        """Let others have what has not been started, and close the connections."""
        with self._reading:
            if self._is_closed:
                return
            with suppress(StoreError):  # then it is found dead in some seconds
                assert self.nodes is not None
                self.nodes.leave()
            self._is_closed = True
            self._listening.close()
            for line in (self._writer, self._reader, self._beats):
                line.close()


def _write(transaction: Transaction, batch: Changes, now: float) -> Callable[[], Written]:
    """Write a batch; return what returns the answer."""
    if batch.is_trial:
        transaction.execute(_TRIAL)
    if batch.shift is not None:
        shift(transaction, batch.shift)
        shift_batches(transaction, batch.shift.seconds)
    at_once = _claimed_at_once(transaction, batch)
    accepted = accept(transaction, batch.submits, now, batch.allowances, at_once)
    ticked = tick(transaction, batch.ticks, now)
    own = write_attempts(transaction, batch, now)
    cancelled = [cancel(transaction, task, now) for task in batch.cancels]
    put_backs = [put_back(transaction, task, now) for task in batch.put_backs]
    release(transaction, batch.releases, now, batch.limit_keys)
    changed = close_batches(transaction, now)
    claims = {
        function: claim(transaction, function, want)
        for function, want in batch.want.items()
        if function not in at_once and function not in batch.limits
    }
    again: dict[str, float] = {}
    for function in sorted(batch.want.keys() & batch.limits.keys()):
        limit = batch.limits[function]
        claims[function] = claim_limited(transaction, function, batch.want[function], limit, again)

    def written() -> Written:
        claimed: list[Record] = []
        for function in batch.want:
            if function in at_once:
                claimed += sorted(at_once[function], key=Record.turn_of_any)
            else:
                claimed += claims[function]()
        for record in claimed:
            transaction.wakes.waiting.pop(record.new.id, None)
        logged = transaction.logged
        return Written(accepted, own, cancelled, put_backs, claimed, logged, changed, ticked, again)

    return written


def _claimed_at_once(transaction: Transaction, batch: Changes) -> dict[str, list[Record]]:
    """Return a list for each function whose new tasks may all be claimed as they come: nothing else waits.

    These go straight to the leases.
    """
    if (
        batch.cancels
        or batch.put_backs
        or batch.releases
        or batch.ticks
        or any(settle.state is State.WAITING for settle in batch.settles)
    ):
        return {}
    counts = Counter(new.function for new in batch.submits)
    asked = {
        function: has_waiting(transaction, function)
        for function, most in batch.want.items()
        if isinstance(most, int) and 0 < counts[function] <= most and function not in batch.limits
    }
    return {function: [] for function, is_waiting in asked.items() if not is_waiting()}
