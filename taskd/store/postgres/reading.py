"""Questions to the PostgreSQL store, each one statement, from any thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from taskd.store.base import Filter, Overdue
from taskd.store.postgres.literals import from_text, to_text
from taskd.store.postgres.rows import NEW_COLUMNS, record_of
from taskd.store.queued import Queued
from taskd.store.records import Event, LastTick, Record, State

__all__ = ["EVENTS", "LAST", "RECORD", "Query", "Read", "Reading", "all_sources", "id_like", "owned_by"]

Read = Callable[..., list[Any]]
"""Returns the rows of a query with these values."""

_UNFINISHED = "{id}, {state} AS state, attempt, errors, losses, due, NULL::float8 AS ended, {last}"
_COLUMNS = _UNFINISHED.format(id="s.id", state="{state}", last="NULL::bytea AS outcome, last_seq")
_LEASE_STATE = "CASE WHEN started THEN 2 ELSE 1 END"
_SOURCES: dict[State, tuple[str, str, str]] = {
    State.SCHEDULED: ("later", "0", ""),
    State.WAITING: ("ready", "1", ""),
    State.RUNNING: ("lease", "2", " AND started"),
}
"""The table of the tasks of each state, the state in SQL, and the condition in that table."""

_CLAIMED = ("lease", "1", " AND NOT started")
_ENDED_COLUMNS = "s.id, state, attempt, errors, losses, due, ended, {outcome}, last_seq"
_BRIEF_OUTCOME = "CASE WHEN state = 3 THEN NULL ELSE outcome END"
LAST = "\U0010ffff"  # which no id comes after

RECORD = "f.state, t.created, f.attempt, f.errors, f.losses, f.due, f.ended, f.outcome, f.last_seq"
"""The columns of a record after `NEW_COLUMNS`, of a task `AS t` and the row of its state `AS f`."""

_BRIEF = NEW_COLUMNS.replace("t.args", "NULL")

EVENTS = """
SELECT task, seq, event, at, data FROM (
    SELECT id AS task, 1::bigint AS seq, 'queued' AS event, created AS at, '\\x7b7d'::bytea AS data
        FROM taskd.task WHERE id = $1::text
    UNION ALL SELECT id, start_seq, 'started', since, convert_to('{"attempt":' || attempt || '}', 'UTF8')
        FROM taskd.lease WHERE id = $1::text AND started
    UNION ALL SELECT id, start_seq, 'started', started, convert_to('{"attempt":' || attempt || '}', 'UTF8')
        FROM taskd.ended WHERE id = $1::text AND start_seq IS NOT NULL
    UNION ALL SELECT id, last_seq, event, ended, data FROM taskd.ended WHERE id = $1::text
    UNION ALL SELECT task, seq, event, at, data FROM taskd.event WHERE task = $1::text
) AS log WHERE seq > $2::bigint ORDER BY seq LIMIT $3::int
"""
"""The log of a task: its first event, the start of its last attempt, and its end follow from other tables."""

_OVERDUE = """
SELECT id FROM taskd.ready WHERE deadline IS NOT NULL AND deadline <= $1::float8
ORDER BY deadline, id LIMIT $2::int
"""
_NEXT_DEADLINE = """
SELECT min(deadline) FROM (
    SELECT min(deadline) FROM taskd.later WHERE deadline > $1::float8
    UNION ALL SELECT min(deadline) FROM taskd.ready WHERE deadline > $1::float8
    UNION ALL SELECT min(deadline) FROM taskd.lease WHERE deadline > $1::float8
) AS each(deadline)
"""
_HAS_OWNERS = " OR ".join(
    f"EXISTS (SELECT FROM taskd.{table} WHERE owner <> '')" for table in ("later", "ready", "lease", "ended")
)
_COUNTS = """
SELECT function, 0, count(*) FROM taskd.later GROUP BY function
UNION ALL SELECT function, 1, sum(count)::bigint FROM (
    SELECT function, count(*) AS count FROM taskd.ready GROUP BY function
    UNION ALL SELECT function, count(*) FROM taskd.lease WHERE NOT started GROUP BY function
) AS waiting GROUP BY function
UNION ALL SELECT function, 2, count(*) FROM taskd.lease WHERE started GROUP BY function
UNION ALL SELECT function, state, count(*) FROM taskd.ended GROUP BY function, state
"""
_QUEUED = """
WITH counted AS (
    SELECT function, owner, sum(scheduled)::bigint AS scheduled, sum(waiting)::bigint AS waiting,
        sum(running)::bigint AS running, min(oldest) AS oldest
    FROM (
        SELECT function, owner, count(*) AS scheduled, 0 AS waiting, 0 AS running, NULL::float8 AS oldest
            FROM taskd.later GROUP BY function, owner
        UNION ALL SELECT function, owner, 0, count(*), 0, min(due) FROM taskd.ready GROUP BY function, owner
        UNION ALL SELECT function, owner, 0, count(*) FILTER (WHERE NOT started),
            count(*) FILTER (WHERE started), min(due) FILTER (WHERE NOT started)
            FROM taskd.lease GROUP BY function, owner
    ) AS each
    GROUP BY function, owner
)
SELECT function, owner, scheduled, waiting, running, oldest,
    (sum(scheduled) OVER ())::bigint, (sum(waiting) OVER ())::bigint, (sum(running) OVER ())::bigint
