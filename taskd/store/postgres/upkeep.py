"""Regular work on the PostgreSQL store: due tasks wait, ended ones are forgotten, times are moved."""

from __future__ import annotations

from taskd.store.postgres.literals import from_text, texts
from taskd.store.postgres.starts import forget_starts
from taskd.store.postgres.transaction import Transaction
from taskd.store.records import Shift

__all__ = ["promote", "prune", "shift"]

_PROMOTE = """
WITH due AS MATERIALIZED (
    SELECT id FROM taskd.later WHERE due <= $1::float8 ORDER BY due, id LIMIT $2::int FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM taskd.later AS l USING due WHERE l.id = due.id RETURNING l.*
), waiting AS (
    INSERT INTO taskd.ready SELECT * FROM gone
)
SELECT DISTINCT function FROM gone
"""
_NEXT = "SELECT due FROM taskd.later ORDER BY due, id LIMIT 1"

_PRUNE = """
WITH over AS MATERIALIZED (
    SELECT id FROM taskd.ended WHERE keep_until <= $1::float8 LIMIT $2::int FOR UPDATE SKIP LOCKED
), ended AS (
    DELETE FROM taskd.ended AS e USING over WHERE e.id = over.id RETURNING e.id
), logs AS (
    DELETE FROM taskd.event AS e USING over WHERE e.task = over.id
), bodies AS (
    DELETE FROM taskd.task AS t USING over WHERE t.id = over.id RETURNING t.owner, t.token
), tokens AS (
    DELETE FROM taskd.uniq AS u USING (SELECT owner, token FROM bodies WHERE token IS NOT NULL) AS b
    WHERE u.kind = 't' AND u.owner = b.owner AND u.function = '' AND u.value = b.token
)
SELECT count(*) FROM ended
"""
_PRUNE_BATCHES = """
WITH over AS MATERIALIZED (
    SELECT id FROM taskd.batch WHERE ended IS NOT NULL AND ended + keep <= $1::float8
    LIMIT $2::int FOR UPDATE SKIP LOCKED
), parts AS (
    DELETE FROM taskd.batch_part AS p USING over WHERE p.batch = over.id
), bodies AS (
    DELETE FROM taskd.batch AS b USING over WHERE b.id = over.id RETURNING b.id, b.owner, b.token
), tokens AS (
    DELETE FROM taskd.uniq AS u USING (SELECT owner, token FROM bodies WHERE token IS NOT NULL) AS b
    WHERE u.kind = 'b' AND u.owner = b.owner AND u.function = '' AND u.value = b.token
)
SELECT count(*) FROM bodies
"""

_SHIFT = """
UPDATE taskd.{table} AS l SET due = l.due + $1::float8, deadline = l.deadline + $1::float8
FROM taskd.task AS t WHERE t.id = l.id AND NOT t.fixed{condition}
"""
_SHIFT_BODIES = """
UPDATE taskd.task AS t SET wanted = CASE WHEN wanted = 0 THEN 0 ELSE wanted + $1::float8 END,
    deadline = deadline + $1::float8
WHERE NOT fixed AND id IN (
    SELECT id FROM taskd.later UNION ALL SELECT id FROM taskd.ready
    UNION ALL SELECT id FROM taskd.lease WHERE NOT started
)
"""
_SHIFT_TICK = "UPDATE taskd.schedule SET last = last + $1::float8 WHERE name = ANY($2::text[])"


def promote(transaction: Transaction, now: float, limit: int) -> float | None:
    """Let up to `limit` scheduled tasks that are due wait; return when the next one is due."""
    promoted = transaction.execute(_PROMOTE, now, limit)
    rows = transaction.rows(_NEXT)
    transaction.wakes.functions.update(from_text(function) or "" for (function,) in promoted.fetchall())
    return rows[0][0] if rows else None


def prune(transaction: Transaction, now: float, limit: int) -> int:
    """Forget ended tasks and batches that have been kept long enough; return how many."""
    forget_starts(transaction)
    [[tasks]] = transaction.rows(_PRUNE, now, limit)
    if tasks >= limit:
        return int(tasks)
    [[batches]] = transaction.rows(_PRUNE_BATCHES, now, limit - tasks)
    return int(tasks + batches)


def shift(transaction: Transaction, moved: Shift) -> None:
    """Move the times of unfinished tasks, since the clock was set."""
    for table, condition in (("later", ""), ("ready", ""), ("lease", " AND NOT l.started")):
        transaction.execute(_SHIFT.format(table=table, condition=condition), moved.seconds)
    transaction.execute(_SHIFT_BODIES, moved.seconds)
    transaction.execute(_SHIFT_TICK, moved.seconds, texts(sorted(moved.names)))
