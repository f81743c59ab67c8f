"""Cancels, puts back and gives back tasks in the PostgreSQL store, since somebody asked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from taskd.store.postgres.ending import ENDED_AFTER
from taskd.store.postgres.literals import texts
from taskd.store.postgres.transaction import Transaction
from taskd.store.records import Event, State

__all__ = ["ask_nodes", "cancel", "cancel_asked", "cancel_unclaimed", "put_back", "release"]

_UNFINISHED = """
SELECT id, {state}, last_seq, {claimed} FROM taskd.{table} WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE
"""
_ENDED = "SELECT id, state, last_seq FROM taskd.ended WHERE id = $1::text FOR UPDATE"
_TABLES = {
    "later": ("0", "NULL::int, false"),
    "ready": ("1", "NULL::int, false"),
    "lease": ("CASE WHEN started THEN 2 ELSE 1 END", "node, started"),
}
_CANCEL = {
    table: f"""
WITH gone AS (
    DELETE FROM taskd.{table} WHERE id = ANY($1::text[])
    RETURNING id, function, owner, batch, 5 AS state, attempt, errors, losses, due, NULL::bytea AS outcome,
        last_seq + 1 AS last_seq, keep, keyed, NULL::float8 AS started, NULL::bigint AS start_seq,
        'cancelled'::text AS event, '\\x7b7d'::bytea AS data
), {ENDED_AFTER.format(now="$2")}
SELECT id, last_seq FROM gone
"""
    for table in _TABLES
}
_ASK = "UPDATE taskd.lease SET cancelled = true WHERE id = $1::text AND NOT cancelled"
_ASK_ALL = """
UPDATE taskd.lease SET cancelled = true
WHERE id IN (
    SELECT id FROM taskd.lease
    WHERE id = ANY($1::text[]) AND node <> $2::int AND NOT cancelled ORDER BY id FOR UPDATE
)
"""

_UNFOLD = """
INSERT INTO taskd.event
SELECT id, start_seq, 'started', started, convert_to('{"attempt":' || attempt || '}', 'UTF8')
    FROM taskd.ended WHERE id = $1::text AND start_seq IS NOT NULL
