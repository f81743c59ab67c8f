"""Claims in the PostgreSQL store, also by limit key: a key with a million waiting tasks costs as much as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from taskd.store.base import CLAIM_BYTES, KeyedWant, Want
from taskd.store.postgres.literals import numbers, texts, to_text
from taskd.store.postgres.rows import NEW_COLUMNS, record_of
from taskd.store.postgres.transaction import Transaction
from taskd.store.records import Record

__all__ = ["claim", "has_waiting"]

_FIELDS = "id, limit_key, priority, due, size"
_UNKEYED = f"""
    SELECT {_FIELDS} FROM taskd.ready WHERE function = $1::text AND limit_key IS NULL
    ORDER BY priority, due, id"""
_LOCKED = "FOR UPDATE SKIP LOCKED"

_TAKE = f"""
, numbered AS (
    SELECT id, sum(size) OVER (ORDER BY place, turn, limit_key, priority, due, id) - size AS before FROM picked
), gone AS (
    DELETE FROM taskd.ready AS r USING numbered AS n
    WHERE r.id = n.id AND n.before < {CLAIM_BYTES}
        AND EXISTS (SELECT FROM taskd.node WHERE id = $2::int AND gone IS NULL)
    RETURNING r.*
), taken AS (
    INSERT INTO taskd.lease SELECT gone.*, $2::int, $3::bigint FROM gone
)
SELECT {NEW_COLUMNS}, 1, t.created, g.attempt, g.errors, g.losses, g.due, NULL, NULL, g.last_seq
FROM gone AS g JOIN taskd.task AS t ON t.id = g.id
"""

_CLAIM_ANY = f"""
WITH unkeyed AS MATERIALIZED ({_UNKEYED} LIMIT $4::int {_LOCKED}),
keyed AS MATERIALIZED (
    SELECT {_FIELDS} FROM taskd.ready WHERE function = $1::text AND limit_key IS NOT NULL
    ORDER BY limit_key, priority, due, id LIMIT $4::int - (SELECT count(*) FROM unkeyed) {_LOCKED}
), picked AS MATERIALIZED (
    SELECT 0 AS place, 0 AS turn, * FROM unkeyed UNION ALL SELECT 1, 0, * FROM keyed
)
{_TAKE}
"""

_OF_KEY = f"""
    SELECT {_FIELDS} FROM taskd.ready AS r WHERE function = $1::text AND limit_key = k.key
    ORDER BY priority, due, id LIMIT k.room {_LOCKED}"""
_LAST = f"""
unkeyed AS MATERIALIZED ({_UNKEYED} LIMIT least($5::int, $4::int - (SELECT count(*) FROM keyed)) {_LOCKED}),
picked AS MATERIALIZED (
    SELECT 0 AS place, * FROM keyed UNION ALL SELECT 1, 0, * FROM unkeyed
)
"""

_CLAIM_OF_KEYS = f"""
WITH keyed AS MATERIALIZED (
    SELECT k.turn::int AS turn, each.*
    FROM unnest($6::text[], $7::int[]) WITH ORDINALITY AS k(key, room, turn)
    CROSS JOIN LATERAL ({_OF_KEY}) AS each
    LIMIT $4::int
), {_LAST}
{_TAKE}
"""

_NEXT_KEY = """
    SELECT limit_key FROM taskd.ready WHERE function = $1::text AND limit_key {} ORDER BY limit_key LIMIT 1"""
_CLAIM_OF_EACH = f"""
WITH RECURSIVE keys AS (
    SELECT 0 AS turn, ({_NEXT_KEY.format("> $6::text")}) AS key
    UNION ALL
    SELECT n.turn, n.key FROM keys AS k CROSS JOIN LATERAL (
        SELECT CASE WHEN k.key IS NULL THEN 1 ELSE k.turn END AS turn,
            CASE WHEN k.key IS NULL THEN ({_NEXT_KEY.format(">= ''")})
                ELSE ({_NEXT_KEY.format("> k.key")}) END AS key
    ) AS n
    WHERE NOT (n.turn = 1 AND n.key > $6::text)
), keyed AS MATERIALIZED (
    SELECT k.turn, each.* FROM (
        SELECT turn, key, greatest($7::int - coalesce(($8::jsonb ->> key)::int, 0), 0) AS room
        FROM keys WHERE key IS NOT NULL
    ) AS k CROSS JOIN LATERAL ({_OF_KEY}) AS each
    LIMIT $4::int
), {_LAST}
{_TAKE}
"""
"""The keys come from the index one by one, from the one after $6 on and round: turn 0, then turn 1."""

_BACKLOG = """
SELECT EXISTS (SELECT FROM taskd.ready WHERE function = $1::text AND limit_key IS NULL)
    OR EXISTS (SELECT FROM taskd.ready WHERE function = $1::text AND limit_key IS NOT NULL)
    OR NOT EXISTS (SELECT FROM taskd.node WHERE id = $2::int AND gone IS NULL)
"""


def claim(transaction: Transaction, function: str, want: Want) -> Callable[[], list[Record]]:
    """Claim waiting tasks of a function; return what returns them, in the order in which they are claimed."""
    if isinstance(want, KeyedWant):
        return _claim_by_key(transaction, function, want)
    cursor = transaction.execute(_CLAIM_ANY, function, transaction.node, transaction.turn, max(want, 0))
    return lambda: sorted(map(record_of, cursor.fetchall()), key=Record.turn_of_any)


def _claim_by_key(transaction: Transaction, function: str, want: KeyedWant) -> Callable[[], list[Record]]:
    unkeyed = max(want.room(None), 0) if want.with_unkeyed else 0
    values: list[Any] = [function, transaction.node, transaction.turn, max(want.count, 0), unkeyed]
    if want.keys is not None:
        keys = [key for key, room in want.keys.items() if room > 0]
        rooms = [want.keys[key] for key in keys]
        cursor = transaction.execute(_CLAIM_OF_KEYS, *values, texts(keys), numbers(rooms))
        places = {key: place for place, key in enumerate(keys)}

        def place_of(key: str) -> tuple[int, str]:
            return places[key], key
    else:
        claimed = {to_text(key): count for key, count in want.claimed.items() if key is not None and count > 0}
        text = msgspec.json.encode(claimed).decode()
        cursor = transaction.execute(_CLAIM_OF_EACH, *values, want.after, want.each, text)

        def place_of(key: str) -> tuple[int, str]:
            return int(key <= want.after), key

    def turn(record: Record) -> Any:
        key = record.new.limit_key
        return key is None, (0, "") if key is None else place_of(key), record.turn()

    return lambda: sorted(map(record_of, cursor.fetchall()), key=turn)


def has_waiting(transaction: Transaction, function: str) -> Callable[[], bool]:
    """Return what returns whether any unclaimed task of a function waits, or the node may claim nothing."""
    cursor = transaction.execute(_BACKLOG, function, transaction.node)
    return lambda: bool(cursor.fetchall()[0][0])
