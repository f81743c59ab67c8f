"""Claims of functions with limits in the PostgreSQL store: no more than all nodes together may have.

What is counted is what is there, so that no counter can be left behind: the leases of all nodes, claimed
or running, and for a rate also the starts that still count, which are noted when they are stored. A task
that is claimed and has not started counts for the rate as if it started now, since it may do so at any
time. So any time has no more starts than the rate permits, however long a worker keeps a task waiting.

Only one node at a time claims tasks of such a function: it holds an advisory lock until the end of its
transaction, and counts after it has that. The others do not wait for it, since they have other things to
write, but are advised to ask again. Ends and starts need no lock: a count that does not see one yet is
too high, never too low.

Why no bucket of tokens: its one row for each key would have to be given back what nodes that die have
taken and not used, and it lets twice the rate start in one period.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from taskd.store.base import CLAIM_BYTES, KeyedWant, Limit, Want
from taskd.store.postgres.literals import numbers, texts
from taskd.store.postgres.rows import NEW_COLUMNS, record_of
from taskd.store.postgres.transaction import Transaction
from taskd.store.records import Record

__all__ = ["LOCKED_SECONDS", "claim_limited", "lock_key"]

LOCKED_SECONDS = 0.005
"""Seconds after which a function that another node claims just now is worth asking for again."""

LEAST_SECONDS = 0.02
"""Seconds at least after which a rate is asked again: with many keys, the next start is never far."""

ENDLESS = 2**31 - 1

_LOCK = "SELECT pg_try_advisory_xact_lock($1::bigint)"

PLACE_OF = "substr({key}, strpos({key}, E'\\x1f') + 1)"
"""The value of the concurrency key in a limit key, which may begin with an owner."""

_FIELDS = "id, limit_key, priority, due, size"
_LEASED = (
    "id, function, limit_key, priority, due, deadline, owner, batch, size, attempt, errors, losses, last_seq,"
    " keep, keyed"
)
_LOCKED = "FOR UPDATE SKIP LOCKED"
_NEXT_KEY = """
    SELECT limit_key FROM taskd.ready WHERE function = $1::text AND limit_key {} ORDER BY limit_key LIMIT 1"""
_EACH_KEY = f"""
    SELECT 0 AS turn, ({_NEXT_KEY.format("> $5::text")}) AS key
    UNION ALL
    SELECT n.turn, n.key FROM keys AS k CROSS JOIN LATERAL (
        SELECT CASE WHEN k.key IS NULL THEN 1 ELSE k.turn END AS turn,
            CASE WHEN k.key IS NULL THEN ({_NEXT_KEY.format(">= ''")})
                ELSE ({_NEXT_KEY.format("> k.key")}) END AS key
    ) AS n
    WHERE NOT (n.turn = 1 AND n.key > $5::text)
"""
_GIVEN_KEYS = """
    SELECT turn::int, key, room FROM unnest($5::text[], $10::int[]) WITH ORDINALITY AS k(key, room, turn)
"""

_COUNTS = """
    CROSS JOIN LATERAL (
        SELECT count(*) AS leased, count(*) FILTER (WHERE NOT started) AS unstarted
        FROM taskd.lease AS l WHERE l.function = $1::text AND l.place = {place}
    ) AS l CROSS JOIN LATERAL (
        SELECT coalesce(sum(count), 0) AS begun, min(until) AS until
        FROM taskd.started AS s WHERE $8::float8 IS NOT NULL AND s.function = $1::text
            AND s.place = {place} AND until > extract(epoch FROM clock_timestamp())
    ) AS s"""
_RATE_ROOM = "$7::bigint - l.unstarted - s.begun"
_ROOM = f"least($6::bigint - l.leased, {_RATE_ROOM})"
_UNTIL = f"CASE WHEN {_RATE_ROOM} <= 0 THEN s.until END AS until"


_ROWS = f"""
        SELECT {_FIELDS} FROM taskd.ready AS r WHERE function = $1::text AND limit_key = k.key
        ORDER BY priority, due, id LIMIT k.room {_LOCKED}"""
_OWNED_ROWS = f"""
        SELECT {_FIELDS} FROM taskd.ready AS r WHERE function = $1::text
            AND {PLACE_OF.format(key="limit_key")} = k.key AND owner <> '' AND limit_key IS NOT NULL
        ORDER BY priority, due, id LIMIT k.room {_LOCKED}"""


def _statement(*, is_given: bool, by_key: bool) -> str:
    """Return the statement that claims tasks of some keys, and of those without one.

    If keys are given, these are values of the concurrency key, whoever owns the tasks.
    It returns the tasks, each with the time of the next start that the rate permits, and at least one row.
    """
    keys = _GIVEN_KEYS if is_given else _EACH_KEY
    rows = f"SELECT * FROM ({_ROWS}) AS a UNION ALL SELECT * FROM ({_OWNED_ROWS}) AS b" if is_given else _ROWS
    place = "k.key" if is_given else PLACE_OF.format(key="k.key") if by_key else "''::text"
    room = f"least({_ROOM}, {'k.room' if is_given else '$4::int'})"
    # Those without a key are claimed only to be given one if the function has a concurrency key now.
    unkeyed = "$9::int AS room" if by_key else f"least({_ROOM}, $9::int) AS room, {_UNTIL}"
    unkeyed_counts = "" if by_key else _COUNTS.format(place="''")
    return f"""
