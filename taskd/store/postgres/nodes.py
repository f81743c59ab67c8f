"""The nodes that share a PostgreSQL store: who they are, whether they live, and what the dead have left."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from taskd.store.nodes import Beat, Described, NodeInfo, NodeRow
from taskd.store.postgres.by_hand import cancel_asked
from taskd.store.postgres.ending import ENDED_AFTER
from taskd.store.postgres.literals import flags, from_text, numbers, optional_texts, texts
from taskd.store.postgres.starts import note_unknown
from taskd.store.postgres.transaction import Transaction
from taskd.store.records import Event, last_seq

__all__ = [
    "ALIVE",
    "DEAD_SECONDS",
    "cut_off",
    "describe",
    "drain",
    "give_back",
    "leave",
    "living",
    "now_of",
    "register",
    "renew",
    "rescue",
]

DEAD_SECONDS = 10.0
"""Seconds by the database's clock after which a node that has not renewed is dead."""

CUT_OFF_MS = 1000
"""Milliseconds in which a connection of a dead node must have ended; else its locks are left."""

KEPT_DAYS = 7
"""Days for which the row of a node that is gone is kept, to be seen."""

ALIVE = f"gone IS NULL AND seen > clock_timestamp() - interval '{DEAD_SECONDS} seconds'"

_REGISTER = """
INSERT INTO taskd.node (name, version, functions, once, labels, workers, running, draining)
VALUES ($1::text, $2::text, $3::text[], $4::text[], $5::text[], $6::int, $7::int, $8::boolean) RETURNING id
"""
_FORGET = f"""
DELETE FROM taskd.node AS n WHERE gone < clock_timestamp() - interval '{KEPT_DAYS} days'
    AND NOT EXISTS (SELECT FROM taskd.lease WHERE node = n.id)
"""
_RENEW = """
UPDATE taskd.node SET seen = clock_timestamp(), name = $1::text, version = $2::text, functions = $3::text[],
    once = $4::text[], labels = $5::text[], workers = $6::int, running = $7::int, draining = $8::boolean,
    pids = $10::int[]
WHERE id = $9::int AND gone IS NULL RETURNING drain
"""
_DESCRIBE = """
INSERT INTO taskd.function AS f
SELECT * FROM unnest(
    $1::text[], $2::float8[], $3::boolean[], $4::text[], $5::int[], $6::text[], $7::boolean[]
) AS g(name, keep, once, key, place, secrets, is_sealed) ORDER BY name
ON CONFLICT (name) DO UPDATE SET keep = excluded.keep, once = excluded.once, key = excluded.key,
    place = excluded.place, secrets = excluded.secrets, is_sealed = excluded.is_sealed
WHERE (f.*) IS DISTINCT FROM (excluded.*)
"""
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_ASKED = "SELECT id FROM taskd.lease WHERE node = $1::int AND cancelled ORDER BY id"
_PAUSED = "SELECT function FROM taskd.paused ORDER BY function"
_NODES = f"""
SELECT id, name, version, functions, once, labels, workers, running, draining,
    extract(epoch FROM started)::float8, extract(epoch FROM seen)::float8,
    (SELECT count(*) FROM taskd.lease WHERE node = n.id), drain
FROM taskd.node AS n WHERE {ALIVE} ORDER BY id
"""
_DRAIN = f"UPDATE taskd.node SET drain = $2::boolean WHERE id = $1::int AND {ALIVE} RETURNING id"
_LEAVE = "UPDATE taskd.node SET gone = clock_timestamp() WHERE id = $1::int AND gone IS NULL"

_CUT_OFF = f"""
SELECT pg_terminate_backend(a.pid, {CUT_OFF_MS})
FROM taskd.node AS n CROSS JOIN unnest(n.pids) AS p(pid)
JOIN pg_catalog.pg_stat_activity AS a ON a.pid = p.pid AND a.backend_start <= n.seen
WHERE NOT ({ALIVE}) AND a.datname = current_database() AND a.usename = current_user
    AND a.application_name LIKE 'taskd %' AND a.xact_start IS NOT NULL
"""
"""A process that began later has got the number of one that has ended."""

