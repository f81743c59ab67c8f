"""The waiting tasks of each owner in the PostgreSQL store, counted when somebody asks.

There is no row that counts them, for which all commits of an owner would queue.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b

from taskd.store.postgres.literals import from_text, numbers, texts
from taskd.store.postgres.transaction import Transaction
from taskd.store.records import Allowance, Full

__all__ = ["Owners"]

_LOCK = "SELECT pg_advisory_xact_lock(key) FROM (SELECT unnest($1::bigint[]) AS key) AS keys"
_COUNT = """
SELECT owner, sum(count)::bigint, sum(size)::bigint FROM unnest($1::text[]) AS o(owner) CROSS JOIN LATERAL (
    SELECT count(*), sum(size) FROM taskd.later AS t WHERE t.owner = o.owner AND t.owner <> ''
    UNION ALL SELECT count(*), sum(size) FROM taskd.ready AS t WHERE t.owner = o.owner AND t.owner <> ''
    UNION ALL SELECT count(*), sum(size) FROM taskd.lease AS t
        WHERE t.owner = o.owner AND t.owner <> '' AND NOT started
    UNION ALL SELECT sum(unstored), sum(unstored_bytes) FROM taskd.batch AS t
        WHERE t.owner = o.owner AND t.owner <> '' AND unstored > 0
) AS each(count, size) GROUP BY owner
"""


class Owners:
    """The tasks of some owners that wait or are scheduled, and the bytes of their arguments.

    Until the transaction ends, no other one counts those of the same owners.
    """

    def __init__(self, transaction: Transaction, owners: Collection[str]) -> None:
        self._waiting: dict[str, tuple[int, int]] = {}
        if owners:
            transaction.execute(_LOCK, numbers(sorted(map(_lock_key, owners))))
            for owner, count, size in transaction.rows(_COUNT, texts(sorted(owners))):
                self._waiting[from_text(owner) or ""] = count or 0, size or 0

    def refusal(self, owner: str, allowance: Allowance | None, count: int, size: int) -> Full | None:
        """Return why so many more tasks with so many bytes must not wait, None if they may."""
        if allowance is None:
            return None
        waiting, taken = self._waiting[owner]
        return None if allowance.permits(waiting + count, taken + size) else Full(waiting, taken)

    def add(self, owner: str, count: int, size: int) -> None:
        """Count more tasks."""
        if owner in self._waiting:
            waiting, taken = self._waiting[owner]
            self._waiting[owner] = waiting + count, taken + size


def _lock_key(owner: str) -> int:
    """Return the key of the advisory lock of an owner."""
    return int.from_bytes(blake2b(b"taskd owner " + owner.encode(), digest_size=8).digest(), signed=True)
