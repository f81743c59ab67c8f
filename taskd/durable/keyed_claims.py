"""Claims for functions with a concurrency key: a few tasks of each key, so that none fills the window."""

from __future__ import annotations

from collections import Counter

from taskd.durable.limit_keys import NO_KEY
from taskd.store.base import KeyedWant
from taskd.store.records import Record

__all__ = ["PREFETCHED", "KeyedClaims"]

SPARE = 10_000
"""Claimed tasks that there may be beyond a full window, each the first of its key: so the task of one
owner waits for none of those of the others that have filled it."""

PREFETCHED = 16
"""Tasks of one key that are claimed beyond those that may run: enough for a store that answers in some ms."""


class KeyedClaims:
    """The claimed tasks of one function, counted by the `limit_key` that the store has for them.

    The store is asked for the tasks of single keys, when something has come or
    ended there; and now and then for those of all keys, in turns. `each` is how
    many of a key are claimed at most.

    A key is *open* if the store may have more of it than was claimed. It is
    asked for again once half of what was claimed is gone.

    With `is_limited` the store claims no more of a key than may run on all nodes. Then nothing is
    claimed beyond that, and it is asked again with the end of each task, since another node may have
    had the places before.
    """

    def __init__(self, each: int, *, is_limited: bool = False) -> None:
        self.each = each
        self.is_limited = is_limited
        self.is_unscanned = True
        """Whether there may be keys in the store of which nothing is known."""
        self.is_unscouted = False
        """Whether that is so since the last look at keys of which nothing is claimed."""
        self._has_unkeyed = True
        self._after = NO_KEY
        self._claimed: Counter[str | None] = Counter()
        self._open: set[str] = set()

    def look_again(self) -> None:
        """Note that any tasks may be in the store of which nothing is known."""
        self.is_unscanned = self.is_unscouted = self._has_unkeyed = True

    def count(self, key: str | None) -> None:
        """Count a task that was claimed before they were counted."""
        self._claimed[key] += 1

    def submitted(self, key: str, room: int, pending: object) -> KeyedWant | None:
        """Return what to want after a task of a key has come; None if nothing new.

        `room` is how many tasks may be claimed; `pending` is what is wanted and
        not taken yet, to which this is added if it is by key.
        """
        if self._claimed[key] >= self.each:
            self._open.add(key)
            return None
        return self._ask(key, room, pending)

    def _ask(self, key: str, room: int, pending: object) -> KeyedWant | None:
        if -SPARE < room <= 0 and not self._claimed[key]:
            if not isinstance(pending, KeyedWant):
                return KeyedWant(1, {key: 1})
            if pending.keys is not None and key not in pending.keys:
                pending.keys[key] = 1
                pending.count += 1
            return None
        if room <= 0:
            self.is_unscanned = True
            return None
        wanted = self.each - self._claimed[key]
        if wanted <= 0:
            self._open.add(key)
            return None
        if isinstance(pending, KeyedWant):
            if pending.keys is not None:
                pending.keys[key] = wanted
            return None  # else all keys are wanted, and this one with them
        return KeyedWant(room, {key: wanted})

    def scout(self, room: int) -> KeyedWant:
        """Return the want for one task of each key of which none is claimed, though there is little room."""
        self.is_unscouted = False
        return KeyedWant(room + SPARE, None, 1, dict(self._claimed), self._after, self._has_unkeyed)

    def scan(self, room: int) -> KeyedWant:
        """Return the want for all keys."""
        self.is_unscanned = self.is_unscouted = False
        self._open.update(
            key for key, count in self._claimed.items() if key is not None and count >= self.each
        )
        return KeyedWant(room, None, self.each, dict(self._claimed), self._after, self._has_unkeyed)

    def claimed(self, want: KeyedWant, records: list[Record], *, is_cut: bool) -> None:
        """Note what was claimed for a want; `is_cut` says that there may be more of what was wanted."""
        got = Counter(record.new.limit_key for record in records)
        self._claimed += got
        if want.keys is not None:
            asked = dict(want.keys)
        else:
            asked = {key: want.room(key) for key in got if key is not None}
            has_more = want.with_unkeyed and got[None] >= want.room(None)
            self._has_unkeyed = has_more or self.is_limited  # some may have been withheld
        self._open.update(key for key, count in asked.items() if got[key] >= count)
        if self.is_limited and want.keys is None and records:  # some keys may be left that would have room
            self._after = records[-1].new.limit_key or self._after
        if is_cut or len(records) >= want.count:
            self.is_unscanned = True
            last = next((each.new.limit_key for each in reversed(records) if each.new.limit_key), None)
            if want.keys is None and last is not None:
                self._after = last
                self._open.add(last)  # it may have been cut short

    def ending(self, key: str | None, room: int, pending: object) -> KeyedWant | None:
        """Return what to want in the transaction that ends a task, None if nothing new.

        Afterwards, `ended` has to be called as well.
        """
        if key is None:
            return self.scan(room) if room > 0 else None
        self._claimed[key] -= 1
        want = self._ask(key, room, pending)
        self._claimed[key] += 1
        return want

    def ended(self, key: str | None, room: int, pending: object, *, waits: bool) -> KeyedWant | None:
        """Note that a claimed task is not claimed any more; return what to want, None if nothing new.

        `waits` says that it waits in the store again.
        """
        self._claimed[key] -= 1
        if key is None:
            self._has_unkeyed |= waits
            if self._claimed[None] <= self.each // 2 and self._has_unkeyed:
                self.is_unscanned = True
            return None
        if self._claimed[key] <= 0:
            del self._claimed[key]
        if waits:
            self._open.add(key)
        is_asked = waits or (self._claimed[key] <= self.each // 2 and not self.is_limited)
        if key in self._open and is_asked:
            self._open.discard(key)
            return self._ask(key, room, pending)
        return None
