"""The attempts of stored tasks in the SQLite store: their starts, their events and their ends."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from taskd.store.base import Changes, Own
from taskd.store.records import ENDED, UNFINISHED, Event, Settle, Start, State, first_seq
from taskd.store.sqlite_bulk import FEW, MAX_TEXT, Value, column, rows_text
from taskd.store.sqlite_log import LoggingCursor

__all__ = ["write_attempts"]

_SUPERSEDE = (
    "DELETE FROM event WHERE task = ?1 AND event = 'progress' "
    "AND seq = (SELECT max(seq) FROM event WHERE task = ?1)"
)
_START_VALUES = "UPDATE task SET state = 2, attempt = ?1, last_seq = "
_START_WHERE = " WHERE id = ?3 AND state = 1 AND attempt = ?1 - 1"
_SETTLE_VALUES = (
    "UPDATE task SET claimed = 0, state = ?2, errors = errors + ?3, losses = losses + ?4, due = ?5, "
    "ended = ?6, outcome = ?7, last_seq = "
)
_SETTLE_WHERE = " WHERE id = ?8 AND state IN (?9, ?10) AND attempt = ?11"
# The sequence number is nearly always the given one; having it returned costs half as much again.
_START = f"{_START_VALUES} ?2 {_START_WHERE} AND last_seq < ?2"
_START_NUMBERED = f"{_START_VALUES} max(last_seq + 1, ?2) {_START_WHERE} RETURNING last_seq"
_SETTLE = f"{_SETTLE_VALUES} ?1 {_SETTLE_WHERE} AND last_seq < ?1"
_SETTLE_NUMBERED = f"{_SETTLE_VALUES} max(last_seq + 1, ?1) {_SETTLE_WHERE} RETURNING last_seq"

# Those of many tasks in one statement each.
_ROWS = ", ".join(
    f"{column(place)} AS {name}"
    for place, name in enumerate(
        ("id", "attempt", "first", "state", "seq", "errors", "losses", "ends", "outcome", "source")
    )
)
_FROM = f" FROM (SELECT {_ROWS} FROM json_each(:rows)) AS one WHERE task.id = one.id"
_ENDS = (
    "UPDATE task SET claimed = 0, state = one.state, errors = task.errors + one.errors, "
    "losses = task.losses + one.losses, due = :now, ended = iif(one.ends, :now, NULL), "
    "outcome = CAST(one.outcome AS BLOB), last_seq = one.seq"
)
_START_ALL = (
    f"UPDATE task SET state = 2, attempt = one.attempt, last_seq = one.first{_FROM} "
    "AND task.state = 1 AND task.attempt = one.attempt - 1 AND task.last_seq < one.first"
)
_SETTLE_ALL = (
    f"{_ENDS}{_FROM} AND task.state IN (2, one.source) AND task.attempt = one.attempt "
    "AND task.last_seq < one.seq"
)
_BOTH_ALL = (
    f"{_ENDS}, attempt = one.attempt{_FROM} "
    "AND task.state = 1 AND task.attempt = one.attempt - 1 AND task.last_seq < one.first"
)


def write_attempts(cursor: LoggingCursor, changes: Changes, now: float) -> Own:
    """Write the starts, events and settles of a batch; return which of them are of present attempts."""
    if len(changes.starts) + len(changes.settles) > FEW:
        count = len(cursor.logged)
        cursor.execute("SAVEPOINT attempts")
        together = _Together(cursor, changes, now)
        # A function may return JSON text of its own (`msgspec.Raw`), which need not be UTF-8.
        with suppress(UnicodeDecodeError):
            if together.write():
                cursor.execute("RELEASE attempts")
                return together.own
        cursor.execute("ROLLBACK TO attempts")
        cursor.execute("RELEASE attempts")
        cursor.forget(count)
    return Own(
        [_start(cursor, start, now) for start in changes.starts],
        [_note(cursor, event) for event in changes.events],
        [_settle(cursor, settle, now) for settle in changes.settles],
    )


class _Together:
    """Writes all starts in one statement, all ends in another, and attempts that begin and end in a third."""

    def __init__(self, cursor: LoggingCursor, changes: Changes, now: float) -> None:
        self._cursor = cursor
        self._starts, self._events, self._settles = changes.starts, changes.events, changes.settles
        self._now = now
        self.own = Own([True] * len(self._starts), [True] * len(self._events), [True] * len(self._settles))

    def write(self) -> bool:
        """Return whether all starts and ends were written: of present attempts, with the given numbers."""
        cursor, now = self._cursor, self._now
        begun = {start.id: start for start in self._starts}
        ends = {settle.id: settle for settle in self._settles}
        if len(begun) < len(self._starts) or len(ends) < len(self._settles):
            return False
        noted = {event.task for event in self._events}
        whole = [end for id_, end in ends.items() if id_ in begun and id_ not in noted and _is_plain(end)]
        if any(begun.pop(end.id).attempt != end.attempt for end in whole):
            return False
        for start in self._starts:
            _log_start(cursor, start, first_seq(start.attempt), now)
        if not (
            self._write_all(_BOTH_ALL, [_end_row(end) for end in whole])
            and self._write_all(_START_ALL, [_start_row(start) for start in begun.values()])
        ):
            return False
        self.own.events = [_note(cursor, event) for event in self._events]
        for end in whole:
            del ends[end.id]
        plain = [end for end in ends.values() if _is_plain(end)]
        if not self._write_all(_SETTLE_ALL, [_end_row(end) for end in plain]):
            return False
        for end in (*whole, *plain):
            cursor.log(end.id, end.seq, end.event, now, end.data)
        return all(_settle(cursor, end, now) for end in ends.values() if not _is_plain(end))

    def _write_all(self, statement: str, rows: Sequence[Sequence[Value]]) -> bool:
        """Write these rows; return whether there was a task for each of them."""
        values = {"rows": rows_text(rows), "now": self._now}
        return not rows or self._cursor.execute(statement, values).rowcount == len(rows)


def _is_plain(end: Settle) -> bool:
    """Return whether the end of an attempt can be written with others."""
    return (
        not end.due
        and (end.outcome is None or len(end.outcome) <= MAX_TEXT)
        and end.seq > first_seq(end.attempt)
    )


def _start_row(start: Start) -> Sequence[Value]:
    return start.id, start.attempt, first_seq(start.attempt)


def _end_row(end: Settle) -> Sequence[Value]:
    return (
        *(end.id, end.attempt, first_seq(end.attempt), end.state, end.seq, int(end.is_error)),
        *(
            int(end.is_loss),
            int(end.state in ENDED),
            None if end.outcome is None else end.outcome.decode(),
            end.source,
        ),
    )


def _start(cursor: LoggingCursor, start: Start, now: float) -> bool:
    attempt, seq = start.attempt, first_seq(start.attempt)
    if not cursor.execute(_START, (attempt, seq, start.id)).rowcount:
        row = cursor.execute(_START_NUMBERED, (attempt, seq, start.id)).fetchone()
        if row is None:
            return False
        seq = row[0]
    _log_start(cursor, start, seq, now)
    return True


def _log_start(cursor: LoggingCursor, start: Start, seq: int, now: float) -> None:
    cursor.log(start.id, seq, "started", now, b'{"attempt":%d}' % start.attempt)


def _note(cursor: LoggingCursor, event: Event) -> bool:
    changed = cursor.execute(
        "UPDATE task SET last_seq = ?1 WHERE id = ?2 AND state = 2 AND last_seq < ?1", (event.seq, event.task)
    ).rowcount
    if changed:
        if event.event == "progress":
            cursor.flush()
            cursor.execute(_SUPERSEDE, (event.task,))
        cursor.log(event.task, event.seq, event.event, event.at, event.data)
    return bool(changed)


def _settle(cursor: LoggingCursor, settle: Settle, now: float) -> bool:
    values = (
        *(settle.seq, int(settle.state), settle.is_error, settle.is_loss, settle.due or now),
        *(None if settle.state in UNFINISHED else now, settle.outcome, settle.id),
        *(int(State.RUNNING), int(settle.source), settle.attempt),
    )
    seq = settle.seq
    if not cursor.execute(_SETTLE, values).rowcount:
        row = cursor.execute(_SETTLE_NUMBERED, values).fetchone()
        if row is None:
            return False
        seq = row[0]
    cursor.log(settle.id, seq, settle.event, now, settle.data)
    return True
