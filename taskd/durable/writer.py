"""The writer of a store: collects changes while the last transaction runs (group commit).

An idle store is written at once, a busy one gets everything that has come
meanwhile in one transaction. Only what nobody waits for is written a moment later,
together with what follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.vault import Writes
from taskd.errors import Busy
from taskd.model import Grant
from taskd.net.timers import TurnEnd
from taskd.scheduler.histograms import Histogram
from taskd.store.base import Changes, KeyedWant, Limit, StoreError, Want, Written
from taskd.store.batches import BatchRecord
from taskd.store.records import (
    Accepted,
    Allowance,
    Event,
    Full,
    New,
    Record,
    Settle,
    Shift,
    Start,
    State,
    Tick,
)

__all__ = ["Execute", "StoreWriter", "both"]

_log = Logger(namespace="taskd.store")

MAX_PENDING = 64 * 1024 * 1024
"""Bytes of new tasks that may wait to be written; then submits are refused."""

MAX_BATCH = 1000
"""New tasks in one transaction: it takes some 50 ms, and nobody should wait for a much longer one."""

RIDE_SECONDS = 0.002
"""Seconds in which what nobody waits for is written with something else: a short task ends within them, so
that its start and its end need one commit, and so does the next submit of whoever has submitted it."""

MANY = 64
"""Starts that are written without waiting for anything: there are more where they come from."""

COMMIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
"""In seconds: the ranges of the times that transactions take, from a quick disk to one that hangs."""

RETRY_SECONDS = 1.0
"""Seconds after which a store that has failed is tried again."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")

Execute = Callable[[Callable[[], Any]], "Deferred[Any]"]
"""Runs a function, maybe in a thread, one at a time; the Deferred fires in the reactor with its result."""


class _Pending(Generic[Item, Answer]):
    """Items of one kind that wait to be written, each with whom to answer."""

    __slots__ = ("answers", "items")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.answers: list[Callable[[Answer], object] | None] = []

    def add(self, item: Item, answer: Callable[[Answer], object] | None) -> None:
        self.items.append(item)
        self.answers.append(answer)

    def take(self, most: int | None = None) -> _Pending[Item, Answer]:
        taken: _Pending[Item, Answer] = _Pending()
        if most is None or len(self.items) <= most:
            taken.items, self.items = self.items, taken.items
            taken.answers, self.answers = self.answers, taken.answers
        else:
            taken.items, taken.answers = self.items[:most], self.answers[:most]
            del self.items[:most], self.answers[:most]
        return taken

    def put_back(self, taken: _Pending[Item, Answer]) -> None:
        self.items[:0] = taken.items
        self.answers[:0] = taken.answers


class _Taken:
    """What one transaction writes."""

    def __init__(self, writer: StoreWriter) -> None:
        # All of what has been moved with the clock goes with the shift, so that `shifted` comes after it.
        self.submits = writer.submits.take(MAX_BATCH if writer.shift is None else None)
        self.allowances = writer.take_allowances(self.submits.items)
        # All of these, since the end of an attempt must not come before its start.
        self.starts = writer.starts.take()
        self.events = writer.events.take()
        self.settles = writer.settles.take()
        self.cancels = writer.cancels.take()
        self.put_backs = writer.put_backs.take()
        self.releases = writer.releases.take()
        self.limit_keys, writer.limit_keys = writer.limit_keys, {}
        self.wants, writer.wants = writer.wants, {}
        limits = ((function, writer.limit(function)) for function in self.wants)
        self.limits = {function: limit for function, limit in limits if limit is not None}
        self.ticks = writer.ticks.take()
        self.shift, writer.shift = writer.shift, None
        self.is_trial = writer.fault is not None

    def batch(self) -> Changes:
        return Changes(
            self.submits.items,
            self.starts.items,
            self.events.items,
            self.settles.items,
            self.cancels.items,
            self.put_backs.items,
            self.releases.items,
            self.wants,
            ticks=self.ticks.items,
            shift=self.shift,
            is_trial=self.is_trial,
            allowances=self.allowances,
            limits=self.limits,
            limit_keys=self.limit_keys,
        )


