"""The schema of the store in PostgreSQL: its version, and how each version is made from the one before."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from psycopg import Connection

from taskd.store.base import StoreError

__all__ = ["MIN_READER", "VERSION", "migrate", "version_of"]

VERSION = 1
"""The version that this program makes and knows: the number of its last migration."""

MIN_READER = {1: 1}
"""The lowest version that a program must know to work with each version of the schema."""

_LOCK = 0x7461736B
"""The advisory lock under which one node migrates at a time ("task" in ASCII)."""

# A query, since `to_regclass` may remember for the rest of a transaction that there was none.
_HAS_VERSION = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = 'taskd' AND tablename = 'schema_version')
"""


def version_of(connection: Connection[Any], name: str) -> int:
    """Return the version of the schema in a database, 0 if it has none.

    Raises `StoreError` if it is too new for this program.
    """
    row = connection.execute(_HAS_VERSION).fetchone()
    if row is None or not row[0]:
        return 0
    row = connection.execute("SELECT version, min_reader FROM taskd.schema_version").fetchone()
    if row is None:
        return 0
    version, min_reader = row
    if min_reader > VERSION:
        raise StoreError(
            f"{name} is of a newer version of taskd (schema {version}, for programs that know {min_reader}; "
            f"this one knows {VERSION}): use that version, or another database"
        )
    return int(version)


def migrate(connection: Connection[Any], name: str) -> None:
    """Bring a database to this version, one transaction for each number. Raises `StoreError`, `psycopg.Error`.

    Several nodes may do so at once. What was interrupted goes on where it was.
    """
    _check_encoding(connection, name)
    while version_of(connection, name) < VERSION:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            version = version_of(connection, name)  # another node may have been quicker
            if version < VERSION:
                _take_step(connection, version)


def _take_step(connection: Connection[Any], version: int) -> None:
    if not version:
        # Whoever has no right to create a schema may have been given an empty one.
        row = connection.execute("SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'taskd')").fetchone()
        if row is not None and row[0]:
            connection.execute("CREATE SCHEMA taskd")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS taskd.schema_version "
            "(version integer NOT NULL, min_reader integer NOT NULL)"
        )
    connection.execute(script(version + 1).encode(), prepare=False)
    connection.execute("DELETE FROM taskd.schema_version")
    connection.execute(
        "INSERT INTO taskd.schema_version VALUES (%s, %s)", [version + 1, MIN_READER[version + 1]]
    )


def script(number: int) -> str:
    """Return the statements of a migration."""
    return (files("taskd.store.postgres") / "migrations" / f"{number:04}.sql").read_text()


def _check_encoding(connection: Connection[Any], name: str) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreError(
            f"{name} has the encoding {encoding}, and needs UTF8: createdb --encoding UTF8 --template template0"
        )