_DEAD = f"""
SELECT id, once FROM taskd.node AS n
WHERE NOT ({ALIVE}) AND EXISTS (SELECT FROM taskd.lease WHERE node = n.id)
ORDER BY id FOR UPDATE SKIP LOCKED
"""
_UNKNOWN = (
    "SELECT DISTINCT node FROM taskd.lease AS l WHERE NOT EXISTS (SELECT FROM taskd.node WHERE id = l.node)"
)
_BURY = "UPDATE taskd.node SET gone = clock_timestamp() WHERE id = ANY($1::int[]) AND gone IS NULL"
_PLACE = """
SELECT id, function, limit_key, priority, due, deadline, owner, batch, size, attempt, errors, losses,
    last_seq, keep, keyed FROM gone"""
_GIVE_BACK = f"""
WITH free AS MATERIALIZED (
    SELECT id FROM taskd.lease WHERE node = ANY($1::int[]) AND NOT started ORDER BY id FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM taskd.lease AS l USING free WHERE l.id = free.id RETURNING l.*
), waiting AS (
    INSERT INTO taskd.ready {_PLACE}
)
SELECT id FROM gone WHERE cancelled ORDER BY id
"""
_LEFT = """
SELECT id, function, attempt, last_seq, node, cancelled FROM taskd.lease
WHERE node = ANY($1::int[]) AND started ORDER BY id FOR UPDATE SKIP LOCKED
"""
"""What is locked is left for the next time: nobody may wait for a node that stands still."""
_LOSE = f"""
WITH gone AS (
    DELETE FROM taskd.lease AS l USING unnest($1::text[], $2::bigint[]) AS g(id, seq)
    WHERE l.id = g.id
    RETURNING l.id, function, limit_key, priority, $3::float8 AS due, NULL::float8 AS deadline, owner, batch,
        size, attempt, errors, losses + 1 AS losses, g.seq AS last_seq, keep, keyed, start_seq, since
), waiting AS (
    INSERT INTO taskd.ready {_PLACE}
), begun AS (
    INSERT INTO taskd.event
    SELECT id, start_seq, 'started', since, convert_to('{{"attempt":' || attempt || '}}', 'UTF8') FROM gone
)
INSERT INTO taskd.event SELECT id, last_seq, 'lost', $3::float8, '\\x7b7d' FROM gone
"""
_END = f"""
WITH gone AS (
    DELETE FROM taskd.lease AS l USING unnest($1::text[], $2::bigint[]) AS g(id, seq)
    WHERE l.id = g.id
    RETURNING l.id, function, owner, batch, $4::int AS state, attempt, errors, losses + 1 AS losses,
        $3::float8 AS due, $5::bytea AS outcome, g.seq AS last_seq, keep, keyed, since AS started, start_seq,
        $6::text AS event, $7::bytea AS data
), {ENDED_AFTER.format(now="$3")}
SELECT id FROM gone
"""


def register(transaction: Transaction, info: NodeInfo) -> int:
    """Add a node; return its number, which no other one ever gets."""
    transaction.execute(_FORGET)
    [[number]] = transaction.rows(_REGISTER, *_values(info))
    return int(number)


def renew(transaction: Transaction, info: NodeInfo, pids: Collection[int] = ()) -> Beat:
    """Show that the node lives, and return what it has to know.

    `pids` are the server's processes for its connections.
    """
    renewed = transaction.execute(_RENEW, *_values(info), transaction.node, numbers(pids))
    now = transaction.execute(_NOW)
    asked = transaction.execute(_ASKED, transaction.node)
    paused = transaction.execute(_PAUSED)
    rows = renewed.fetchall()
    return Beat(
        now=now.fetchall()[0][0],
        is_mine=bool(rows),
        cancelled=[task for (task,) in asked.fetchall()],
        paused=[from_text(function) or "" for (function,) in paused.fetchall()],
        drain=bool(rows and rows[0][0]),
    )


def describe(transaction: Transaction, functions: Collection[Described]) -> None:
    """Note what those who submit by SQL have to know of these functions."""
    if functions:
        transaction.execute(
            _DESCRIBE,
            texts([each.name for each in functions]),
            numbers([each.keep for each in functions]),
            flags([each.once for each in functions]),
            optional_texts([each.key for each in functions]),
            numbers([each.place for each in functions]),
            optional_texts([each.secrets for each in functions]),
            flags([each.is_sealed for each in functions]),
        )