UNION ALL SELECT id, last_seq, event, ended, data FROM taskd.ended WHERE id = $1::text
"""
"""Gives the events that an ended task has in its row rows of their own, since others follow."""

_CANCEL_ENDED = """
WITH gone AS (
    UPDATE taskd.ended AS e SET state = 5, ended = $2::float8, keep_until = $2::float8 + t.keep,
        outcome = NULL, last_seq = last_seq + 1, event = 'cancelled', data = '\\x7b7d',
        started = NULL, start_seq = NULL
    FROM taskd.task AS t WHERE e.id = $1::text AND t.id = e.id
    RETURNING e.batch
)
UPDATE taskd.batch SET changed = true, failed = failed - 1, cancelled = cancelled + 1
FROM gone WHERE id = gone.batch
"""
_HOLD_KEY = """
INSERT INTO taskd.uniq
SELECT 'k', owner, function, key, id FROM taskd.task WHERE id = $1::text AND key IS NOT NULL
ON CONFLICT DO NOTHING RETURNING 1
"""
_HAS_KEY = "SELECT key IS NOT NULL FROM taskd.task WHERE id = $1::text"
_PUT_BACK = """
WITH gone AS (
    DELETE FROM taskd.ended WHERE id = $1::text RETURNING id, batch, attempt, last_seq
), waiting AS (
    INSERT INTO taskd.ready
    SELECT t.id, t.function, t.limit_key, t.priority, $2::float8, NULL, t.owner, t.batch,
        coalesce(length(t.args), 0), g.attempt, 0, 0, g.last_seq + 1, t.keep, t.key IS NOT NULL
    FROM gone AS g JOIN taskd.task AS t ON t.id = g.id
)
UPDATE taskd.batch AS b SET changed = true, failed = failed - 1 FROM gone WHERE b.id = gone.batch
"""

_RELEASE = """
WITH gone AS (
    DELETE FROM taskd.lease WHERE id = ANY($1::text[]) AND node = $2::int AND NOT started
    RETURNING id, function, limit_key, priority, due, deadline, owner, batch, size, attempt, errors, losses,
        last_seq, keep, keyed, cancelled
), waiting AS (
    INSERT INTO taskd.ready
    SELECT id, function, limit_key, priority, due, deadline, owner, batch, size, attempt, errors, losses,
        last_seq, keep, keyed FROM gone
)
SELECT id FROM gone WHERE cancelled
"""


class _Found:
    """One unfinished task: where it is, and what has to be known of it."""

    __slots__ = ("is_started", "last_seq", "node", "state", "table")

    def __init__(self, table: str, state: int, last_seq: int, node: int | None, *, is_started: bool) -> None:
        self.table = table
        self.state = State(state)
        self.last_seq = last_seq
        self.node = node
        self.is_started = is_started


def _find(transaction: Transaction, tasks: Collection[str]) -> dict[str, _Found]:
    """Return the unfinished ones of these tasks, which stay as they are until the transaction ends.

    A task that another node moves meanwhile from one table to another is looked for again.
    """
    found: dict[str, _Found] = {}
    for _ in range(2):
        ids = texts(sorted(tasks))
        cursors = [
            (table, transaction.execute(_UNFINISHED.format(table=table, state=state, claimed=claimed), ids))
            for table, (state, claimed) in _TABLES.items()
        ]
        for table, cursor in cursors:
            for task, state, last_seq, node, started in cursor.fetchall():
                found[task] = _Found(table, state, last_seq, node, is_started=started)
        tasks = [task for task in tasks if task not in found]
        if not tasks:
            break
    return found


def cancel(transaction: Transaction, task: str, now: float) -> State | None:
    """Cancel a task that does not run; return the state that it was in, None if it does not exist.

    The node that has claimed it is asked to, if that is another one: it may be running there by now.
    """
    found = _find(transaction, [task]).get(task)
    if found is not None:
        if found.node not in (None, transaction.node):
            transaction.execute(_ASK, task)
            return State.RUNNING
        if not found.is_started:
            _cancel_in(transaction, found.table, [task], now)
        return found.state
    ended = _ended(transaction, task)
    if ended is None:
        return None
    state, last_seq = ended
    if state is State.SET_ASIDE:
        transaction.execute(_UNFOLD, task)
        transaction.execute(_CANCEL_ENDED, task, now)
        transaction.logged.append(Event(task, last_seq + 1, "cancelled", now))
    return state


def cancel_asked(transaction: Transaction, tasks: Sequence[str], now: float) -> None:
    """Cancel tasks that wait again or are scheduled, as another node was asked to."""
    for task in tasks:
        cancel(transaction, task, now)


def ask_nodes(transaction: Transaction, tasks: Sequence[str]) -> None:
    """Have those of these tasks cancelled that other nodes have claimed."""
    if tasks:
        transaction.execute(_ASK_ALL, texts(tasks), transaction.node)


def cancel_unclaimed(transaction: Transaction, tasks: Collection[str], now: float) -> list[Event]:
    """Cancel those of these tasks that wait or are scheduled, and that nobody has claimed."""
    count = len(transaction.logged)
    found = _find(transaction, tasks)
    for table in ("later", "ready"):
        _cancel_in(transaction, table, sorted(task for task in found if found[task].table == table), now)
    return sorted(transaction.logged[count:], key=lambda event: event.task)


def _cancel_in(transaction: Transaction, table: str, tasks: Sequence[str], now: float) -> None:
    if tasks:
        rows = transaction.rows(_CANCEL[table], texts(tasks), now)
        transaction.logged += [Event(task, seq, "cancelled", now) for task, seq in rows]


def put_back(transaction: Transaction, task: str, now: float) -> State | None:
    """Let a task that failed or was set aside wait again; return the state that it was in, or None."""
    ended = _ended(transaction, task)
    if ended is None:
        found = _find(transaction, [task]).get(task)
        return None if found is None else found.state
    state, last_seq = ended
    if state in (State.FAILED, State.SET_ASIDE):
        [[has_key]] = transaction.rows(_HAS_KEY, task)
        if not has_key or transaction.rows(_HOLD_KEY, task):
            transaction.execute(_UNFOLD, task)
            transaction.execute(_PUT_BACK, task, now)
            transaction.log([Event(task, last_seq + 1, "queued", now)])
    return state


def _ended(transaction: Transaction, task: str) -> tuple[State, int] | None:
    rows: list[Any] = transaction.rows(_ENDED, task)
    return (State(rows[0][1]), rows[0][2]) if rows else None


def release(transaction: Transaction, tasks: Sequence[str], now: float) -> None:
    """Let others claim tasks that this node has claimed and will not start."""
    if tasks:
        rows = transaction.rows(_RELEASE, texts(sorted(set(tasks))), transaction.node)
        cancel_asked(transaction, [task for (task,) in rows], now)
