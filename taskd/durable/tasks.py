"""Stored tasks on one node: accepted by the store, run by the task server, settled in the store.

A window of the waiting tasks of each function is claimed and in the scheduler's
queue; the others wait in the store.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol, TypeVar

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.deadlines import LATE, Deadlines
from taskd.durable.events import EventHub, Page, with_result
from taskd.durable.ids import Ids
from taskd.durable.moments import Moments, RunOptions
from taskd.durable.once import OnceGate
from taskd.durable.reports import Reports
from taskd.durable.run import Run
from taskd.durable.settling import settle_of
from taskd.durable.writer import Execute, StoreWriter
from taskd.errors import Cancelled, InvalidParams, ShuttingDown, TaskdError, TimedOut, WorkerLost
from taskd.functions.durability import Durability
from taskd.functions.registry import FunctionInfo
from taskd.model import Call, Failure, Options, Outcome, Progress, StoredCall, SubmitOptions
from taskd.net.timers import Alarm
from taskd.protocol.event_lines import Kind
from taskd.scheduler.parties import Lane, Party
from taskd.scheduler.task import Subscriber, Task
from taskd.store.base import Store, StoreError
from taskd.store.records import ENDED, FINAL, Accepted, Event, New, Record, Settle, Start, State

__all__ = ["DurableTasks", "Run", "Runner"]

_log = Logger(namespace="taskd.store")

WINDOW = 10_000
"""Waiting tasks of each function that are in the scheduler's queue; the others are in the store alone."""

PROMOTED = 1000
"""Scheduled tasks that are let wait in one transaction."""

PRUNE_SECONDS, PRUNED = 10.0, 1000
"""Seconds between two times that ended tasks are forgotten, and how many at once."""

NO_DURABILITY = Durability()

Value = TypeVar("Value")


class Runner(Protocol):
    """The task server, as far as stored tasks need it."""

    def run(self, call: Call, subscriber: Subscriber, lane: Lane) -> Task:
        """Queue a task. Raises `TaskdError` if there is no such function."""

    def withdraw(self, task: Task) -> bool:
        """Take back a task that waits, without an outcome; return whether it did."""

    def cancel(self, task: Task) -> None:
        """Cancel a task in flight."""


