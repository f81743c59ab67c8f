"""The records for operators in the PostgreSQL store: history and audit log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from taskd.store.audit import KEPT_ENTRIES, AuditEntry
from taskd.store.audit import KEPT_SECONDS as AUDIT_SECONDS
from taskd.store.history import ALL, KEPT_SECONDS, Figures, HistoryRow
from taskd.store.postgres.literals import datas, numbers, texts
from taskd.store.postgres.reading import Query, Read
from taskd.store.postgres.transaction import Transaction

__all__ = ["PostgresAudit", "PostgresHistory"]

_LOCK_HISTORY = "SELECT pg_advisory_xact_lock(x'7461736b68697374'::bigint)"  # "taskhist" in ASCII
_FIGURES = """
SELECT h.seconds, h.at, h.function, h.figures
FROM unnest($1::int[], $2::bigint[], $3::text[]) AS g(seconds, at, function)
JOIN taskd.history AS h ON h.seconds = g.seconds AND h.at = g.at AND h.function = g.function
"""
_KEEP = """
INSERT INTO taskd.history SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bytea[])
ON CONFLICT (seconds, at, function) DO UPDATE SET figures = excluded.figures
"""
_FORGET = "DELETE FROM taskd.history WHERE seconds = $1::int AND at < $2::float8"

_ENTER = """
INSERT INTO taskd.audit (at, owner, action, entry)
SELECT at, owner, action, entry
FROM unnest($1::float8[], $2::text[], $3::text[], $4::bytea[])
    WITH ORDINALITY AS e(at, owner, action, entry, n)
ORDER BY n
"""
_TOO_MANY = "DELETE FROM taskd.audit WHERE number <= (SELECT max(number) FROM taskd.audit) - $1::bigint"
_TOO_OLD = """
DELETE FROM taskd.audit WHERE at < $1::float8
    AND (SELECT at FROM taskd.audit ORDER BY number LIMIT 1) < $1::float8
"""

Run = Callable[[Callable[[Transaction], Any]], Any]

_figures = msgspec.json.Decoder(Figures)
_entry = msgspec.json.Decoder(AuditEntry)


class PostgresHistory:
    """Keeps the history in a database. Implements `taskd.store.history.HistoryStore`."""

    def __init__(self, run: Run, read: Read) -> None:
        self._run = run
        self._read = read

    def add(self, rows: Sequence[HistoryRow], now: float) -> None:
        """Add figures, and forget what is too old. Raises `StoreError`."""
        sums: dict[tuple[int, int, str], Figures] = {}
        for row in rows:
            key = (row.seconds, row.at, row.function)
            sums[key] = row.figures if key not in sums else sums[key] + row.figures

        def add(transaction: Transaction) -> None:
            if sums:
                transaction.execute(_LOCK_HISTORY)  # other nodes add to the same rows
                _add_figures(transaction, sums)
            for seconds, kept in KEPT_SECONDS.items():
                transaction.execute(_FORGET, seconds, now - kept)

        self._run(add)

    def read(self, seconds: int, function: str | None, since: float, limit: int) -> list[HistoryRow]:
        """Return rows, the oldest first. Raises `StoreError`."""
        which = "<>" if function is None else "="
        rows = self._read(
            "SELECT at, function, figures FROM taskd.history WHERE seconds = $1::int AND at >= $2::float8 "
            f"AND function {which} $3::text ORDER BY at DESC, function DESC LIMIT $4::int",
            *(seconds, since, ALL if function is None else function, limit),
        )
        return [
            HistoryRow(seconds, at, name, _figures.decode(figures)) for at, name, figures in reversed(rows)
        ]


def _add_figures(transaction: Transaction, sums: dict[tuple[int, int, str], Figures]) -> None:
    keys = sorted(sums)
    seconds, ats, functions = zip(*keys, strict=True)
    columns = numbers(seconds), numbers(ats), texts(functions)
    known = {tuple(key): _figures.decode(figures) for *key, figures in transaction.rows(_FIGURES, *columns)}
    figures = [known[key] + sums[key] if key in known else sums[key] for key in keys]
    transaction.execute(_KEEP, *columns, datas([msgspec.json.encode(each) for each in figures]))


class PostgresAudit:
    """Keeps the audit log in a database. Implements `taskd.store.audit.AuditStore`."""

    def __init__(self, run: Run, read: Read) -> None:
        self._run = run
        self._read = read

    def add(self, entries: Sequence[AuditEntry], now: float) -> None:
        """Add entries, and forget what is too old or too much. Raises `StoreError`."""

        def add(transaction: Transaction) -> None:
            if entries:
                transaction.execute(
                    _ENTER,
                    numbers([each.at for each in entries]),
                    texts([each.owner for each in entries]),
                    texts([each.action for each in entries]),
                    datas([msgspec.json.encode(each) for each in entries]),
                )
            transaction.execute(_TOO_MANY, KEPT_ENTRIES)
            transaction.execute(_TOO_OLD, now - AUDIT_SECONDS)

        self._run(add)

    def read(
        self, before: int | None, limit: int, owner: str | None = None, action: str | None = None
    ) -> list[AuditEntry]:
        """Return entries, the newest first. Raises `StoreError`."""
        query = Query()
        conditions = ["true"]
        for condition, value, kind in (
            ("number <", before, "bigint"),
            ("owner =", owner, "text"),
            ("action =", action, "text"),
        ):
            if value is not None:
                conditions.append(f"{condition} {query.value(value, kind)}")
        rows = self._read(
            f"SELECT number, entry FROM taskd.audit WHERE {' AND '.join(conditions)} "
            f"ORDER BY number DESC LIMIT {query.value(limit, 'int')}",
            *query.values,
        )
        return [replace(_entry.decode(entry), number=number) for number, entry in rows]
