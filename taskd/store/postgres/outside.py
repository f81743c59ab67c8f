"""A store's database from outside, without being a node: its version, its health, and its migration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Connection, RawCursor

from taskd.store.base import StoreError
from taskd.store.postgres.connection import Database
from taskd.store.postgres.copying import PostgresCopies
from taskd.store.postgres.nodes import DEAD_SECONDS
from taskd.store.postgres.schema import VERSION, migrate, version_of
from taskd.store.postgres.transaction import value_of
from taskd.store.records import State

__all__ = ["DatabaseHealth", "check_database", "check_exists", "copies_for_reading", "migrate_database"]

MAX_PROBLEMS = 20
"""Problems of each kind that are reported; the first few say enough."""

_ALL = """
    SELECT id, 'later' AS place FROM taskd.later UNION ALL SELECT id, 'ready' FROM taskd.ready
    UNION ALL SELECT id, 'lease' FROM taskd.lease UNION ALL SELECT id, 'ended' FROM taskd.ended"""
_UNFINISHED = """
    SELECT id, batch FROM taskd.later UNION ALL SELECT id, batch FROM taskd.ready
    UNION ALL SELECT id, batch FROM taskd.lease"""
_PROBLEMS = (
    (
        "task {} is in several tables",
        f"SELECT id FROM ({_ALL}) AS p GROUP BY id HAVING count(*) > 1",
    ),
    (
        "task {} is neither unfinished nor ended",
        f"SELECT id FROM taskd.task AS t WHERE NOT EXISTS (SELECT FROM ({_ALL}) AS p WHERE p.id = t.id)",
    ),
    (
        "task {} has lost its arguments",
        f"SELECT id FROM ({_ALL}) AS p WHERE NOT EXISTS (SELECT FROM taskd.task AS t WHERE t.id = p.id)",
    ),
    (
        "task {} has events, and is lost",
        """
        SELECT DISTINCT task FROM taskd.event AS e
        WHERE NOT EXISTS (SELECT FROM taskd.task AS t WHERE t.id = e.task)
        """,
    ),
    (
        "task {} is lost or has ended, and its key is still taken",
        f"""
        SELECT id FROM taskd.uniq AS u
        WHERE kind = 'k' AND NOT EXISTS (SELECT FROM ({_UNFINISHED}) AS p WHERE p.id = u.id)
        """,
    ),
    (
        "task {} is lost, and its token is still taken",
        """
        SELECT id FROM taskd.uniq AS u
        WHERE kind = 't' AND NOT EXISTS (SELECT FROM taskd.task AS t WHERE t.id = u.id)
        """,
    ),
    (
        "batch {} is lost, and its token is still taken",
        """
        SELECT id FROM taskd.uniq AS u
        WHERE kind = 'b' AND NOT EXISTS (SELECT FROM taskd.batch AS b WHERE b.id = u.id)
        """,
    ),
    (
        "task {} has a key that others can take",
        f"""
        SELECT t.id FROM taskd.task AS t JOIN ({_UNFINISHED}) AS p ON p.id = t.id
        WHERE key IS NOT NULL AND NOT EXISTS (
            SELECT FROM taskd.uniq AS u WHERE u.kind = 'k' AND u.owner = t.owner
                AND u.function = t.function AND u.value = t.key AND u.id = t.id
        )
        """,
    ),
    (
        "task {} has a token that others can take",
        """
        SELECT t.id FROM taskd.task AS t
        WHERE token IS NOT NULL AND NOT EXISTS (
            SELECT FROM taskd.uniq AS u WHERE u.kind = 't' AND u.owner = t.owner
                AND u.function = '' AND u.value = t.token AND u.id = t.id
        )
        """,
    ),
    (
        "batch {} counts other tasks than it has",
        f"""
        SELECT b.id FROM taskd.batch AS b
        LEFT JOIN (SELECT batch, count(*) FROM ({_UNFINISHED}) AS p GROUP BY batch) AS c ON c.batch = b.id
        WHERE done + failed + cancelled + unstored + coalesce(c.count, 0) <> total
        """,
    ),
    (
        "batch {} has lost some of its rows",
        """
        SELECT id FROM taskd.batch AS b
        WHERE parts <> (SELECT count(*) FROM taskd.batch_part AS p WHERE p.batch = b.id)
        """,
    ),
)
"""Sentences about what must not be, and the query for the ids."""

_COUNTS = """
SELECT 0, count(*) FROM taskd.later UNION ALL SELECT 1, count(*) FROM taskd.ready
UNION ALL SELECT CASE WHEN started THEN 2 ELSE 1 END, count(*) FROM taskd.lease GROUP BY started
UNION ALL SELECT state, count(*) FROM taskd.ended GROUP BY state
"""
_SIZE = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = 'taskd' AND c.relkind = 'r'
"""
_LIVE = f"gone IS NULL AND seen > clock_timestamp() - interval '{DEAD_SECONDS} seconds'"
_NODES = f"SELECT count(*) FROM taskd.node WHERE {_LIVE}"
_LEFT = f"""
SELECT count(*) FROM taskd.lease AS l
WHERE NOT EXISTS (SELECT FROM taskd.node AS n WHERE n.id = l.node AND {_LIVE})
"""


