"""The end of tasks in the PostgreSQL store: what follows, whatever ends them."""

from __future__ import annotations

__all__ = ["ENDED_AFTER"]

ENDED_AFTER = """kept AS (
    INSERT INTO taskd.ended
    SELECT id, function, owner, batch, state, attempt, errors, losses, due, {now}::float8, outcome, last_seq,
        {now}::float8 + keep, started, start_seq, event, data
    FROM gone
), freed AS (
    DELETE FROM taskd.uniq AS u USING (
        SELECT t.owner, t.function, t.key FROM gone JOIN taskd.task AS t ON t.id = gone.id WHERE gone.keyed
    ) AS k WHERE u.kind = 'k' AND u.owner = k.owner AND u.function = k.function AND u.value = k.key
), counted AS (
    UPDATE taskd.batch AS b SET changed = true,
        done = b.done + c.done, failed = b.failed + c.failed, cancelled = b.cancelled + c.cancelled
    FROM (
        SELECT batch,
            count(*) FILTER (WHERE state = 3) AS done,
            count(*) FILTER (WHERE state IN (4, 6, 7)) AS failed,
            count(*) FILTER (WHERE state = 5) AS cancelled
        FROM gone WHERE batch IS NOT NULL GROUP BY batch ORDER BY batch
    ) AS c WHERE b.id = c.batch
)"""
"""Statements of a WITH, after `gone`, which are the rows of unfinished tasks as they are when they have ended.
The key of a task becomes free, and its batch counts it."""
