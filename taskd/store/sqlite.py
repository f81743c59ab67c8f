"""The store in one SQLite file, without a server. Acknowledged tasks survive kill -9 and a power cut."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from threading import Lock
from typing import Any

from taskd.store.base import Changes, Filter, Overdue, StoreError, Written
from taskd.store.queued import Queued
from taskd.store.records import (
    Accepted,
    Allowance,
    Event,
    Full,
    LastTick,
    New,
    Record,
    Shift,
    State,
    Tick,
    last_seq,
)
from taskd.store.sqlite_attempts import write_attempts
from taskd.store.sqlite_batches import (
    LAST,
    SqliteBatches,
    close_batches,
    id_like,
    owned_by,
    prune_batches,
    shift_batches,
)
from taskd.store.sqlite_claims import claim_any, claim_by_key
from taskd.store.sqlite_copying import SqliteCopies
from taskd.store.sqlite_errors import explained
from taskd.store.sqlite_file import bring_up_to_date, version_of
from taskd.store.sqlite_log import LoggingCursor
from taskd.store.sqlite_operators import SqliteAudit, SqliteHistory, count_queued
from taskd.store.sqlite_owners import note_waiting, refusal
from taskd.store.sqlite_rows import BRIEF, COLUMNS, record_of
from taskd.store.sqlite_schema import VERSION
from taskd.store.sqlite_sealed import SqliteSealed

__all__ = ["SqliteStore"]

WAL_BYTES = 64 * 1024 * 1024
"""Bytes to which the write-ahead log is cut after a checkpoint that was held up."""

_BY_HAND = {
    State.CANCELLED: "ended = ?",
    State.WAITING: "ended = NULL, errors = 0, losses = 0, due = ?",
}
_WAITING = "FROM task WHERE state = 1 AND claimed = 0 AND function = ?1 AND limit_key"
_BACKLOG = f"SELECT 1 {_WAITING} IS NULL UNION ALL SELECT 1 {_WAITING} IS NOT NULL LIMIT 1"
_TRIAL = f"PRAGMA user_version = {VERSION}"  # writes a page, though nothing is changed
_NONE_AT_ONCE: Mapping[str, list[Record]] = {}


class SqliteStore:
    """Keeps tasks in a file. Implements `taskd.store.base.Store`.

    Raises `StoreError` if the file cannot be used: it belongs to another daemon
    or another program, is damaged, newer, or not writable.
    """

    is_lasting = True
    nodes = None
    room = inf

    def __init__(self, path: str) -> None:
        self.path = path
        self.copy: str | None = None
        """The copy of an older file that was made before it was brought to this version."""
        self._lock = _lock(path)
        try:
            self._database = self._open()
        except BaseException:
            os.close(self._lock)
            raise
        self._identity = _identity(path)
        self._readers = Lock()
        self._reader: sqlite3.Connection | None = None
        self.batches = SqliteBatches(self._transaction, self._read, _submit, _cancel)
        self.copies = SqliteCopies(self._transaction, self._read)
        self.sealed = SqliteSealed(self._transaction)
        self.history = SqliteHistory(self._transaction, self._read)
        self.audit = SqliteAudit(self._transaction, self._read)

    def _open(self) -> sqlite3.Connection:
        with self._errors("opened"):
            database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            with self._errors("opened"):
                version_of(database, self.path)
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = FULL")
                database.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
                self.copy = bring_up_to_date(database, self.path)
                # Shows at the start, and not with the first task, whether the file can be written.
                database.execute("BEGIN IMMEDIATE")
                database.execute(_TRIAL)
                database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} cannot be {what}: {explained(error)}") from error

    @contextmanager
    def _transaction(self) -> Iterator[LoggingCursor]:
        database = self._database
        if _identity(self.path) != self._identity:
            raise StoreError(
                f"{self.path} was removed or replaced while in use, and what is written now would be lost: "
                "put back a copy, and start the daemon again"
            )
        with self._errors("written"):
            database.execute("BEGIN IMMEDIATE")
            try:
                cursor = database.cursor(LoggingCursor)
                yield cursor
                cursor.flush()
                database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # some errors have rolled it back already
                    database.execute("ROLLBACK")
                raise

    # --- one transaction each ---

    def write(self, batch: Changes, now: float) -> Written:
        """Write a batch. Raises `StoreError`."""
        claims: list[Record] = []
        with self._transaction() as cursor:
            if batch.is_trial:
                cursor.execute(_TRIAL)
            at_once = _claimed_at_once(cursor, batch)
            if batch.shift is not None:
                _shift(cursor, batch.shift)
                shift_batches(cursor, batch.shift.seconds)
            accepted = [
                _accept(cursor, new, now, at_once, batch.allowances.get(new.id)) for new in batch.submits
            ]
            ticked = [_tick(cursor, tick, now) for tick in batch.ticks]
            own = write_attempts(cursor, batch, now)
            cancelled = [_by_hand(cursor, task, State.CANCELLED, "cancelled", now) for task in batch.cancels]
            put_back = [_by_hand(cursor, task, State.WAITING, "queued", now) for task in batch.put_backs]
            released = [(task,) for task in batch.releases]
            cursor.executemany("UPDATE task SET claimed = 0 WHERE id = ? AND state = 1", released)
            changed = close_batches(cursor, now, _submit)
            for function, want in batch.want.items():
                if function in at_once:
                    claims += sorted(at_once[function], key=Record.turn_of_any)
                elif isinstance(want, int):
                    claims += claim_any(cursor, function, want, COLUMNS, record_of)
                else:
                    claims += claim_by_key(cursor, function, want, COLUMNS, record_of)
        return Written(accepted, own, cancelled, put_back, claims, cursor.logged, changed, ticked)

    def rescue(self, now: float, once: Collection[str] = (), error: bytes | None = None) -> int:
        """Make running tasks wait again, or fail if they are to run once. Raises `StoreError`."""
        with self._transaction() as cursor:
            cursor.execute("UPDATE task SET claimed = 0 WHERE state = 1 AND claimed = 1")
            query = "SELECT id, function, attempt, last_seq FROM task WHERE state = 2"
            running = cursor.execute(query).fetchall()
            for task, function, attempt, last in running:
                seq = max(last + 1, last_seq(attempt))
                fails = function in once
                cursor.execute(
                    "UPDATE task SET state = ?, claimed = 0, losses = losses + 1, due = ?, last_seq = ?, "
                    "ended = ?, outcome = ? WHERE id = ?",
                    (
                        *(int(State.FAILED if fails else State.WAITING), now, seq),
                        *((now, error) if fails else (None, None)),
                        task,
                    ),
                )
                data = b'{"error":%b}' % (error or b"null") if fails else b"{}"
                cursor.log(task, seq, "failed" if fails else "lost", now, data)
        return len(running)

    def promote(self, now: float, limit: int) -> float | None:
        """Let scheduled tasks that are due wait. Raises `StoreError`."""
        with self._transaction() as cursor:
            cursor.execute(
                "UPDATE task SET state = 1 WHERE id IN "
                "(SELECT id FROM task WHERE state = 0 AND due <= ? ORDER BY due, id LIMIT ?)",
                (now, limit),
            )
            row = cursor.execute("SELECT due FROM task WHERE state = 0 ORDER BY due, id LIMIT 1").fetchone()
        return None if row is None else float(row[0])

    def prune(self, now: float, limit: int) -> int:
        """Forget ended tasks. Raises `StoreError`."""
        with self._transaction() as cursor:
            over = cursor.execute(
                "SELECT id FROM task WHERE ended IS NOT NULL AND ended + keep <= ? LIMIT ?", (now, limit)
            ).fetchall()
            cursor.executemany("DELETE FROM event WHERE task = ?", over)
            cursor.executemany("DELETE FROM task WHERE id = ?", over)
            batches = prune_batches(cursor, now, limit - len(over))
        return len(over) + batches

    def pause(self, function: str, *, paused: bool) -> bool:
        """Note that a function is paused, or is not any more. Raises `StoreError`."""
        with self._transaction() as cursor:
            was = cursor.execute("SELECT 1 FROM paused WHERE function = ?", (function,)).fetchone()
            if paused and not was:
                cursor.execute("INSERT INTO paused VALUES (?)", (function,))
            elif was and not paused:
                cursor.execute("DELETE FROM paused WHERE function = ?", (function,))
        return bool(was)

    # --- reading, from any thread ---

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self._readers, self._errors("read"):
            if self._lock < 0:
                raise StoreError(f"{self.path} is closed: the daemon stops")
            if self._reader is None:
                self._reader = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
                self._reader.execute("PRAGMA query_only = 1")
            return self._reader.execute(query, values).fetchall()

    def paused(self) -> list[str]:
        """Return the functions that are paused. Raises `StoreError`."""
        return [function for (function,) in self._read("SELECT function FROM paused ORDER BY function")]

    def get(self, id: str) -> Record | None:  # noqa: A002
        """Return a task. Raises `StoreError`."""
        rows = self._read(f"SELECT {COLUMNS} FROM task WHERE id = ?", id)
        return record_of(rows[0]) if rows else None

    def find(self, wanted: Filter, after: str, limit: int) -> list[Record]:
        """Return tasks in the order of their ids. Raises `StoreError`."""
        query = f"SELECT {BRIEF if wanted.is_brief else COLUMNS} FROM task WHERE id"
        query += " < ?" if wanted.newest else " > ?"
        values: list[str | int | bytes] = [after or LAST if wanted.newest else after]
        if wanted.states is not None:
            query += f" AND state IN ({', '.join(str(int(state)) for state in wanted.states)})"
        for name in ("function", "batch", "key"):
            value = getattr(wanted, name)
            if name == "batch" and value == "":
                query += " AND batch IS NULL"
            elif value is not None:
                query += f" AND {name} = ?"
                values.append(value)
        if wanted.error is not None:
            query += " AND state > 3 AND instr(outcome, ?)"
            values.append(wanted.error)
        for condition, found in (owned_by(wanted.owner), id_like(wanted.like)):
            query += condition
            values += found
        order = "id DESC" if wanted.newest else "id"
        rows = self._read(f"{query} ORDER BY {order} LIMIT ?", *values, limit)
        return [record_of(row) for row in rows]

    def events(self, task: str, after: int, limit: int) -> list[Event]:
        """Return events of a task. Raises `StoreError`."""
        rows = self._read(
            "SELECT task, seq, event, at, data FROM event WHERE task = ? AND seq > ? ORDER BY seq LIMIT ?",
            task,
            after,
            limit,
        )
        return [Event(*row) for row in rows]

    def overdue(self, now: float, limit: int) -> Overdue:
        """Return tasks whose deadlines have passed. Raises `StoreError`."""
        unstarted = "deadline IS NOT NULL AND state <= 1 AND attempt = 0 AND deadline"
        rows = self._read(
            f"SELECT id FROM task WHERE {unstarted} <= ? AND state = 1 AND claimed = 0 "
            "ORDER BY deadline, id LIMIT ?",
            now,
            limit,
        )
        later = self._read(f"SELECT min(deadline) FROM task WHERE {unstarted} > ?", now)
        return Overdue([row[0] for row in rows], later[0][0])

    def has_owners(self) -> bool:
        """Return whether any task has an owner. Raises `StoreError`."""
        return bool(self._read("SELECT 1 FROM task WHERE owner <> '' LIMIT 1"))

    def last_ticks(self) -> dict[str, LastTick]:
        """Return the last tick of each schedule. Raises `StoreError`."""
        return {name: LastTick(line, at) for name, line, at in self._read("SELECT * FROM schedule")}

    def counts(self) -> dict[tuple[str, State], int]:
        """Return how many tasks there are. Raises `StoreError`."""
        rows = self._read("SELECT function, state, count(*) FROM task GROUP BY function, state")
        return {(function, State(state)): count for function, state, count in rows}

    def queued(self, limit: int) -> list[Queued]:
        """Return how many unfinished tasks there are. Raises `StoreError`."""
        return count_queued(self._read, limit)

    def close(self) -> None:
        """Close the file, and let others use it."""
        with self._readers:
            if self._lock >= 0:
                if self._reader is not None:
                    self._reader.close()
                self._database.close()
                os.close(self._lock)
                self._lock = -1


# --- single statements --------------------------------------------------------


def _claimed_at_once(cursor: LoggingCursor, batch: Changes) -> dict[str, list[Record]]:
    """Return a list for each function whose new tasks may all be claimed as they come: nothing else waits.

    These need no place in the index of waiting tasks, and no query.
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
    return {
        function: []
        for function, count in batch.want.items()
        if isinstance(count, int)
        and 0 < counts[function] <= count
        and not cursor.execute(_BACKLOG, (function,)).fetchone()
    }