def now_of(transaction: Transaction) -> float:
    """Return the time by the database's clock."""
    return float(transaction.rows(_NOW)[0][0])


def living(transaction: Transaction) -> list[NodeRow]:
    """Return the nodes that live."""
    return [_node(row) for row in transaction.rows(_NODES)]


def drain(transaction: Transaction, node: int, *, is_drained: bool) -> bool:
    """Ask a node to claim nothing any more, or to claim again; return whether it lives."""
    transaction.wakes.ask(node, "drain")
    return bool(transaction.rows(_DRAIN, node, is_drained))


def _values(info: NodeInfo) -> list[Any]:
    """Return the values of the statements that write a node."""
    lists = (info.functions, info.once, info.labels)
    shown = (info.workers, info.running, info.is_draining)
    return [info.name, info.version, *map(texts, map(sorted, lists)), *shown]


def _node(row: Any) -> NodeRow:
    number, name, version, functions, once, labels, workers, running, draining, *rest = row
    return NodeRow(
        number, NodeInfo(name, version, functions, once, labels, workers, running, draining), *rest
    )


def leave(transaction: Transaction, now: float | None = None) -> None:
    """Note that the node claims nothing any more, and let others have what it has not started."""
    transaction.execute(_LEAVE, transaction.node)
    give_back(transaction, [transaction.node], now)


def give_back(transaction: Transaction, nodes: Collection[int], now: float | None = None) -> None:
    """Let the unstarted tasks of these nodes wait for others."""
    asked = [task for (task,) in transaction.rows(_GIVE_BACK, numbers(nodes))]
    transaction.wakes.is_any_waiting = True
    if asked:
        cancel_asked(transaction, asked, transaction.rows(_NOW)[0][0] if now is None else now)


def cut_off(transaction: Transaction) -> None:
    """End the transactions of nodes that are dead: one that stands still may hold locks for ever."""
    transaction.execute(_CUT_OFF)


def rescue(transaction: Transaction, now: float, once: Collection[str], error: bytes | None) -> int:
    """End the attempts of nodes that are not alive any more; return how many. Idempotent, from any node."""
    dead = {number: {*once, *map(str, its)} for number, its in transaction.rows(_DEAD)}
    dead |= {number: set(once) for (number,) in transaction.rows(_UNKNOWN)}
    if not dead:
        return 0
    transaction.execute(_BURY, numbers(sorted(dead)))
    note_unknown(transaction, sorted(dead))
    give_back(transaction, sorted(dead), now)
    left = transaction.rows(_LEFT, numbers(sorted(dead)))
    ends: dict[str, list[tuple[str, int]]] = {"lost": [], "failed": [], "cancelled": []}
    for task, function, attempt, last, node, is_cancelled in left:
        seq = max(last + 1, last_seq(attempt))
        end = "cancelled" if is_cancelled else "failed" if from_text(function) in dead[node] else "lost"
        ends[end].append((task, seq))
    _lose(transaction, ends["lost"], now)
    data = b'{"error":%b}' % (error or b"null")
    for event, state, outcome, text in (("failed", 4, error, data), ("cancelled", 5, None, b"{}")):
        _end(transaction, ends[event], now, (state, outcome, event, text))
    return len(left)


def _lose(transaction: Transaction, tasks: list[tuple[str, int]], now: float) -> None:
    if tasks:
        ids, seqs = zip(*tasks, strict=True)
        transaction.execute(_LOSE, texts(ids), numbers(seqs), now)
        transaction.wakes.is_any_waiting = True
        transaction.logged += [Event(task, seq, "lost", now) for task, seq in tasks]


def _end(
    transaction: Transaction,
    tasks: list[tuple[str, int]],
    now: float,
    end: tuple[int, bytes | None, str, bytes],
) -> None:
    if tasks:
        ids, seqs = zip(*tasks, strict=True)
        transaction.execute(_END, texts(ids), numbers(seqs), now, *end)
        transaction.logged += [Event(task, seq, end[2], now, end[3]) for task, seq in tasks]
