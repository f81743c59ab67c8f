"""The window of claimed tasks: how many of each function this node has, and when it claims more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from twisted.internet.interfaces import IReactorTime

from taskd.durable.keyed_claims import SPARE
from taskd.durable.later_wants import LaterWants
from taskd.durable.limiter import Limiter
from taskd.durable.pace import Pace
from taskd.durable.writer import StoreWriter
from taskd.store.base import CLAIM_BYTES, KeyedWant, Want
from taskd.store.records import Record

__all__ = ["WINDOW", "Window"]

WINDOW = 10_000
"""Waiting tasks of each function that are in the scheduler's queue; the others are in the store alone."""

WINDOW_BYTES = 64 * 1024 * 1024
"""Bytes of the arguments of these tasks: no more are claimed above that, and again below half of it."""

FIRST_WINDOW = 500
"""Waiting tasks of each function that are claimed at first: 20 ms, so that the first starts soon."""


class Window:
    """Counts the claimed tasks of each function, and wants more from the store when there is room.

    `may_claim` returns whether tasks of a function may be claimed now.
    """

    def __init__(
        self, clock: IReactorTime, writer: StoreWriter, limiter: Limiter, may_claim: Callable[[str], bool]
    ) -> None:
        self._writer = writer
        writer.limit = limiter.limit
        writer.again = LaterWants(clock, self._again).add
        self._limiter = limiter
        self._may_claim = may_claim
        self._claimed: dict[str, int] = {}
        self._total = 0
        self._bytes: Counter[str] = Counter()
        self._has_backlog: set[str] = set()
        self.pace: Pace | None = None
        """What bounds the tasks that are claimed ahead, if other nodes could run them."""

    @property
    def size(self) -> int:
        """The number of tasks of a function that may be claimed; if other nodes could run them, of all."""
        return WINDOW if self.pace is None else min(self.pace.size, WINDOW)

    def claimed_of(self, function: str) -> int:
        """Return how many tasks of a function are claimed."""
        return self._claimed.get(function, 0)

    def look_everywhere(self, functions: Iterable[str]) -> None:
        """Claim tasks of these functions, of which the store may have some that are not known here."""
        for function in functions:
            self._has_backlog.add(function)
            claims = self._limiter.claims(function)
            if claims is not None:
                claims.look_again()
            self._refill(function)

    def stored(self, function: str) -> None:
        """Note that there is a task in the store which has not been claimed together with its submit."""
        self._has_backlog.add(function)

    def claim(self, function: str, key: str | None = None) -> None:
        """Claim the waiting tasks of a function, since one has come, with this limit key; None for any."""
        claims, room = self._limiter.claims(function), self._room(function)
        if claims is None or key is None:
            if claims is not None:
                claims.look_again()
            self._refill(function, new_too=True)
        elif claims.is_unscanned and room >= self.size // 2:
            self._refill(function)
        elif self._may_claim(function):
            self._want(function, claims.submitted(key, room, self._writer.wants.get(function)))

    def _refill(self, function: str, *, new_too: bool = False) -> None:
        """Claim waiting tasks of a function, if there is room for many, or, with `new_too`, for any."""
        if not self._may_claim(function):
            return
        claims, room = self._limiter.claims(function), self._room(function)
        if claims is not None:
            if claims.is_unscanned and room >= self.size // 2:
                self._writer.want(function, claims.scan(room))
            elif claims.is_unscouted and room > -SPARE and function not in self._writer.wants:
                self._writer.want(function, claims.scout(room))
        elif room > 0 and (new_too or (function in self._has_backlog and self._has_much_room(function))):
            first = FIRST_WINDOW if self.pace is None else room
            self._writer.want(function, room if function in self._claimed else first)

    def _room(self, function: str) -> int:
        """Return how many tasks of a function may be claimed. With a limit key, held ones take no room."""
        claimed = self.claimed_of(function)
        if self._limiter.is_limited(function) and self._limiter.claims(function) is not None:
            claimed -= self._limiter.held(function)
        elif self._bytes[function] >= WINDOW_BYTES:
            return -WINDOW
        if self.pace is not None:  # one of each function all the same, so that none waits for the others
            return max(self.size - self._total, 1 - claimed)
        return self.size - claimed

    def _has_much_room(self, function: str) -> bool:
        if self.pace is not None and self.pace.is_slow:
            return True
        return self.claimed_of(function) <= self.size // 2 and self._bytes[function] <= WINDOW_BYTES // 2

    def _want(self, function: str, want: KeyedWant | None) -> None:
        if want is not None:
            self._writer.want(function, want)

    def _again(self, function: str, want: Want) -> None:
        """Ask for what a limit has withheld, unless something else is wanted, or any key."""
        if not isinstance(want, KeyedWant) or want.keys is None or function in self._writer.wants:
            self.claim(function)
        elif self._may_claim(function) and (room := self._room(function)) > 0:
            self._writer.want(function, KeyedWant(room, want.keys))

    # --- claimed tasks ---

    def answered(self, records: list[Record], wants: Mapping[str, Want]) -> list[Record]:
        """Note what was claimed, and return it; `enter` follows for each.

        What the store has under another key than that of its limit is let go again, to be claimed by that.
        """
        if misplaced := {each.new.id: each.new for each in records if self._limiter.is_misplaced(each.new)}:
            records = [record for record in records if record.new.id not in misplaced]
        self._count(records, wants)
        for task, new in misplaced.items():
            key = self._limiter.key(new.function, new.args, new.owner)
            self._writer.move_to(key, task)
            self.claim(new.function, key)
        return records

    def _count(self, records: list[Record], wants: Mapping[str, Want]) -> None:
        counts = Counter([record.new.function for record in records])
        sizes: Counter[str] = Counter()
        for record in records:
            sizes[record.new.function] += _size(record)
        for function, want in wants.items():
            is_cut = sizes[function] >= CLAIM_BYTES
            self._limiter.claimed(function, want, records, is_cut=is_cut)
            if isinstance(want, KeyedWant):
                continue
            if counts[function] < want and not is_cut:
                self._has_backlog.discard(function)
            else:
                self._has_backlog.add(function)

    def look_at_more(self, wants: Mapping[str, Want]) -> None:
        """Claim tasks of more keys, since those that are held leave room for them."""
        for function, want in wants.items():
            if isinstance(want, KeyedWant):
                self._refill(function)

    def enter(self, record: Record) -> None:
        """Count a claimed task."""
        self._total += 1
        self._claimed[record.new.function] = self.claimed_of(record.new.function) + 1
        self._bytes[record.new.function] += _size(record)

    def ending(self, record: Record) -> None:
        """Claim what may start in place of a task in the transaction that ends it, if the store knows that.

        `leave` follows after it.
        """
        function = record.new.function
        limit = self._limiter.limit(function)
        if limit is None or not self._may_claim(function):
            return
        claims, room = self._limiter.claims(function), self._room(function) + 1
        if claims is not None and limit.by_key:
            pending = self._writer.wants.get(function)
            self._want(function, claims.ending(record.new.limit_key, room, pending))
        elif room > 0:  # whoever owns the next one
            self._writer.want(function, room if claims is None else claims.scan(room))

    def leave(self, record: Record, *, waits: bool) -> None:
        """Count a task no more: it has ended, or waits in the store again."""
        function = record.new.function
        self._total -= 1
        self._claimed[function] -= 1
        if self.pace is not None and not waits:
            self.pace.ended()
        self._bytes[function] -= _size(record)
        claims = self._limiter.claims(function)
        if claims is not None:
            pending = self._writer.wants.get(function)
            want = claims.ended(record.new.limit_key, self._room(function), pending, waits=waits)
            if self._may_claim(function):
                self._want(function, want)
        if waits:
            self._has_backlog.add(function)
        self._refill(function)


def _size(record: Record) -> int:
    return len(record.new.args or b"")