def _accept(
    cursor: LoggingCursor,
    new: New,
    now: float,
    at_once: Mapping[str, list[Record]],
    allowance: Allowance | None,
) -> Accepted | Full:
    if allowance is not None and _joined(cursor, new) is None:
        full = refusal(cursor, new.owner, allowance, 1, len(new.args or b""))
        if full is not None:
            return full
    return _submit(cursor, new, now, at_once)


def _submit(
    cursor: LoggingCursor, new: New, now: float, at_once: Mapping[str, list[Record]] = _NONE_AT_ONCE
) -> Accepted:
    known = _joined(cursor, new)
    if known is not None:
        return Accepted(known, joined=True)
    state = State.SCHEDULED if new.due > now else State.WAITING
    is_claimed = state is State.WAITING and new.function in at_once
    record = Record(new, state, now, due=max(new.due, now), last_seq=1)
    cursor.execute(
        f"INSERT INTO task ({COLUMNS}, claimed) "
        "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,0,0,0,?,NULL,NULL,1,?)",
        (
            *(new.id, new.function, new.args, new.options, new.priority, new.due, new.deadline),
            *(new.key, new.token, new.batch, new.keep, new.is_fixed, new.limit_key, new.owner),
            *(int(state), now, record.due, is_claimed),
        ),
    )
    if new.owner:
        note_waiting(cursor, new.owner, 1, len(new.args or b""))
    if is_claimed:
        at_once[new.function].append(record)
    cursor.log(new.id, 1, "queued", now, b"{}")
    return Accepted(new.id)


