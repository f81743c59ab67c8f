"""The schema of a store's SQLite file: its version, and how each version is made from the one before."""

from __future__ import annotations

import sqlite3

from taskd.store.sqlite_batches import BATCH_TABLES
from taskd.store.sqlite_operators import OPERATOR_TABLES
from taskd.store.sqlite_owners import OWNER_TABLES

__all__ = ["APPLICATION_ID", "VERSION", "migrate"]

APPLICATION_ID = 0x7461736B
"""What `file` and SQLite's tools show a taskd file by ("task" in ASCII): other files are never touched."""

_FIRST = """
CREATE TABLE task (
    id TEXT NOT NULL UNIQUE,
    function TEXT NOT NULL,
    args BLOB,
    options BLOB NOT NULL,
    priority INTEGER NOT NULL,
    wanted REAL NOT NULL,
    deadline REAL,
    key TEXT,
    token TEXT,
    batch TEXT,
    keep REAL NOT NULL,
    state INTEGER NOT NULL,
    created REAL NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    errors INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL,
    ended REAL,
    outcome BLOB,
    last_seq INTEGER NOT NULL DEFAULT 0,
    claimed INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX task_scheduled ON task (due, id) WHERE state = 0;
CREATE INDEX task_waiting ON task (function, priority, due, id) WHERE state = 1 AND claimed = 0;
CREATE INDEX task_claimed ON task (id) WHERE state = 1 AND claimed = 1;
CREATE INDEX task_running ON task (id) WHERE state = 2;
CREATE INDEX task_ended ON task (ended + keep) WHERE ended IS NOT NULL;
CREATE UNIQUE INDEX task_key ON task (function, key) WHERE key IS NOT NULL AND state <= 2;
CREATE UNIQUE INDEX task_token ON task (token) WHERE token IS NOT NULL;
CREATE INDEX task_batch ON task (batch, id) WHERE batch IS NOT NULL;
CREATE TABLE event (
    task TEXT NOT NULL,
    seq INTEGER NOT NULL,
    event TEXT NOT NULL,
    at REAL NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (task, seq)
) WITHOUT ROWID;
"""

_PAUSED = """
CREATE TABLE paused (function TEXT PRIMARY KEY) WITHOUT ROWID;
"""

_TIME = """
ALTER TABLE task ADD COLUMN fixed INTEGER NOT NULL DEFAULT 0;
CREATE INDEX task_deadline ON task (deadline) WHERE deadline IS NOT NULL AND state <= 1 AND attempt = 0;
CREATE TABLE schedule (
    name TEXT NOT NULL PRIMARY KEY,
    line TEXT NOT NULL,
    last REAL NOT NULL
) WITHOUT ROWID;
"""

_LIMITS = """
ALTER TABLE task ADD COLUMN limit_key TEXT;
CREATE INDEX task_limit_key ON task (function, limit_key, priority, due, id)
    WHERE state = 1 AND claimed = 0 AND limit_key IS NOT NULL;
"""

_OWNERS = """
ALTER TABLE task ADD COLUMN owner TEXT NOT NULL DEFAULT '';
DROP INDEX task_waiting;
CREATE INDEX task_waiting ON task (function, priority, due, id)
    WHERE state = 1 AND claimed = 0 AND limit_key IS NULL;
CREATE INDEX task_owner ON task (owner, id) WHERE owner <> '';
DROP INDEX task_key;
CREATE UNIQUE INDEX task_key ON task (function, key, owner) WHERE key IS NOT NULL AND state <= 2;
DROP INDEX task_token;
CREATE UNIQUE INDEX task_token ON task (token, owner) WHERE token IS NOT NULL;
ALTER TABLE batch ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX batch_owner ON batch (owner, id) WHERE owner <> '';
"""

_MIGRATIONS = [_FIRST, _PAUSED, _TIME, _LIMITS, BATCH_TABLES, _OWNERS + OWNER_TABLES, OPERATOR_TABLES]
"""The script at place n makes version n + 1 of version n."""

VERSION = len(_MIGRATIONS)


def migrate(database: sqlite3.Connection, version: int, to: int = VERSION) -> None:
    """Bring a file from `version` to another, in one transaction. Raises `sqlite3.Error`."""
    script = "".join(_MIGRATIONS[version:to])
    database.executescript(
        f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {to};"
        f" PRAGMA application_id = {APPLICATION_ID}; COMMIT;"
    )