class StoreWriter:
    """Writes to `store` through `execute`, one transaction at a time.

    Answers are called in the reactor, after the commit, with what the store has
    answered; submits, cancels and the like get a `StoreError` if it has failed.
    Starts, events and settles are never given up: they are tried again until
    they are stored. `claimed` is called with the tasks that may be started, and
    with what was wanted; `logged` with the events that a commit has added to logs,
    before any answer.
    """

    def __init__(
        self,
        store: Writes,
        execute: Execute,
        clock: IReactorTime,
        now: Callable[[], float],
        claimed: Callable[[list[Record], Mapping[str, Want]], object],
        logged: Callable[[list[Event]], object] = lambda events: None,  # noqa: ARG005
    ) -> None:
        self._store = store
        self._execute = execute
        self._clock = clock
        self._now = now
        self._claimed = claimed
        self._logged = logged
        self._turn_end = TurnEnd(clock)
        self._is_writing = self._has_turn = self._is_closing = False
        self._is_urgent = False
        self._ride: IDelayedCall | None = None
        self._idle: list[Deferred[None]] = []
        self.submits: _Pending[New, Accepted | Full | StoreError] = _Pending()
        self._allowances: dict[str, Allowance] = {}
        self.starts: _Pending[Start, bool] = _Pending()
        self.events: _Pending[Event, bool] = _Pending()
        self.settles: _Pending[Settle, bool] = _Pending()
        self.cancels: _Pending[str, State | StoreError | None] = _Pending()
        self.put_backs: _Pending[str, State | StoreError | None] = _Pending()
        self.releases: _Pending[str, None] = _Pending()
        self.limit_keys: dict[str, str | None] = {}
        self.wants: dict[str, Want] = {}
        self.ticks: _Pending[Tick, Accepted | StoreError | None] = _Pending()
        self.shift: Shift | None = None
        self._between: list[Callable[[], object]] = []
        self.pending_bytes = 0
        self.batches_changed: Callable[[list[BatchRecord]], object] = bool  # which does nothing
        self.taken_on: Callable[[str, int, Grant | None, str], object] = lambda *_: None
        """Called with the number of new tasks of a function, who has submitted them, and their owner."""
        self.limit: Callable[[str], Limit | None] = lambda _: None
        """Returns the limit that the store has to see to when it claims tasks of a function."""
        self.again: Callable[[str, Want, float], object] = lambda *_: None
        """Called with what was wanted of a function in vain, and the seconds after which to want it again."""
        self.shifted: Callable[[], object] = bool
        """Called when everything in the store has the times of a clock that was set."""
        self.commit_seconds = Histogram(COMMIT_BOUNDS)
        """The times from the begin of a transaction until this has its answer."""
        self.failed_commits = 0
        """How many transactions have failed."""
        self._began = 0.0
        self.fault: str | None = None
        """What is wrong with the store, since it was last written in vain; None if nothing is."""

    # --- changes ---

    def submit(
        self,
        new: New,
        answer: Callable[[Accepted | Full | StoreError], object],
        allowance: Allowance | None = None,
    ) -> None:
        """Store a new task, if its owner has room. Raises `Busy` if too much waits already to be written."""
        if self.fault is not None:
            raise Busy(
                f"the store has failed, so that nothing is accepted: {self.fault}", retry_after=RETRY_SECONDS
            )
        size = len(new.args or b"") + len(new.options)
        if self.pending_bytes + size > MAX_PENDING:
            raise Busy(
                f"{self.pending_bytes} bytes of new tasks wait for the store", retry_after=RETRY_SECONDS
            )
        if self.pending_bytes + size > self._store.room:
            raise Busy(
                "the store in memory is full of tasks that have not ended (--store memory:bytes=SIZE, or "
                "--store sqlite:PATH)",
                retry_after=RETRY_SECONDS,
            )
        self.pending_bytes += size
        self.submits.add(new, answer)
        if allowance is not None:
            self._allowances[new.id] = allowance
        self._soon()

    def take_allowances(self, news: list[New]) -> dict[str, Allowance]:
        """Return, and forget, the allowances of these new tasks."""
        if not self._allowances:
            return {}
        taken = {new.id: self._allowances.pop(new.id, None) for new in news}
        return {task: allowance for task, allowance in taken.items() if allowance is not None}

    def start(
        self, start: Start, answer: Callable[[bool], object] | None = None, *, may_wait: bool = False
    ) -> None:
        """Note the start of an attempt; the answer is whether it was still the task's own.

        What `may_wait` is written with whatever comes next, but after `RIDE_SECONDS` at the latest.
        """
        self.starts.add(start, answer)
        self._soon(may_wait=may_wait)

    def event(self, event: Event, answer: Callable[[bool], object] | None = None) -> None:
        """Add an event to a task's log; the answer is as for `start`."""
        self.events.add(event, answer)
        self._soon()

    def settle(self, settle: Settle, answer: Callable[[bool], object], *, may_wait: bool = False) -> None:
        """Store the end of an attempt; the answer and `may_wait` are as for `start`."""
        self.settles.add(settle, answer)
        self._soon(may_wait=may_wait)

    def cancel(self, task: str, answer: Callable[[State | StoreError | None], object]) -> None:
        """Cancel a task that does not run; the answer is its state before, None if there is none."""
        self.cancels.add(task, answer)
        self._soon()

    def put_back(self, task: str, answer: Callable[[State | StoreError | None], object]) -> None:
        """Let a task that failed or was set aside wait again; the answer is as for `cancel`."""
        self.put_backs.add(task, answer)
        self._soon()

    def release(self, task: str) -> None:
        """Let others claim a task that was claimed and will not be started."""
        self.releases.add(task, None)
        self._soon()

    def move_to(self, limit_key: str | None, task: str) -> None:
        """Let others claim a task by this limit key, since that is not the one which it has."""
        self.limit_keys[task] = limit_key
        self.release(task)

    def want(self, function: str, want: Want) -> None:
        """Have waiting tasks of a function claimed with the next transaction."""
        self.wants[function] = want
        self._soon()

    def tick(self, tick: Tick, answer: Callable[[Accepted | StoreError | None], object]) -> None:
        """Store the task of a tick; the answer is None if the tick was there already, or has no task."""
        self.ticks.add(tick, answer)
        self._soon()

    def between(self, function: Callable[[], object]) -> None:
        """Call a function once no transaction is in flight: at once, or before the next one begins."""
        if self._is_writing:
            self._between.append(function)
        else:
            function()

    def move(self, seconds: float, names: Collection[str]) -> None:
        """Write first that the clock has been set, and move what waits to be written. Call this `between`."""
        earlier = 0.0 if self.shift is None else self.shift.seconds
        self.shift = Shift(earlier + seconds, names)
        self.submits.items = [new.moved(seconds) for new in self.submits.items]
        self.ticks.items = [tick.moved(seconds) if tick.name in names else tick for tick in self.ticks.items]
        self.settles.items = [settle.moved(seconds) for settle in self.settles.items]
        self._write()

    # --- transactions ---

    def _soon(self, *, may_wait: bool = False) -> None:
        self._is_urgent = self._is_urgent or not may_wait
        if self._is_writing or self._has_turn:
            return
        if self._is_urgent:
            self._has_turn = True
            self._turn_end.call(self._write)
        elif self._ride is None:
            self._ride = self._clock.callLater(RIDE_SECONDS, self._write)

    def _write(self) -> None:
        self._has_turn = False
        if self._ride is not None and self._ride.active():
            self._ride.cancel()
        self._ride = None
        if self._is_writing or not (self.has_pending or self._is_on_trial):
            return
        self._is_writing = True
        taken = _Taken(self)
        self._is_urgent = bool(self.submits.items)  # of which a transaction takes only so many
        batch, now = taken.batch(), self._now()
        self._began = self._clock.seconds()
        writing = self._execute(lambda: self._store.write(batch, now))
        writing.addCallbacks(self._written, self._failed, callbackArgs=(taken,), errbackArgs=(taken,))
        writing.addErrback(lambda reason: _log.failure("a bug in taskd", reason))

    @property
    def has_pending(self) -> bool:
        """Whether anything waits to be written."""
        return bool(
            self.submits.items
            or self.starts.items
            or self.events.items
            or self.settles.items
            or self.cancels.items
            or self.put_backs.items
            or self.releases.items
            or self.wants
            or self.ticks.items
            or self.shift is not None
        )

    @property
    def _is_on_trial(self) -> bool:
        """Whether the store has failed, and must be tried even if nothing waits to be written."""
        return self.fault is not None and not self._is_closing

    def _written(self, written: Written, taken: _Taken) -> None:
        self._is_writing = False
        self.commit_seconds.add(self._clock.seconds() - self._began)
        if self.fault is not None:
            _log.info("the store works again")
            self.fault = None
        self._release(taken)
        if len(self.starts.items) > MANY and not self._between:
            self._write()  # now, so that the disk is at work while this is answered
        self._logged(written.events)
        _answer(taken.starts, written.own.starts)
        _answer(taken.events, written.own.events)
        _answer(taken.settles, written.own.settles)
        _answer(taken.submits, written.accepted)
        _answer(taken.cancels, written.cancelled)
        _answer(taken.put_backs, written.put_back)
        _answer(taken.ticks, written.ticked)
        if written.batches:
            self.batches_changed(written.batches)
        if taken.wants:
            self._claimed(written.claims, taken.wants)
        for function, seconds in written.again.items():
            self.again(function, taken.wants[function], seconds)
        if taken.shift is not None:
            self.shifted()
        self._go_on()

    def _failed(self, reason: TwistedFailure, taken: _Taken) -> None:
        """Refuse what nobody has acknowledged, and keep the rest until the store works."""
        self._is_writing = False
        self.failed_commits += 1
        if reason.check(StoreError) is None:
            _log.failure("a bug in taskd", reason)
        error = StoreError(reason.getErrorMessage())
        if self.fault is None:
            _log.error("the store has failed, and is tried again every second: {error}", error=error)
        self.fault = str(error)
        self._release(taken)
        self.starts.put_back(taken.starts)
        self.events.put_back(taken.events)
        self.settles.put_back(taken.settles)
        self.releases.put_back(taken.releases)
        self.limit_keys = {**taken.limit_keys, **self.limit_keys}
        for function, want in () if self._is_closing else taken.wants.items():
            self.wants[function] = both(want, self.wants.get(function))
        self.shift = taken.shift
        self._is_urgent = True
        for pending in (taken.submits, taken.cancels, taken.put_backs, taken.ticks):
            _answer(pending, [error] * len(pending.items))
        self._is_writing = True  # until it is tried again
        self._clock.callLater(RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._is_writing = False
        self._go_on()

    def _release(self, taken: _Taken) -> None:
        self.pending_bytes -= sum(len(new.args or b"") + len(new.options) for new in taken.submits.items)

    def _go_on(self) -> None:
        between, self._between = self._between, []
        for function in between:
            self.between(function)
        if self.has_pending or self._is_on_trial:
            self._soon(may_wait=not self._is_on_trial)
        elif not self._is_writing:
            idle, self._idle = self._idle, []
            for each in idle:
                each.callback(None)

    def flushed(self) -> Deferred[None]:
        """Return a Deferred that fires when nothing is left to be written. Call this at the end."""
        self._is_closing = True
        self.wants = {}  # nothing will be started any more
        fires: Deferred[None] = Deferred()
        if self.has_pending or self._is_writing:
            self._idle.append(fires)
            self._soon()
        else:
            fires.callback(None)
        return fires


def _answer(pending: _Pending[Any, Any], answers: list[Any]) -> None:
    for answer, value in zip(pending.answers, answers, strict=True):
        if answer is not None:
            answer(value)


def both(earlier: Want, later: Want | None) -> Want:
    """Return what is wanted if nothing of `earlier` was claimed."""
    if not isinstance(earlier, KeyedWant) or not isinstance(later, KeyedWant):
        return earlier if later is None else later
    if earlier.keys is None or later.keys is None:
        return earlier if earlier.keys is None else later
    return msgspec.structs.replace(later, keys={**earlier.keys, **later.keys})