def _tick(cursor: LoggingCursor, tick: Tick, now: float) -> Accepted | None:
    changed = cursor.execute(
        "INSERT INTO schedule VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET line = ?2, last = ?3 "
        "WHERE line != ?2 OR last < ?3",
        (tick.name, tick.line, tick.at),
    ).rowcount
    return None if not changed or tick.new is None else _submit(cursor, tick.new, now, {})


def _shift(cursor: LoggingCursor, shift: Shift) -> None:
    cursor.execute(
        "UPDATE task SET due = due + ?1, wanted = iif(wanted, wanted + ?1, 0), deadline = deadline + ?1 "
        "WHERE state <= 1 AND fixed = 0",
        (shift.seconds,),
    )
    names = [(shift.seconds, name) for name in shift.names]
    cursor.executemany("UPDATE schedule SET last = last + ? WHERE name = ?", names)


def _joined(cursor: LoggingCursor, new: New) -> str | None:
    if new.token is not None:
        row = cursor.execute(
            "SELECT id FROM task WHERE token = ? AND owner = ?", (new.token, new.owner)
        ).fetchone()
        if row is not None:
            return str(row[0])
    if new.key is not None:
        row = cursor.execute(
            "SELECT id FROM task WHERE function = ? AND key = ? AND owner = ? AND state <= 2",
            (new.function, new.key, new.owner),
        ).fetchone()
        if row is not None:
            return str(row[0])
    return None