FROM counted ORDER BY scheduled + waiting + running DESC, function, owner LIMIT $1::int
"""


class Query:
    """A query as it is put together, with its values."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def value(self, value: Any, kind: str) -> str:
        """Return the SQL expression of a value."""
        self.values.append(value)
        return f"${len(self.values)}::{kind}"


class Reading:
    """Reads tasks, their events, and their numbers; `read` raises `StoreError`."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def get(self, task: str) -> Record | None:
        """Return a task, None if there is none with this id."""
        query = Query()
        place = query.value(task, "text")
        parts = [f"SELECT {columns} FROM {source} WHERE s.id = {place}" for columns, source in all_sources()]
        rows = self._read(
            f"SELECT {NEW_COLUMNS}, {RECORD} FROM ({' UNION ALL '.join(parts)}) AS f "
            "JOIN taskd.task AS t ON t.id = f.id",
            *query.values,
        )
        return record_of(rows[0]) if rows else None

    def find(self, wanted: Filter, after: str, limit: int) -> list[Record]:
        """Return tasks in the order of their ids, or in reverse.

        Each table is read in that order by an index, and only as far as is needed.
        """
        query = Query()
        order = "DESC" if wanted.newest else "ASC"
        condition = _condition(query, wanted, after)
        most = query.value(limit, "int")
        end = f"ORDER BY s.id {order} LIMIT {most}"
        body = " JOIN taskd.task AS b ON b.id = s.id" if wanted.key is not None else ""
        parts = [
            f"(SELECT {columns} FROM taskd.{table} AS s{body} WHERE {condition}{also} {end})"
            for table, columns, also in _sources(query, wanted)
        ]
        if not parts:
            return []
        columns = _BRIEF if wanted.is_brief else NEW_COLUMNS
        rows = self._read(
            f"SELECT {columns}, {RECORD} FROM ({' UNION ALL '.join(parts)}) AS f "
            f"JOIN taskd.task AS t ON t.id = f.id ORDER BY f.id {order} LIMIT {most}",
            *query.values,
        )
        return [record_of(row) for row in rows]

    def events(self, task: str, after: int, limit: int) -> list[Event]:
        """Return events of a task."""
        return [Event(*row) for row in self._read(EVENTS, task, after, limit)]

    def overdue(self, now: float, limit: int) -> Overdue:
        """Return tasks whose deadlines have passed."""
        rows = self._read(_OVERDUE, now, limit)
        return Overdue([task for (task,) in rows], self._read(_NEXT_DEADLINE, now)[0][0])

    def has_owners(self) -> bool:
        """Return whether any task has an owner."""
        return bool(self._read(f"SELECT {_HAS_OWNERS}")[0][0])

    def last_ticks(self) -> dict[str, LastTick]:
        """Return the last tick of each schedule."""
        rows = self._read("SELECT name, line, last FROM taskd.schedule")
        return {from_text(name) or "": LastTick(from_text(line) or "", at) for name, line, at in rows}

    def paused(self) -> list[str]:
        """Return the functions that are paused."""
        rows = self._read("SELECT function FROM taskd.paused ORDER BY function")
        return [from_text(function) or "" for (function,) in rows]

    def counts(self) -> dict[tuple[str, State], int]:
        """Return how many tasks there are."""
        return {(function, State(state)): count for function, state, count in self._read(_COUNTS)}

    def queued(self, limit: int) -> list[Queued]:
        """Return the `limit` largest counts of unfinished tasks, and all others as one."""
        rows = self._read(_QUEUED, limit)
        found = [
            Queued(function, from_text(owner), *counts) for function, owner, *counts in (r[:6] for r in rows)
        ]
        if not rows:
            return found
        rest = [total - sum(row[2 + n] for row in rows) for n, total in enumerate(rows[0][6:])]
        return [*found, Queued(None, None, *rest)] if any(rest) else found


def all_sources() -> Iterator[tuple[str, str]]:
    """Yield the columns of each table in which tasks are, and what is after FROM."""
    for table, state in (("later", "0"), ("ready", "1"), ("lease", _LEASE_STATE)):
        yield _COLUMNS.format(state=state), f"taskd.{table} AS s"
    yield _ENDED_COLUMNS.format(outcome="outcome"), "taskd.ended AS s"


def _sources(query: Query, wanted: Filter) -> Iterator[tuple[str, str, str]]:
    """Yield the tables in which tasks with these states are: name, columns, condition."""
    states = frozenset(State) if wanted.states is None else frozenset(wanted.states)
    if wanted.error is None:
        for state in sorted(states & _SOURCES.keys()):
            table, text, also = _SOURCES[state]
            yield table, _COLUMNS.format(state=text), also
        if State.WAITING in states:
            table, text, also = _CLAIMED
            yield table, _COLUMNS.format(state=text), also
    ended = sorted(states - _SOURCES.keys())
    columns = _ENDED_COLUMNS.format(outcome=_BRIEF_OUTCOME if wanted.is_brief else "outcome")
    error = ""
    if wanted.error is not None:
        error = f" AND state > 3 AND position({query.value(wanted.error, 'bytea')} IN outcome) > 0"
    if len(ended) == len(State) - len(_SOURCES):
        yield "ended", columns, error
    else:
        for state in ended:
            yield "ended", columns, f" AND state = {int(state)}{error}"


def _condition(query: Query, wanted: Filter, after: str) -> str:
    if wanted.newest:
        condition = f"s.id < {query.value(after or LAST, 'text')}"
    else:
        condition = f"s.id > {query.value(after, 'text')}"
    if wanted.function is not None:
        condition += f" AND s.function = {query.value(wanted.function, 'text')}"
    if wanted.batch is not None:
        condition += (
            f" AND s.batch = {query.value(wanted.batch, 'text')}" if wanted.batch else " AND s.batch IS NULL"
        )
    if wanted.key is not None:
        condition += f" AND b.key = {query.value(wanted.key, 'text')}"
    return condition + owned_by(query, wanted.owner) + id_like(query, wanted.like)


def owned_by(query: Query, owner: str | None) -> str:
    """Return the condition that something belongs to an owner, after others; None for any."""
    if owner is None:
        return ""
    # The indexes of owners leave out what belongs to nobody.
    return f" AND s.owner = {query.value(owner, 'text')}" + (" AND s.owner <> ''" if owner else "")


def id_like(query: Query, like: str | None) -> str:
    """Return the condition that an id begins or ends with a text, after others."""
    if like is None:
        return ""
    first, last = query.value(like, "text"), query.value(f"{like}\U0010ffff", "text")
    return f" AND (s.id >= {first} AND s.id < {last} OR right(s.id, {len(to_text(like))}) = {first})"