class DurableTasks:
    """The stored tasks of one node. `execute` runs the store's functions, one at a time.

    `now` returns the seconds since 1970.
    """

    def __init__(
        self,
        clock: IReactorTime,
        runner: Runner,
        store: Store,
        execute: Execute,
        now: Callable[[], float],
    ) -> None:
        self.store = store
        self._clock = clock
        self._runner = runner
        self._execute = execute
        self._now = now
        self._ids = Ids()
        self.hub = EventHub(self.read_log, self._with_result)
        self.writer = StoreWriter(store, execute, clock, now, self._claimed, self.hub.publish)
        self._once = OnceGate(self.writer, self._marked, self._forget)
        self._functions: dict[str, Durability] = {}
        self._runs: dict[str, Run] = {}
        self._lane = Lane(Party("store"))
        self._in_window: dict[str, int] = {}
        self._has_backlog: set[str] = set()
        self.paused: frozenset[str] = frozenset()
        self._waiters: dict[str, list[Callable[[State, bytes | None], object]]] = {}
        self._listeners: dict[str, list[Callable[[Progress], object]]] = {}
        self._alarm = Alarm(clock, self._promote)
        self._prune_alarm = Alarm(clock, self._prune)
        self._deadlines = Deadlines(self, execute, clock, now)
        self._is_stopping = self._is_open = False

    @property
    def claimed(self) -> int:
        """The number of tasks that this node has claimed and not settled."""
        return len(self._runs)

    # --- the app ---

    def use(self, functions: list[FunctionInfo]) -> None:
        """Run the stored tasks of these functions from now on."""
        self._functions = {each.name: each.durable or NO_DURABILITY for each in functions}
        if self._is_open:
            self._look_everywhere()
            return
        self._is_open = True
        once = {name for name, durability in self._functions.items() if durability.once}
        opening = self._execute(lambda: (self.store.rescue(self._now(), once, _LOST), self.store.paused()))
        opening.addCallbacks(self._rescued, self._broke)

    def _rescued(self, found: tuple[int, list[str]]) -> None:
        count, paused = found
        self.paused = frozenset(paused)
        if count:
            _log.info("{count} tasks were running when the store was last used: they run again", count=count)
        self.hub.look_again()
        self._look_everywhere()
        self._promote()
        self._deadlines.look()
        self._prune_alarm.set(self._clock.seconds() + PRUNE_SECONDS)

    def _look_everywhere(self) -> None:
        self._has_backlog.update(self._functions)
        for function in self._functions:
            self._refill(function)

    # --- in ---

    def submit(
        self,
        function: str,
        args: Raw | None,
        options: Options | SubmitOptions,
        answer: Callable[[Accepted | StoreError], object],
        *,
        token: str | None = None,
    ) -> str:
        """Store a task, and return its id; the answer comes once it is stored, and may be another task's.

        Raises `TaskdError` if it cannot be accepted.
        """
        if self._is_stopping:
            raise ShuttingDown("the server is shutting down")
        now = self._now()
        new = self.new(function, args, options, now, token=token)
        is_due = new.due <= now

        def accepted(given: Accepted | StoreError) -> None:
            if isinstance(given, Accepted) and not given.joined:
                if not is_due:
                    self._alarm.set(self._clock.seconds() + max(new.due - self._now(), 0.0))
                elif new.id not in self._runs:
                    self._has_backlog.add(function)
                if new.deadline is not None:
                    self._deadlines.watch(new.deadline)
            answer(given)

        self.writer.submit(new, accepted)
        if is_due:
            self._refill(function, new_too=True)
        return new.id

    def new(
        self,
        function: str,
        args: Raw | None,
        options: Options | SubmitOptions,
        now: float,
        *,
        token: str | None = None,
    ) -> New:
        """Return a new task, which is still to be stored. Raises `TaskdError` for wrong options."""
        moments, kept = Moments.of(options, now), RunOptions.of(options)
        durability = self._durability(function)
        if kept.retries and durability.once:
            raise InvalidParams(
                f"{function} is run once (once=True), so that it has no retries", argument="options.retries"
            )
        keep = options.keep if isinstance(options, SubmitOptions) else None
        return New(
            self._ids.make(now),
            function,
            None if args is None else bytes(args),
            msgspec.json.encode(kept),
            kept.priority,
            moments.due,
            moments.deadline,
            options.key if isinstance(options, SubmitOptions) else None,
            token,
            None,
            durability.keep if keep is None else keep,
            moments.is_fixed,
        )

    def _durability(self, function: str) -> Durability:
        return self._functions.get(function, NO_DURABILITY)

    def _refill(self, function: str, *, new_too: bool = False) -> None:
        """Claim waiting tasks of a function, if there is room for many in its window."""
        room = WINDOW - self._in_window.get(function, 0)
        if self._is_stopping or not self._is_open or function not in self._functions:
            return
        if function in self.paused:
            return
        if room > 0 and (new_too or (function in self._has_backlog and room >= WINDOW // 2)):
            self.writer.want(function, room)

    def _claimed(self, records: list[Record]) -> None:
        for record in records:
            if self._deadlines.is_expiring(record.new.id):
                continue
            function = record.new.function
            if function in self.paused:
                self.writer.release(record.new.id)
                continue
            self._in_window[function] = self._in_window.get(function, 0) + 1
            self._begin(Run(self, record, self._lane))
        for function in {record.new.function for record in records}:
            self._has_backlog.add(function)

    def _begin(self, run: Run) -> None:
        self._runs[run.record.new.id] = run
        if self._durability(run.record.new.function).once:
            self._once.add(run)
        else:
            self._run(run)

    def _marked(self, run: Run) -> None:
        if self._is_stopping:
            self.ended(run, Failure.of(ShuttingDown("the server is shutting down")))
        elif run.is_cancelled:
            self.ended(run, Failure.of(Cancelled("the task was cancelled")))
        else:
            self._run(run)

    def _run(self, run: Run) -> None:
        new = run.record.new
        kept = _options.decode(new.options)
        run.retries = kept.retries
        deadline = self._time_left(run.record)
        # Its progress is asked for, since anybody may watch it.
        options = Options(kept.timeout, deadline, kept.priority, progress=True)
        args = None if new.args is None else Raw(new.args)
        call = StoredCall(new.function, args, options, run.started, run.failed)
        try:
            run.task = self._runner.run(call, run, self._lane)
        except TaskdError as error:
            self._functions.pop(new.function, None)  # until the next `use`
            self.ended(run, Failure.of(error))

    def _time_left(self, record: Record) -> float | None:
        """Return the seconds in which a task must start, None if it may start at any time."""
        if record.new.deadline is None or record.attempt:
            return None
        return max(record.new.deadline - self._now(), 0.0)

    # --- the attempt ---

    def started(self, run: Run) -> None:
        """Note the start of an attempt in the store, which is not waited for."""
        if run.is_marked:
            self._once.remove(run)
            return
        self.writer.start(Start(run.record.new.id, run.attempt), run.start_committed)

    def progressed(self, run: Run, progress: Progress) -> None:
        """Pass progress on to whoever has called the function."""
        for listener in self._listeners.get(run.record.new.id, ()):
            listener(progress)

    def reports(self, run: Run) -> Reports:
        """Return where the progress and the partial results of an attempt go."""
        task, committed = run.record.new.id, run.is_start_committed
        push, clock = self.hub.publish, self._clock
        return Reports(task, run.next_seq, self.writer, push, clock, self._now, is_start_committed=committed)

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Settle an attempt; who waits gets the outcome once it is stored."""
        if isinstance(outcome, Failure) and outcome.code == TimedOut.code and not run.has_started:
            outcome = LATE
        durability = self._durability(run.record.new.function)
        if run.retries is not None:
            durability = msgspec.structs.replace(durability, retries=run.retries)
        settle = settle_of(run, outcome, durability, self._now())
        if settle is None:
            self.writer.release(run.record.new.id)
            self._forget(run)
            return
        run.result = settle.outcome if settle.state is State.SUCCEEDED else None
        self.writer.settle(settle, lambda is_own: self._settled(run, settle, is_own=is_own))

    def _settled(self, run: Run, settle: Settle, *, is_own: bool) -> None:
        self._forget(run)
        if not is_own:
            _log.warn(
                "{function} {task}: attempt {attempt} is not its own any more: its end is dropped",
                function=run.record.new.function,
                task=settle.id,
                attempt=settle.attempt,
            )
        elif settle.state in ENDED:
            self.announce(settle.id, settle.state, settle.outcome)
        elif settle.state is State.SCHEDULED:  # not before it is stored: the alarm would find nothing
            self._alarm.set(self._clock.seconds() + max(settle.due - self._now(), 0.0))
        elif settle.state is State.WAITING:
            self._has_backlog.add(run.record.new.function)
            self._refill(run.record.new.function, new_too=True)

    def announce(self, task: str, state: State, outcome: bytes | None) -> None:
        """Call those who wait for the end of a task, which has been stored."""
        for waiter in self._waiters.pop(task, ()):
            waiter(state, outcome)

    def _forget(self, run: Run) -> None:
        function = run.record.new.function
        self._runs.pop(run.record.new.id, None)
        self._once.remove(run)
        self._in_window[function] -= 1
        self._refill(function)

    # --- held, and put back ---

    def pause(self, function: str, *, paused: bool) -> Deferred[bool]:
        """Start nothing of a function, or go on; fires with whether it was paused, once that is stored."""

        def stored(was: bool) -> bool:  # noqa: FBT001
            if paused:
                self.paused |= {function}
                self._let_go(function)
            else:
                self.paused -= {function}
                self._has_backlog.add(function)
                self._refill(function, new_too=True)
            return was

        return self._execute(lambda: self.store.pause(function, paused=paused)).addCallback(stored)

    def _let_go(self, function: str) -> None:
        """Put back into the store what has been claimed and is not started."""
        for run in [each for each in self._runs.values() if each.record.new.function == function]:
            if run.task is not None and not run.has_started and self._runner.withdraw(run.task):
                self.writer.release(run.record.new.id)
                self._forget(run)

    def put_back(self, task: str, answer: Callable[[State | StoreError | None], object]) -> None:
        """Let a task that failed or was set aside wait again; the answer is its state before."""

        def done(was: State | StoreError | None) -> None:
            if was in (State.FAILED, State.SET_ASIDE):
                self._look_everywhere()
            answer(was)

        self.writer.put_back(task, done)

    # --- reading ---

    def get(self, task: str) -> Deferred[Record | None]:
        """Read a task."""
        return self._execute(lambda: self.store.get(task))

    def read(self, function: Callable[[], Value]) -> Deferred[Value]:
        """Call a reading function of the store, in its thread."""
        return self._execute(function)

    def read_log(self, kind: Kind, id: str, after: int, limit: int) -> Deferred[Page | None]:  # noqa: A002
        """Read a part of the log of a task or a batch, and its state; None if there is none."""

        def page() -> Page | None:
            record = self.store.get(id) if kind == "task" else None
            if record is None:
                return None
            events = self.store.events(id, after, limit)
            if events and events[-1].event == "succeeded":
                record = self.store.get(id) or record  # it may have ended meanwhile
                events[-1] = with_result(events[-1], record.outcome)
            is_over = record.state in FINAL and len(events) < limit
            return Page(record.state.name.lower(), record.last_seq, events, is_over)

        return self._execute(page)

    def _with_result(self, event: Event) -> Event:
        run = self._runs.get(event.task) if event.event == "succeeded" else None
        return event if run is None else with_result(event, run.result)

    # --- waiting for the end ---

    def listen(self, task: str, listener: Callable[[Progress], object]) -> None:
        """Call `listener` with the progress of a task, until that has ended."""
        self._listeners.setdefault(task, []).append(listener)
        self.wait(task, lambda _state, _outcome: self._listeners.pop(task, None))

    def wait(self, task: str, waiter: Callable[[State, bytes | None], object]) -> Callable[[], None]:
        """Call `waiter` with the state and the outcome when a task has ended; return how to wait no longer.

        The task must not have ended yet.
        """
        waiters = self._waiters.setdefault(task, [])
        waiters.append(waiter)

        def stop() -> None:
            if waiter in waiters:
                waiters.remove(waiter)
                if not waiters and self._waiters.get(task) is waiters:
                    del self._waiters[task]

        return stop

    def cancel(self, task: str, answer: Callable[[State | StoreError | None], object]) -> None:
        """Cancel a task, whether it waits, runs, or is scheduled; the answer is its state before."""
        run = self._runs.get(task)
        if run is not None and run.task is not None and run.task.is_in_flight:
            state = State.RUNNING if run.has_started else State.WAITING
            self.wait(task, lambda _state, _outcome: answer(state))
            self._runner.cancel(run.task)
            return
        if run is not None and run.task is None and run.is_marked:
            run.is_cancelled = True
            self.wait(task, lambda _state, _outcome: answer(State.WAITING))
            return

        def cancelled(state: State | StoreError | None) -> None:
            if isinstance(state, State) and state not in ENDED and state is not State.RUNNING:
                self.announce(task, State.CANCELLED, None)
            answer(state)

        self.writer.cancel(task, cancelled)

    # --- time ---

    def _promote(self) -> None:
        promoting = self._execute(lambda: self.store.promote(self._now(), PROMOTED))
        promoting.addCallbacks(self._promoted, self._broke)

    def _promoted(self, next_due: float | None) -> None:
        self._look_everywhere()
        if next_due is not None and next_due < inf:
            self._alarm.set(self._clock.seconds() + max(next_due - self._now(), 0.0))

    def _prune(self) -> None:
        pruning = self._execute(lambda: self.store.prune(self._now(), PRUNED))
        pruning.addCallbacks(self._pruned, self._broke)

    def _pruned(self, count: int) -> None:
        self._prune_alarm.set(self._clock.seconds() + (0.0 if count == PRUNED else PRUNE_SECONDS))

    def _broke(self, reason: TwistedFailure) -> None:
        if reason.check(StoreError) is None:
            _log.failure("a bug in taskd", reason)
        else:
            _log.error("{error}", error=reason.getErrorMessage())
        self._alarm.set(self._clock.seconds() + 1.0)
        self._prune_alarm.set(self._clock.seconds() + PRUNE_SECONDS)

    # --- the stop ---

    def stop_accepting(self) -> None:
        """Refuse new tasks. Those that wait are left in the store, if that lasts."""
        self._is_stopping = True
        if self.store.is_lasting:
            for run in self._once.take_held():
                del self._runs[run.record.new.id]
            for run in list(self._runs.values()):
                if run.task is None or (run.has_started and not run.is_marked):
                    continue
                if self._runner.withdraw(run.task):
                    if run.is_marked:
                        self.ended(run, Failure.of(ShuttingDown("the server is shutting down")))
                    else:
                        del self._runs[run.record.new.id]

    def close(self) -> Deferred[None]:
        """Write what is left, and close the store; fires when that is done."""
        return self.writer.flushed().addBoth(lambda _: self.store.close())


_LOST = msgspec.json.encode(
    Failure.of(WorkerLost("the daemon ended while the task ran, or was about to: it is not run again (once)"))
)

_options = msgspec.json.Decoder(RunOptions)
