"""The limits of all functions: holds claimed tasks until they may be started, and knows what to claim."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf

from twisted.internet.interfaces import IReactorTime

from taskd.durable.keyed_claims import PREFETCHED, KeyedClaims
from taskd.durable.late_tasks import LateTasks
from taskd.durable.limit_keys import key_reader, share_key
from taskd.durable.limits import Hold, Limits
from taskd.durable.run import Run
from taskd.functions.durability import Durability, Rate
from taskd.functions.registry import FunctionInfo
from taskd.net.timers import Alarm, TurnEnd
from taskd.store.base import KeyedWant, Limit, Want
from taskd.store.records import New, Record, State

__all__ = ["Limiter"]

OWNERS_TASKS = 200
"""Tasks of one owner and function that are claimed at once, if it has no concurrency key: enough for a
store that answers in some ms, and so few that fifty owners with any number of tasks leave room for others."""


@dataclass(slots=True)
class _Limited:
    """One function that has limits; `terms` are what they depend on, and `claims` is None without a key."""

    terms: tuple[int | None, Rate | None, str | None, tuple[str, ...]]
    limits: Limits
    claims: KeyedClaims | None
    key_of: Callable[[bytes | None], str] = field(repr=False)
    limit: Limit


class Limiter:
    """Holds the claimed tasks of functions with limits.

    `give` gives one to the task server, `expire` ends one that is held until its deadline.
    Functions without limits cost one look into a dictionary.
    """

    def __init__(
        self,
        clock: IReactorTime,
        give: Callable[[Run], object],
        expire: Callable[[Run], object],
        window: int,
    ) -> None:
        self._clock = clock
        self._give = give
        self._late = LateTasks(clock, self._is_held, expire)
        self._window = window
        self._functions: dict[str, _Limited] = {}
        self._by_owner: dict[str, KeyedClaims] = {}
        """Of functions without a concurrency key whose tasks have owners."""
        self._changed: dict[str, None] = {}
        self._turn_end = TurnEnd(clock)
        self._alarm = Alarm(clock, self._rang)
        self._is_closed = False
        self.is_shared = False
        """Whether the limits hold over several nodes, so that their store claims no more than may start.
        Set this before `use`."""

    # --- the app ---

    def use(self, functions: Iterable[FunctionInfo], runs: Iterable[Run]) -> None:
        """Hold the tasks of these functions to their limits from now on; `runs` are the claimed ones."""
        old, self._functions = self._functions, {}
        for each in functions:
            durable = each.durable
            if durable is not None and (durable.concurrency is not None or durable.rate is not None):
                self._functions[each.name] = self._limited(each, durable, old.get(each.name))
        self._by_owner = {
            name: claims for name, claims in self._by_owner.items() if not self._has_own_claims(name)
        }
        for name, claims in self._by_owner.items():
            claims.is_limited = self.limit(name) is not None
        changed = {
            name
            for name in old.keys() | self._functions.keys()
            if old.get(name) is not self._functions.get(name)
        }
        for run in runs:
            function = run.record.new.function
            if function in changed:
                limited = self._functions.get(function)
                if limited is not None:
                    _add(limited, run)
                elif run.task is None and any(each.name == function for each in functions):
                    self._give(run)
        for name in changed & self._functions.keys():
            self._see_to(name)

    def _limited(self, function: FunctionInfo, durable: Durability, old: _Limited | None) -> _Limited:
        """Return the limits of a function: the old ones if nothing has changed."""
        terms = (durable.concurrency, durable.rate, durable.concurrency_key, tuple(function.parameters))
        if old is not None and old.terms == terms:
            return old
        key_of = key_reader(durable.concurrency_key, function.parameters)
        limits = Limits(durable.concurrency, durable.rate, key_of)
        if old is not None and old.terms[2] == durable.concurrency_key:
            limits.keep_starts(old.limits)
        claims = None
        if durable.concurrency_key is not None:
            most = self._window // 2
            if not self.is_shared:
                most = min(2 * (durable.concurrency or 0) + PREFETCHED, most)
            claims = KeyedClaims(most, is_limited=self.is_shared)
        return _Limited(terms, limits, claims, key_of, _limit_of(durable))

    # --- claims ---

    def key(self, function: str, args: bytes | None, owner: str = "") -> str | None:
        """Return with which tasks of a function one with these arguments shares its turn in being claimed.

        This is the value of the function's concurrency key with the owner, None if there is neither.
        """
        limited = self._functions.get(function)
        return share_key(owner, None if limited is None or limited.claims is None else limited.key_of(args))

    def claims(self, function: str) -> KeyedClaims | None:
        """Return what is claimed of each key of a function, None if it has neither a key nor owners."""
        limited = self._functions.get(function)
        if limited is not None and limited.claims is not None:
            return limited.claims
        return self._by_owner.get(function)

    def _has_own_claims(self, function: str) -> bool:
        limited = self._functions.get(function)
        return limited is not None and limited.claims is not None

    def share(self, function: str, runs: Iterable[Run]) -> bool:
        """Claim the tasks of a function by owner from now on; return whether that is new.

        `runs` are the claimed tasks of all functions.
        """
        if self.claims(function) is not None:
            return False
        is_limited = self.limit(function) is not None
        claims = self._by_owner[function] = KeyedClaims(OWNERS_TASKS, is_limited=is_limited)
        for run in runs:
            if run.record.new.function == function:
                claims.count(run.record.new.limit_key)
        return True

    def is_limited(self, function: str) -> bool:
        """Return whether a function has limits, so that its claimed tasks may be held."""
        return function in self._functions

    def limit(self, function: str) -> Limit | None:
        """Return to what the store holds a function's tasks, if several nodes share it."""
        limited = self._functions.get(function) if self.is_shared else None
        return None if limited is None else limited.limit

    def place(self, record: Record) -> str | None:
        """Return the value of the concurrency key under which all nodes count a task that none has claimed.

        That is "" without a key, and None if it is not counted over several nodes, or does not wait.
        """
        limited = self._functions.get(record.new.function) if self.is_shared else None
        if limited is None or record.state is not State.WAITING:
            return None
        return limited.key_of(record.new.args)

    def is_misplaced(self, new: New) -> bool:
        """Return whether the store has a task under another key than that by which its function is limited.

        So it is if it was submitted before the function had that key.
        """
        limit = self.limit(new.function)
        return (
            limit is not None
            and limit.by_key
            and new.limit_key != self.key(new.function, new.args, new.owner)
        )

    def held(self, function: str) -> int:
        """Return how many tasks of a function are held."""
        limited = self._functions.get(function)
        return 0 if limited is None else limited.limits.held

    def claimed(self, function: str, want: Want, records: list[Record], *, is_cut: bool) -> None:
        """Note what was claimed for a want; `is_cut` says that there may be more of what was wanted."""
        claims = self.claims(function)
        if claims is None:
            return
        records = [record for record in records if record.new.function == function]
        if isinstance(want, KeyedWant):
            claims.claimed(want, records, is_cut=is_cut)
        else:
            for record in records:  # it was wanted before there were any owners
                claims.count(record.new.limit_key)

    # --- tasks ---

    def holds(self, run: Run, time_left: float | None) -> bool:
        """Take a claimed task, to be given to the task server later; return whether it has limits.

        It must start in `time_left` seconds, None if at any time.
        """
        limited = self._functions.get(run.record.new.function)
        if limited is None:
            return False
        limited.limits.add(run)
        if time_left is not None:
            self._late.watch(run, time_left)
        self._see_to(run.record.new.function)
        return True

    def _is_held(self, run: Run) -> bool:
        limited = self._functions.get(run.record.new.function)
        return limited is not None and limited.limits.is_held(run)

    def started(self, run: Run) -> None:
        """Note that a worker has been given a task."""
        limited = self._functions.get(run.record.new.function)
        if limited is not None:
            limited.limits.started(run, self._clock.seconds())
            self._see_to(run.record.new.function)

    def remove(self, run: Run) -> None:
        """Note that a task runs no more, or will not be started. Idempotent."""
        limited = self._functions.get(run.record.new.function)
        if limited is not None:
            limited.limits.remove(run)
            self._see_to(run.record.new.function)

    def hold(self, record: Record) -> Hold | None:
        """Return what holds a task, whether it is claimed or not; None if nothing does here."""
        limited = self._functions.get(record.new.function)
        return None if limited is None else limited.limits.hold(record, self._clock.seconds())

    def close(self) -> None:
        """Start nothing more."""
        self._is_closed = True

    # --- turns ---

    def _see_to(self, function: str) -> None:
        if not self._changed:
            self._turn_end.call(self.admit)
        self._changed[function] = None

    def admit(self) -> None:
        """Give what may be started to the task server, now rather than at the end of the reactor's turn."""
        changed, self._changed = self._changed, {}
        now, next_time = self._clock.seconds(), inf
        for function in changed:
            limited = self._functions.get(function)
            if limited is not None and not self._is_closed:
                for run in limited.limits.admit(now):
                    self._give(run)
                next_time = min(next_time, limited.limits.next_time)
        if next_time < inf:
            self._alarm.set(next_time)

    def _rang(self) -> None:
        now, next_time = self._clock.seconds(), inf
        for function, limited in self._functions.items():
            if limited.limits.next_time <= now:
                self._see_to(function)
            else:
                next_time = min(next_time, limited.limits.next_time)
        if next_time < inf:
            self._alarm.set(next_time)


def _limit_of(durable: Durability) -> Limit:
    rate = durable.rate
    return Limit(
        durable.concurrency,
        None if rate is None else rate.count,
        0.0 if rate is None else rate.seconds,
        durable.concurrency_key is not None,
    )


def _add(limited: _Limited, run: Run) -> None:
    if run.task is None:
        limited.limits.add(run)
    else:
        limited.limits.add_admitted(run)
    if limited.claims is not None:
        limited.claims.count(run.record.new.limit_key)
