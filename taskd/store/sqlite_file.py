"""A store's SQLite file from outside: whose it is, its version, its health, and its migration."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from taskd.store.base import StoreError
from taskd.store.records import State
from taskd.store.sqlite_errors import explained
from taskd.store.sqlite_schema import APPLICATION_ID, VERSION, migrate

__all__ = ["Health", "bring_up_to_date", "check_file", "opened_for_reading", "version_of"]

MAX_PROBLEMS = 20
"""Problems of a damaged file that are reported; the first few say enough."""

_WRONG_ENDS = """
SELECT task.id FROM task WHERE state > 2 AND
(SELECT count(*) FROM event WHERE task = task.id AND event.seq = task.last_seq
 AND event.event IN ('succeeded', 'failed', 'cancelled', 'expired', 'set_aside')) <> 1 LIMIT ?
"""
_LOST_EVENTS = "SELECT DISTINCT task FROM event WHERE task NOT IN (SELECT id FROM task) LIMIT ?"
_QUERIES = (
    (_WRONG_ENDS, "has ended, but its last event is no end"),
    (_LOST_EVENTS, "has events, and is lost"),
)


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a file: `problems` is empty if there are none. Sizes are in bytes."""

    path: str
    version: int
    size: int
    log_size: int
    counts: dict[str, int]
    problems: list[str]


def version_of(database: sqlite3.Connection, path: str) -> int:
    """Return the version of a file's schema, 0 for an empty file.

    Raises `StoreError` if the file is another program's or from a newer taskd.
    """
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise StoreError(f"{path} is an SQLite file of another program; name another file")
    if version > VERSION:
        raise StoreError(
            f"{path} is of a newer version of taskd (schema {version}; this one knows {VERSION}): "
            "use that version, or another file"
        )
    return int(version)


def bring_up_to_date(database: sqlite3.Connection, path: str) -> str | None:
    """Migrate a file of an older version; return the path of the copy that was made before, if one was.

    Raises `StoreError`; then the file is as it was.
    """
    version = version_of(database, path)
    if version == VERSION:
        return None
    copy = _copy(database, path, version) if version else None
    try:
        migrate(database, version)
    except sqlite3.Error as error:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise StoreError(
            f"{path} is left at schema {version}, as it cannot be migrated to {VERSION}: {explained(error)}"
        ) from error
    return copy


def _copy(database: sqlite3.Connection, path: str, version: int) -> str:
    copy = f"{path}.v{version}"
    part = f"{copy}.part"
    try:
        Path(part).unlink(missing_ok=True)
        with closing(sqlite3.connect(part)) as target:
            database.backup(target)
        os.replace(part, copy)
    except (sqlite3.Error, OSError) as error:
        with suppress(OSError):
            Path(part).unlink(missing_ok=True)
        reason = explained(error) if isinstance(error, sqlite3.Error) else error.strerror
        raise StoreError(
            f"{path} has schema {version} and needs {VERSION}, but cannot be copied to {copy}: {reason}"
        ) from error
    return copy


@contextmanager
def opened_for_reading(path: str) -> Iterator[sqlite3.Connection]:
    """Open a file that a daemon may be using, to read it alone. Raises `StoreError`."""
    if not os.path.exists(path):
        raise StoreError(f"there is no file {path}")
    try:
        database = sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True)
        with closing(database):
            if not version_of(database, path):
                raise StoreError(f"{path} is empty: no daemon has used it yet")
            yield database
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be read: {explained(error)}") from error


def check_file(path: str) -> Health:
    """Check a file: its pages, its indexes, and that each ended task has one end. Raises `StoreError`."""
    with opened_for_reading(path) as database:
        version = version_of(database, path)
        problems = _damages(database)
        counts: dict[str, int] = {}
        if not problems:
            for query, what in _QUERIES:
                rows = database.execute(query, (MAX_PROBLEMS,))
                problems += [f"task {task} {what}" for (task,) in rows]
            rows = database.execute("SELECT state, count(*) FROM task GROUP BY state")
            counts = {State(state).name.lower(): count for state, count in rows}
    log = Path(f"{path}-wal")
    log_size = log.stat().st_size if log.exists() else 0
    return Health(path, version, os.path.getsize(path), log_size, counts, problems)


def _damages(database: sqlite3.Connection) -> list[str]:
    try:
        found = [str(row[0]) for row in database.execute(f"PRAGMA integrity_check({MAX_PROBLEMS})")]
    except sqlite3.DatabaseError as error:
        found = [str(error)]
    return [] if found == ["ok"] else found