WITH RECURSIVE keys AS ({keys}), spots AS MATERIALIZED (
    SELECT k.turn, k.key, {place} AS place, greatest({room}, 0) AS room,
        {_UNTIL}
    FROM keys AS k{_COUNTS.format(place=place)} WHERE k.key IS NOT NULL
), keyed AS MATERIALIZED (
    SELECT k.place, k.room, each.* FROM spots AS k CROSS JOIN LATERAL ({rows}) AS each LIMIT $4::int
), spot AS MATERIALIZED (
    SELECT {unkeyed}
    FROM (SELECT 1) AS one{unkeyed_counts}
), unkeyed AS MATERIALIZED (
    SELECT {"NULL::text" if by_key else "''::text"} AS place, (SELECT room FROM spot) AS room, r.*
    FROM (
        SELECT {_FIELDS} FROM taskd.ready WHERE function = $1::text AND limit_key IS NULL
        ORDER BY priority, due, id LIMIT (SELECT greatest(room, 0) FROM spot) {_LOCKED}
    ) AS r
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY place ORDER BY priority, due, id) AS rank
    FROM (SELECT * FROM keyed UNION ALL SELECT * FROM unkeyed) AS each
), picked AS (
    SELECT * FROM ranked WHERE rank <= room ORDER BY rank, priority, due, id LIMIT $4::int
), numbered AS (
    SELECT id, place, sum(size) OVER (ORDER BY rank, priority, due, id) - size AS before FROM picked
), gone AS (
    DELETE FROM taskd.ready AS r USING numbered AS n
    WHERE r.id = n.id AND n.before < {CLAIM_BYTES}
        AND EXISTS (SELECT FROM taskd.node WHERE id = $2::int AND gone IS NULL)
    RETURNING r.*, n.place
), taken AS (
    INSERT INTO taskd.lease
    SELECT {_LEASED}, $2::int, $3::bigint, place, CASE WHEN place IS NOT NULL THEN $8::float8 END FROM gone
)
SELECT {NEW_COLUMNS}, 1, t.created, g.attempt, g.errors, g.losses, g.due, NULL, NULL, g.last_seq,
    (SELECT min(until) - extract(epoch FROM clock_timestamp())::float8 FROM (
        SELECT until FROM spots{"" if by_key else " UNION ALL SELECT until FROM spot"}
    ) AS each)
FROM (SELECT 1) AS one LEFT JOIN (gone AS g JOIN taskd.task AS t ON t.id = g.id) ON true
"""


_STATEMENTS = {
    (is_given, by_key): _statement(is_given=is_given, by_key=by_key)
    for is_given, by_key in ((False, False), (False, True), (True, True))
}


def claim_limited(
    transaction: Transaction, function: str, want: Want, limit: Limit, again: dict[str, float]
) -> Callable[[], list[Record]]:
    """Claim waiting tasks of a function as far as its limit permits; return what returns them.

    Call this last in a transaction, for several functions in their order: others must not wait for a node
    that waits for them. What has to be asked for again later is added to `again` when the tasks are read.
    """
    [[is_locked]] = transaction.rows(_LOCK, lock_key(function))
    if not is_locked:
        again[function] = LOCKED_SECONDS
        return list
    if not isinstance(want, KeyedWant):
        want = KeyedWant(want, None, want, with_unkeyed=True)
    count = max(want.count, 0)
    is_given = want.keys is not None and limit.by_key
    values: list[Any] = [function, transaction.node, transaction.turn, count]
    unkeyed = count if want.with_unkeyed or not limit.by_key else 0
    limits = [
        ENDLESS if limit.concurrency is None else limit.concurrency,
        ENDLESS if limit.rate is None else limit.rate,
        None if limit.rate is None else limit.seconds,
        unkeyed,
    ]
    if want.keys is not None and is_given:
        rooms: dict[str, int] = {}
        for key, room in want.keys.items():
            place = key.rpartition("\x1f")[2]
            rooms[place] = max(room, rooms.get(place, 0))
        values += [texts(list(rooms)), *limits, numbers(rooms.values())]
    else:
        values += [want.after, *limits]
    cursor = transaction.execute(_STATEMENTS[is_given, limit.by_key], *values)

    def claimed() -> list[Record]:
        rows = cursor.fetchall()
        seconds = rows[0][-1]
        if seconds is not None:
            again[function] = max(seconds, LEAST_SECONDS)
        return sorted((record_of(row[:-1]) for row in rows if row[0] is not None), key=turn)

    def turn(record: Record) -> Any:
        key = record.new.limit_key
        return (key is None, key is not None and key <= want.after, key or "", record.turn())

    return claimed


def lock_key(function: str) -> int:
    """Return the key of the advisory lock of a function."""
    name = b"taskd limit " + function.encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), signed=True)
