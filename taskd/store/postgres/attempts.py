"""The attempts of stored tasks in the PostgreSQL store: their starts, their events and their ends.

Every statement matches the node and the attempt. If there is no such row, the
attempt is not the node's own any more: nothing is written. Rows are found by their ids,
however many the node has (hence `node + 0`, for which no index can be used).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from psycopg import RawCursor

from taskd.store.base import Changes, Own
from taskd.store.postgres.by_hand import cancel_asked
from taskd.store.postgres.ending import ENDED_AFTER
from taskd.store.postgres.literals import datas, flags, numbers, texts
from taskd.store.postgres.starts import NOTED
from taskd.store.postgres.transaction import Transaction
from taskd.store.records import UNFINISHED, Event, Settle, Start, State, first_seq

__all__ = ["write_attempts"]

_START = f"""
WITH begun AS (
    UPDATE taskd.lease AS l SET started = true, attempt = g.attempt, since = $4::float8, deadline = NULL,
        start_seq = greatest(l.last_seq + 1, g.first), last_seq = greatest(l.last_seq + 1, g.first)
    FROM unnest($1::text[], $2::int[], $3::bigint[]) AS g(id, attempt, first)
    WHERE l.id = g.id AND l.node + 0 = $5::int AND NOT l.started AND l.attempt = g.attempt - 1
    RETURNING l.id, l.start_seq, l.function, l.place, l.period, l.node
), noted AS ({NOTED.format(begun="begun")})
SELECT id, start_seq FROM begun
"""

_RUNNING = """
SELECT id, last_seq FROM taskd.lease WHERE id = ANY($1::text[]) AND node = $2::int AND started
ORDER BY id FOR UPDATE
"""
_SUPERSEDE = """
DELETE FROM taskd.event AS e USING unnest($1::text[], $2::bigint[]) AS g(task, seq)
WHERE e.task = g.task AND e.seq = g.seq AND e.event = 'progress'
"""
_LAST_SEQ = """
UPDATE taskd.lease AS l SET last_seq = g.seq FROM unnest($1::text[], $2::bigint[]) AS g(id, seq)
WHERE l.id = g.id
"""

_GIVEN = """
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::int[], $6::int[], $7::int[], $8::text[],
        $9::bytea[], $10::bytea[], $11::float8[], $12::boolean[], $13::boolean[]
    ) AS g(id, attempt, first, seq, state, is_error, is_loss, event, data, outcome, due, starts, waits)
), """
_SETTLED = """
    RETURNING t.id, t.function, t.owner, t.batch, g.state, g.attempt,
        t.errors + g.is_error AS errors, t.losses + g.is_loss AS losses,
        CASE WHEN g.due = 0 THEN $14::float8 ELSE g.due END AS due,
        g.outcome, t.keep, t.keyed, g.event, g.data"""
_END = f"""{_GIVEN}gone AS (
    DELETE FROM taskd.lease AS t USING given AS g
    WHERE t.id = g.id AND t.node + 0 = $15::int AND (
        (t.started AND t.attempt = g.attempt)
        OR (NOT t.started AND g.waits AND t.attempt = g.attempt)
        OR (NOT t.started AND g.starts AND t.attempt = g.attempt - 1)
    ){_SETTLED},
        CASE WHEN t.started THEN t.since WHEN t.attempt < g.attempt THEN $14::float8 END AS started,
        CASE WHEN t.started THEN t.start_seq
            WHEN t.attempt < g.attempt THEN greatest(t.last_seq + 1, g.first) END AS start_seq,
        greatest(
            t.last_seq + 1, g.first, g.seq,
            CASE WHEN t.attempt < g.attempt THEN greatest(t.last_seq + 1, g.first) + 1 END
        ) AS last_seq,
        t.attempt < g.attempt AS begun, t.place, t.period, t.node
), {ENDED_AFTER.format(now="$14")}, noted AS (
    {NOTED.format(begun="(SELECT * FROM gone WHERE begun) AS begun")}
)
SELECT id, begun, start_seq, last_seq FROM gone
"""
_END_UNCLAIMED = f"""{_GIVEN}gone AS (
    DELETE FROM taskd.ready AS t USING given AS g
    WHERE t.id = g.id AND t.attempt = g.attempt AND g.waits{_SETTLED},
        NULL::float8 AS started, NULL::bigint AS start_seq,
        greatest(t.last_seq + 1, g.first, g.seq) AS last_seq, false AS begun
), {ENDED_AFTER.format(now="$14")}
SELECT id, begun, start_seq, last_seq FROM gone
"""
_PLACE = """
    SELECT id, function, limit_key, priority, due, NULL, owner, batch, size, attempt, errors, losses,
        last_seq, keep, keyed FROM gone"""
_RETURN = f"""{_GIVEN}gone AS (
    DELETE FROM taskd.lease AS t USING given AS g
    WHERE t.id = g.id AND t.node + 0 = $15::int AND t.started AND t.attempt = g.attempt
    RETURNING t.id, t.function, t.limit_key, t.priority,
        CASE WHEN g.due = 0 THEN $14::float8 ELSE g.due END AS due, t.owner, t.batch, t.size, t.attempt,
        t.errors + g.is_error AS errors, t.losses + g.is_loss AS losses,
        greatest(t.last_seq + 1, g.first, g.seq) AS last_seq, t.keep, t.keyed,
        t.start_seq, t.since, t.cancelled, g.state, g.event, g.data
), scheduled AS (
    INSERT INTO taskd.later {_PLACE} WHERE state = 0
), waiting AS (
    INSERT INTO taskd.ready {_PLACE} WHERE state = 1
), begun AS (
    INSERT INTO taskd.event SELECT id, start_seq, 'started', since,
        convert_to('{{"attempt":' || attempt || '}}', 'UTF8') FROM gone
), ended AS (
    INSERT INTO taskd.event SELECT id, last_seq, event, $14::float8, data FROM gone
)
SELECT id, false, start_seq, last_seq, cancelled FROM gone
"""

Item = TypeVar("Item")


def write_attempts(transaction: Transaction, changes: Changes, now: float) -> Own:
    """Write the starts, events and settles of a batch; return which of them are of present attempts."""
    attempts = _Attempts(transaction, changes, now)
    attempts.write()
    return attempts.own


class _Attempts:
    def __init__(self, transaction: Transaction, changes: Changes, now: float) -> None:
        self._transaction = transaction
        self._changes = changes
        self._now = now
        self.own = Own(
            [False] * len(changes.starts), [False] * len(changes.events), [False] * len(changes.settles)
        )
        self._sent: list[Callable[[], None]] = []

    def write(self) -> None:
        starts, settles = self._changes.starts, self._changes.settles
        whole = self._whole()
        for places in _rounds(starts, lambda start: start.id):
            self._start([place for place in places if starts[place].id not in whole])
        if self._changes.events:
            self._read()  # since the logs have to be in the order of their numbers
            self._note()
        for places in _rounds(settles, lambda settle: settle.id):
            ends = [place for place in places if settles[place].state not in UNFINISHED]
            self._end(ends, whole)
            self._end_unclaimed([place for place in ends if settles[place].source is State.WAITING])
            self._return([place for place in places if settles[place].state in UNFINISHED])
        self._read()

    def _read(self) -> None:
        sent, self._sent = self._sent, []
        for read in sent:
            read()

    def _whole(self) -> dict[str, int]:
        """Return the places of the starts that are written with the ends of their attempts, by task."""
        starts, settles = self._changes.starts, self._changes.settles
        begun = {start.id: place for place, start in enumerate(starts)}
        ends = {settle.id: settle for settle in settles}
        if len(begun) < len(starts) or len(ends) < len(settles):
            return {}
        noted = {event.task for event in self._changes.events}
        return {
            task: place
            for task, place in begun.items()
            if (end := ends.get(task)) is not None
            and end.state not in UNFINISHED
            and end.attempt == starts[place].attempt
            and task not in noted
        }

    def _start(self, places: Sequence[int]) -> None:
        if not places:
            return
        places = sorted(places, key=lambda place: self._changes.starts[place].id)
        starts = [self._changes.starts[place] for place in places]
        cursor = self._transaction.execute(
            _START,
            texts([start.id for start in starts]),
            numbers([start.attempt for start in starts]),
            numbers([first_seq(start.attempt) for start in starts]),
            self._now,
            self._transaction.node,
        )

        def read() -> None:
            seqs = dict(cursor.fetchall())
            for place, start in zip(places, starts, strict=True):
                if start.id in seqs:
                    self.own.starts[place] = True
                    self._transaction.logged.append(self._started(start, seqs[start.id]))

        self._sent.append(read)

    def _started(self, start: Start, seq: int) -> Event:
        return Event(start.id, seq, "started", self._now, b'{"attempt":%d}' % start.attempt)

    def _note(self) -> None:
        events = self._changes.events
        tasks = sorted({event.task for event in events})
        rows = self._transaction.rows(_RUNNING, texts(tasks), self._transaction.node)
        last, own = dict(rows), self.own.events
        kept: dict[str, list[Event]] = {}
        superseded = []
        for place, event in enumerate(events):
            if event.seq <= last.get(event.task, event.seq):
                continue
            own[place] = True
            before = kept.setdefault(event.task, [])
            if event.event == "progress":
                if not before:
                    superseded.append((event.task, last[event.task]))
                elif before[-1].event == "progress":
                    before.pop()
            before.append(event)
            last[event.task] = event.seq
        if superseded:
            ids, seqs = zip(*superseded, strict=True)
            self._transaction.execute(_SUPERSEDE, texts(ids), numbers(seqs))
        if kept:
            self._transaction.execute(_LAST_SEQ, texts(list(kept)), numbers([last[task] for task in kept]))
            self._transaction.write_log([event for log in kept.values() for event in log])
        self._transaction.logged += [event for event, is_own in zip(events, own, strict=True) if is_own]

    def _end(self, places: Sequence[int], whole: dict[str, int]) -> None:
        cursor, settles = self._send(_END, places, whole)
        if cursor is not None:
            self._sent.append(lambda: self._settled(cursor.fetchall(), settles, whole))

    def _end_unclaimed(self, places: Sequence[int]) -> None:
        cursor, settles = self._send(_END_UNCLAIMED, places, {}, has_node=False)
        if cursor is not None:
            self._sent.append(lambda: self._settled(cursor.fetchall(), settles, {}))

    def _return(self, places: Sequence[int]) -> None:
        cursor, settles = self._send(_RETURN, places, {})
        if cursor is None:
            return

        def read() -> None:
            rows = cursor.fetchall()
            self._settled([row[:4] for row in rows], settles, {})
            if any(self._changes.settles[settles[row[0]]].state is State.WAITING for row in rows):
                self._transaction.wakes.is_any_waiting = True
            cancel_asked(self._transaction, [row[0] for row in rows if row[4]], self._now)

        self._sent.append(read)

    def _send(
        self, query: str, places: Sequence[int], whole: dict[str, int], *, has_node: bool = True
    ) -> tuple[RawCursor[Any] | None, dict[str, int]]:
        """Send the settles at these places; return the cursor and the places by task."""
        if not places:
            return None, {}
        places = sorted(places, key=lambda place: self._changes.settles[place].id)
        settles = [self._changes.settles[place] for place in places]
        cursor = self._transaction.execute(
            query,
            *_columns(settles),
            flags([settle.id in whole for settle in settles]),
            flags([settle.source is State.WAITING for settle in settles]),
            self._now,
            *([self._transaction.node] if has_node else []),
        )
        return cursor, {settle.id: place for place, settle in zip(places, settles, strict=True)}

    def _settled(self, rows: list[Any], places: dict[str, int], whole: dict[str, int]) -> None:
        """Note which settles were written: `rows` have id, whether it began with them, and the numbers."""
        logged = self._transaction.logged
        for task, begun, start_seq, seq in rows:
            if begun:
                place = whole[task]
                self.own.starts[place] = True
                logged.append(self._started(self._changes.starts[place], start_seq))
            place = places[task]
            self.own.settles[place] = True
            settle = self._changes.settles[place]
            logged.append(Event(task, seq, settle.event, self._now, settle.data))


def _columns(settles: Sequence[Settle]) -> list[str]:
    return [
        texts([settle.id for settle in settles]),
        numbers([settle.attempt for settle in settles]),
        numbers([first_seq(settle.attempt) for settle in settles]),
        numbers([settle.seq for settle in settles]),
        numbers([int(settle.state) for settle in settles]),
        numbers([int(settle.is_error) for settle in settles]),
        numbers([int(settle.is_loss) for settle in settles]),
        texts([settle.event for settle in settles]),
        datas([settle.data for settle in settles]),
        datas([settle.outcome for settle in settles]),
        numbers([settle.due for settle in settles]),
    ]


def _rounds(items: Sequence[Item], key: Callable[[Item], str]) -> Iterator[list[int]]:
    """Yield the places of items, so that a statement has no two with the same key, in their order."""
    left = list(range(len(items)))
    while left:
        seen: dict[str, int] = {}
        left = [place for place in left if seen.setdefault(key(items[place]), place) != place]
        yield list(seen.values())
