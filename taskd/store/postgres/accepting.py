"""New tasks in the PostgreSQL store: their keys and tokens, their owners' allowances, and their places."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from taskd.store.postgres.literals import datas, flags, from_text, numbers, optional_texts, texts
from taskd.store.postgres.owners import Owners
from taskd.store.postgres.transaction import Retry, Transaction
from taskd.store.records import Accepted, Allowance, Event, Full, New, Record, State, Tick

__all__ = ["KEY", "TOKEN", "Unique", "accept", "hold_unique", "known_of", "tick"]

KEY, TOKEN = "k", "t"
"""The kinds of rows in `uniq`."""

Unique = tuple[str, str, str, str]
"""Kind, owner, function and value of a row in `uniq`."""

_KNOWN = """
SELECT u.kind::text, u.owner, u.function, u.value, u.id
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS n(kind, owner, function, value)
JOIN taskd.uniq AS u
    ON u.kind = n.kind::"char" AND u.owner = n.owner AND u.function = n.function AND u.value = n.value
"""
_HOLD = """
INSERT INTO taskd.uniq (kind, owner, function, value, id)
SELECT n.kind::"char", n.owner, n.function, n.value, n.id
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS n(kind, owner, function, value, id)
ON CONFLICT DO NOTHING RETURNING id
"""
_PLACE = """
    SELECT id, function, limit_key, priority, due, deadline, owner, batch, coalesce(length(args), 0),
        0, 0, 0, 1, keep, key IS NOT NULL"""
_ADD = f"""
WITH new AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::int[], $6::float8[], $7::float8[], $8::text[],
        $9::text[], $10::text[], $11::float8[], $12::boolean[], $13::text[], $14::text[], $15::float8[],
        $16::int[]
    ) AS n(id, function, args, options, priority, wanted, deadline, key, token, batch, keep, fixed, limit_key,
        owner, due, place)
), body AS (
    INSERT INTO taskd.task
    SELECT id, function, args, options, priority, wanted, deadline, key, token, batch, keep, fixed, limit_key,
        owner, $17::float8
    FROM new
), scheduled AS (
    INSERT INTO taskd.later {_PLACE} FROM new WHERE place = 0
), waiting AS (
    INSERT INTO taskd.ready {_PLACE} FROM new WHERE place = 1
)
INSERT INTO taskd.lease {_PLACE}, $18::int, $19::bigint FROM new WHERE place = 2
"""
_LEASED = 2

_TICK = """
INSERT INTO taskd.schedule AS s VALUES ($1::text, $2::text, $3::float8)
ON CONFLICT (name) DO UPDATE SET line = $2::text, last = $3::float8
WHERE s.line <> $2::text OR s.last < $3::float8
RETURNING 1
"""


@dataclass(slots=True)
class _Accepting:
    """What is being accepted together."""

    known: dict[Unique, str]
    added: list[New] = field(default_factory=list)
    held: list[tuple[Unique, str]] = field(default_factory=list)

    def joined(self, new: New) -> str | None:
        """Return the task that a new one joins, None if it joins none."""
        return next((self.known[each] for each in _unique(new) if each in self.known), None)

    def add(self, new: New) -> None:
        self.added.append(new)
        for each in _unique(new):
            self.known[each] = new.id
            self.held.append((each, new.id))


def accept(
    transaction: Transaction,
    news: Sequence[New],
    now: float,
    allowances: Mapping[str, Allowance],
    at_once: Mapping[str, list[Record]],
) -> list[Accepted | Full]:
    """Accept new tasks as far as their owners have room. Raises `Retry`.

    Those of the functions in `at_once` that wait are claimed, and added to the lists there.
    """
    if not news:
        return []
    owners = Owners(transaction, {new.owner for new in news if new.id in allowances})
    accepting = _Accepting(known_of(transaction, {each for new in news for each in _unique(new)}))
    answers: list[Accepted | Full] = []
    for new in news:
        joined = accepting.joined(new)
        if joined is not None:
            answers.append(Accepted(joined, joined=True))
            continue
        size = len(new.args or b"")
        full = owners.refusal(new.owner, allowances.get(new.id), 1, size)
        if full is not None:
            answers.append(full)
            continue
        owners.add(new.owner, 1, size)
        accepting.add(new)
        answers.append(Accepted(new.id))
    if hold_unique(transaction, accepting.held) < len(accepting.held):
        raise Retry
    _add(transaction, accepting.added, now, at_once)
    return answers


def tick(transaction: Transaction, ticks: Sequence[Tick], now: float) -> list[Accepted | None]:
    """Note ticks, and store the tasks of those that are new. Raises `Retry`."""
    passed = [transaction.execute(_TICK, each.name, each.line, each.at) for each in ticks]
    news = {
        place: each.new
        for place, (each, cursor) in enumerate(zip(ticks, passed, strict=True))
        if cursor.fetchall() and each.new is not None
    }
    accepted = dict(zip(news, accept(transaction, list(news.values()), now, {}, {}), strict=True))
    answers = [accepted.get(place) for place in range(len(ticks))]
    return [each if isinstance(each, Accepted) else None for each in answers]


def hold_unique(transaction: Transaction, held: Sequence[tuple[Unique, str]]) -> int:
    """Note which tasks have keys and tokens; return of how many that could be noted."""
    if not held:
        return 0
    held = sorted(held)  # in the order in which every node locks them
    columns = [list(column) for column in zip(*(each for each, _ in held), strict=True)]
    return len(transaction.rows(_HOLD, *map(texts, columns), texts([task for _, task in held])))


def _unique(new: New) -> Iterable[Unique]:
    """Yield what no other task may have in common with a new one; the token, which joins any, first."""
    if new.token is not None:
        yield TOKEN, new.owner, "", new.token
    if new.key is not None:
        yield KEY, new.owner, new.function, new.key


def known_of(transaction: Transaction, wanted: Collection[Unique]) -> dict[Unique, str]:
    """Return which of these keys and tokens are taken, and by which tasks or batches."""
    if not wanted:
        return {}
    columns = [list(column) for column in zip(*wanted, strict=True)]
    rows = transaction.rows(_KNOWN, *map(texts, columns))
    return {
        (kind, from_text(owner) or "", from_text(function) or "", from_text(value) or ""): task
        for kind, owner, function, value, task in rows
    }


def _add(
    transaction: Transaction, news: Sequence[New], now: float, at_once: Mapping[str, list[Record]]
) -> None:
    if not news:
        return
    places, dues = [], []
    for new in news:
        due = max(new.due, now)
        place = int(State.SCHEDULED if new.due > now else State.WAITING)
        if place == State.WAITING and new.function in at_once:
            at_once[new.function].append(Record(new, State.WAITING, now, due=due, last_seq=1))
            place = _LEASED
        elif place == State.WAITING:
            transaction.wakes.waiting[new.id] = new.function
        places.append(place)
        dues.append(due)
    transaction.execute(
        _ADD,
        texts([new.id for new in news]),
        texts([new.function for new in news]),
        datas([new.args for new in news]),
        datas([new.options for new in news]),
        numbers([new.priority for new in news]),
        numbers([new.due for new in news]),
        numbers([new.deadline for new in news]),
        optional_texts([new.key for new in news]),
        optional_texts([new.token for new in news]),
        optional_texts([new.batch for new in news]),
        numbers([new.keep for new in news]),
        flags([new.is_fixed for new in news]),
        optional_texts([new.limit_key for new in news]),
        texts([new.owner for new in news]),
        numbers(dues),
        numbers(places),
        now,
        transaction.node,
        transaction.turn,
    )
    transaction.logged += [Event(new.id, 1, "queued", now) for new in news]