@dataclass(frozen=True, slots=True)
class DatabaseHealth:
    """The health of a database: `problems` is empty if there are none. `size` is in bytes.

    `nodes` counts the servers that use it, `left` the tasks that dead ones had.
    """

    path: str
    version: int
    size: int
    nodes: int
    left: int
    counts: dict[str, int]
    problems: list[str]


@contextmanager
def _snapshot(description: str) -> Iterator[tuple[Connection[Any], str, int]]:
    """Open a database to read it as it is at one instant: the connection, a name, the schema's version."""
    database = Database(description)
    try:
        with closing(database.connect("check")) as connection:
            version = version_of(connection, database.name)
            if not version:
                raise StoreError(f"{database.name} has no tasks: no server has used it yet")
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield connection, database.name, version
    except psycopg.Error as error:
        raise database.error("read", error) from error


@contextmanager
def copies_for_reading(description: str) -> Iterator[PostgresCopies]:
    """Open a database that servers may be using, to read it as it is at one instant. Raises `StoreError`."""
    with _snapshot(description) as (connection, name, version):
        if version != VERSION:
            raise StoreError(
                f"{name} has schema {version}, and this taskd uses {VERSION}: first taskd store migrate"
            )

        def read(query: str, *values: Any) -> list[Any]:
            cursor = RawCursor(connection)
            return cursor.execute(query.encode(), list(map(value_of, values)), binary=True).fetchall()

        def run(_work: object) -> Any:
            raise StoreError(f"{name} is only read")

        yield PostgresCopies(run, read)


def check_exists(description: str) -> None:
    """Raise `StoreError` if a database cannot be used, or no server has used it yet."""
    with _snapshot(description):
        pass


def check_database(description: str) -> DatabaseHealth:
    """Check a database: its version, and that its tables fit together. Raises `StoreError`."""
    with _snapshot(description) as (connection, name, version):
        problems = [
            sentence.format(each)
            for sentence, query in _PROBLEMS
            for (each,) in connection.execute(f"{query} LIMIT {MAX_PROBLEMS}".encode())
        ]
        counts: dict[str, int] = {}
        for state, count in sorted(connection.execute(_COUNTS)):
            shown = State(state).name.lower()
            if count:
                counts[shown] = counts.get(shown, 0) + count
        size, nodes, left = (_one(connection, query) for query in (_SIZE, _NODES, _LEFT))
        return DatabaseHealth(name, version, size, nodes, left, counts, problems)


def _one(connection: Connection[Any], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    return int(row[0]) if row else 0


def migrate_database(description: str) -> tuple[str, int]:
    """Bring a database to this version; return what names it, and the version before. Raises `StoreError`.

    Servers may be using it, several may do so at once, and what was interrupted goes on where it was.
    """
    database = Database(description)
    try:
        with closing(database.connect("migration")) as connection:
            before = version_of(connection, database.name)
            migrate(connection, database.name)
    except psycopg.Error as error:
        raise database.error("migrated", error) from error
    return database.name, before