def _by_hand(cursor: LoggingCursor, task: str, to: State, event: str, now: float) -> State | None:
    """Cancel a task or put it back, if its state permits that; return the state that it was in."""
    row = cursor.execute(f"SELECT {COLUMNS} FROM task WHERE id = ?", (task,)).fetchone()
    if row is None:
        return None
    record = record_of(row)
    if record.takes_by_hand(to) and (to is State.CANCELLED or _joined(cursor, record.new_key()) is None):
        changes = _BY_HAND[to]
        cursor.execute(
            f"UPDATE task SET claimed = 0, state = ?, {changes}, outcome = NULL, last_seq = last_seq + 1 "
            "WHERE id = ?",
            (int(to), now, task),
        )
        cursor.log(task, record.last_seq + 1, event, now, b"{}")
    return record.state


def _cancel(cursor: LoggingCursor, task: str, now: float) -> Event:
    """Cancel a task that waits or is scheduled; return the event."""
    _by_hand(cursor, task, State.CANCELLED, "cancelled", now)
    return cursor.logged[-1]


# --- the file -----------------------------------------------------------------


def _lock(path: str) -> int:
    """Return a descriptor whose lock shows other daemons that the file is in use."""
    lock = f"{path}.lock"
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {lock}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = Path(lock).read_text().strip() or "unknown"
        os.close(descriptor)
        raise StoreError(
            f"{path} is used by another daemon, with pid {owner}: stop that one, or name another file"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from another in its place, None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
