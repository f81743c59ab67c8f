"""The starts of functions that have a rate, noted in the PostgreSQL store as long as the rate counts them.

Each node has rows of its own, so that notes never wait for each other. A start counts from the end of
the thousandth of the rate's time in which it is noted: so there are no more than a thousand rows for each
node and key, and none counts too early. The clock is that of the database.
"""

from __future__ import annotations

from taskd.store.postgres.literals import numbers
from taskd.store.postgres.transaction import Transaction

__all__ = ["NOTED", "forget_starts", "note_unknown"]

SLOTS = 1000

_NOTE = f"""
    INSERT INTO taskd.started AS s (function, place, at, node, count, until)
    SELECT function, place, at, node, count(*), at + period FROM (
        SELECT function, place, node, period,
            ceil(extract(epoch FROM clock_timestamp())::float8 * {SLOTS} / period) * period / {SLOTS} AS at
        FROM {{source}}
    ) AS each GROUP BY function, place, at, node, period
    ON CONFLICT (function, place, at, node) DO UPDATE SET count = s.count + excluded.count
"""
NOTED = _NOTE.format(source="{begun} WHERE period IS NOT NULL")
"""Notes the starts in a common table expression, which has the columns of `lease`."""

_UNKNOWN = _NOTE.format(
    source="taskd.lease WHERE node = ANY($1::int[]) AND NOT started AND period IS NOT NULL"
)
_FORGET = """
WITH over AS MATERIALIZED (
    SELECT function, place, at, node FROM taskd.started WHERE until <= extract(epoch FROM clock_timestamp())
    ORDER BY until LIMIT $1::int FOR UPDATE SKIP LOCKED
)
DELETE FROM taskd.started AS s USING over AS o
WHERE s.function = o.function AND s.place = o.place AND s.at = o.at AND s.node = o.node
"""

FORGOTTEN = 10_000
"""Rows that are forgotten in one transaction."""


def note_unknown(transaction: Transaction, nodes: list[int]) -> None:
    """Note the claimed tasks of dead nodes as started now: they may have been, and nobody knows."""
    transaction.execute(_UNKNOWN, numbers(nodes))


def forget_starts(transaction: Transaction) -> None:
    """Forget the starts that no rate counts any more."""
    transaction.execute(_FORGET, FORGOTTEN)
