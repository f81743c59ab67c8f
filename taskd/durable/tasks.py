"""Stored tasks on one node: accepted by the store, run by the task server, settled in the store.

A window of the waiting tasks of each function is claimed and in the scheduler's
queue; the others wait in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.batches import DurableBatches
from taskd.durable.cancels import Cancels
from taskd.durable.clock_moves import move_clock
from taskd.durable.deadlines import LATE, Deadlines
from taskd.durable.elsewhere import Elsewhere
from taskd.durable.events import EventHub
from taskd.durable.ids import Ids
from taskd.durable.limiter import Limiter
from taskd.durable.logs import TaskLog
from taskd.durable.new_tasks import new_task
from taskd.durable.not_own import NotOwn
from taskd.durable.once import OnceGate
from taskd.durable.ownership import allowed, no_room
from taskd.durable.pauses import Pauses
from taskd.durable.recovery import Left, recover
from taskd.durable.reports import Reports
from taskd.durable.run import Run, Runner
from taskd.durable.schedules import Schedules
from taskd.durable.settling import CANCELLED_WAITING, LOST_LEASE, STOPPING, is_loss, settle_of
from taskd.durable.upkeep import Upkeep
from taskd.durable.vault import Sealing, Vault
from taskd.durable.waiters import Waiters
from taskd.durable.window import WINDOW, Window
from taskd.durable.writer import RETRY_SECONDS, Execute, StoreWriter
from taskd.errors import Busy, Cancelled, ShuttingDown, TaskdError, TimedOut
from taskd.functions.durability import Durability
from taskd.functions.registry import FunctionInfo
from taskd.model import ANONYMOUS, Failure, Grant, Options, Outcome, Progress, SubmitOptions
from taskd.scheduler.parties import Lane, Party
from taskd.server.position import Position
from taskd.store.base import Store, StoreError, Want
from taskd.store.records import ENDED, Accepted, Full, New, Record, Settle, Start, State

__all__ = ["DurableTasks"]

_log = Logger(namespace="taskd.store")

GIVE_UP_SECONDS = 20.0
"""Seconds, at a stop, in which a store that has failed can recover: a working one needs a fraction of one."""

NO_DURABILITY = Durability()

Value = TypeVar("Value")


class DurableTasks:
    """The stored tasks of one node. `execute` runs the store's functions, one at a time.

    `read` runs those that only read and are asked for from outside; by default, it is `execute`.
    `now` returns the seconds since 1970. Secret arguments are stored as `sealing` makes them.
    """

    def __init__(
        self,
        clock: IReactorTime,
        runner: Runner,
        store: Store,
        execute: Execute,
        now: Callable[[], float],
        read: Execute | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        self.store = store
        self._clock = clock
        self._runner = runner
        self._execute = execute
        self._read = read = read or execute
        self._now = now
        self._ids = Ids()
        self.runs: dict[str, Run] = {}
        """The tasks that this node has claimed, by their ids."""
        self.log = TaskLog(store, read, now, self.runs)
        self.hub = EventHub(clock, self.log.read, now, self.log.completed)
        self.vault = Vault(store, sealing)
        self.writer = StoreWriter(self.vault, execute, clock, now, self._claimed, self.hub.publish)
        self._once = OnceGate(self.writer, self._marked, partial(self._forget, waits=False))
        self._not_own = NotOwn(self, runner)
        self.cancels = Cancels(self, runner, self._once, self.runs)
        self.batches = DurableBatches(
            clock, self.stored, self.cancels, store, execute, read, now, self.hub.publish
        )
        self.writer.batches_changed = self.batches.changed
        self._functions: dict[str, Durability] = {}
        self._missing: dict[str, tuple[str, ...]] = {}  # the labels that functions lack here
        self._lane = Lane(Party("store"))
        self.limiter = Limiter(clock, self._give, lambda run: self.ended(run, LATE), WINDOW)
        self.window = Window(self.writer, self.limiter, self._may_claim)
        self.pauses = Pauses(store, execute, self.window, self.runs, self.let_go)
        self.waiters = Waiters()
        self.upkeep = Upkeep(store, execute, clock, now, self.look_everywhere)
        self.deadlines = Deadlines(self, execute, clock, now)
        self.schedules = Schedules(self, execute, clock, now)
        self.is_stopping = self._is_open = self._is_opening = self._is_held = False
        self.elsewhere: Elsewhere | None = None
        """What other nodes run, if the store is shared; set by whoever knows."""
        self._app: list[FunctionInfo] = []

    @property
    def claimed(self) -> int:
        """The number of tasks that this node has claimed and not settled."""
        return len(self.runs)

    @property
    def fault(self) -> str | None:
        """Why the store cannot be used at the moment; None if it can."""
        return self.writer.fault or self.upkeep.fault

    # --- the app ---

    def use(self, functions: list[FunctionInfo]) -> None:
        """Run the stored tasks of these functions from now on."""
        self._functions = {each.name: each.durable or NO_DURABILITY for each in functions}
        self._missing = {each.name: each.missing for each in functions if each.missing}
        self._app = [each for each in functions if self.elsewhere is not None or not each.missing]
        self.vault.use(functions)
        self.limiter.use(functions, list(self.runs.values()))
        for run in [each for each in self.runs.values() if not self._is_run_here(each.record.new.function)]:
            self.let_go(run)
        if self._is_open:
            self.look_everywhere()
            self.schedules.use(self._app)
            return
        if not self._is_opening:
            self._is_opening = True
            self._open()

    def _open(self) -> None:
        """Put right what the last process has left, before anything is claimed, however often that fails."""
        once = {name for name, durability in self._functions.items() if durability.once}
        opening = self._execute(partial(recover, self.store, self._now(), once))
        opening.addCallbacks(self._recovered, self._not_recovered)

    def _not_recovered(self, reason: TwistedFailure) -> None:
        self.upkeep.log(reason)
        if not self.is_stopping:
            self._clock.callLater(RETRY_SECONDS, self._open)

    def _recovered(self, left: Left) -> None:
        for function in self._functions if left.has_owners else ():
            self.limiter.share(function, ())
        self._is_open, self.pauses.functions = True, left.paused
        left.log()
        self.batches.resume()
        self.hub.look_again()
        self.look_everywhere()
        self.upkeep.begin()
        self.deadlines.look()
        self.schedules.use(self._app)

    def look(self, function: str) -> None:
        """Claim the waiting tasks of a function, with the next transaction."""
        self.window.stored(function)
        self.window.claim(function)

    def _may_claim(self, function: str) -> bool:
        is_ready = self._is_open and not self.is_stopping and not self._is_held
        return is_ready and self._is_run_here(function) and function not in self.paused

    def _is_run_here(self, function: str) -> bool:
        return function in self._functions and function not in self._missing

    # --- in ---

    def submit(
        self,
        function: str,
        args: Raw | None,
        options: Options | SubmitOptions,
        answer: Callable[[Accepted | StoreError | Busy], object],
        *,
        token: str | None = None,
        grant: Grant = ANONYMOUS,
    ) -> str:
        """Store a task, and return its id; the answer comes once it is stored, and may be another task's.

        Raises `TaskdError` if it cannot be accepted.
        """
        if self.is_stopping:
            raise ShuttingDown("the server is shutting down")
        now = self._now()
        new = self.new(function, args, options, now, token=token, grant=grant)
        is_due = new.due <= now

        def accepted(given: Accepted | Full | StoreError) -> None:
            if isinstance(given, Accepted) and not given.joined:
                if is_due and new.id not in self.runs:
                    self.window.stored(function)
                self._watch(new)
            answer(self.busy(grant, given) if isinstance(given, Full) else given)

        if grant.has_limits:
            self._runner.limit(grant)
        self.writer.submit(new, accepted, allowed(grant, new))
        self._share(new)
        if is_due:
            self.window.claim(function, new.limit_key)
        return new.id

    def new(
        self,
        function: str,
        args: Raw | None,
        options: Options | SubmitOptions,
        now: float,
        *,
        token: str | None = None,
        grant: Grant = ANONYMOUS,
    ) -> New:
        """Return a new task, which is still to be stored. Raises `TaskdError` for wrong options."""
        durability = self._durability(function)
        secrets = self.vault.secrets(function)
        new = new_task(self._ids.make(now), function, args, options, durability, now, token, secrets, grant)
        return msgspec.structs.replace(new, limit_key=self.limiter.key(function, new.args, grant.owner))

    def busy(self, grant: Grant, full: Full) -> Busy:
        """Return the error for a task or a batch for which its owner has no room."""
        return no_room(grant, full, self._runner.limit(grant).retry_after(self._clock.seconds()))

    def _durability(self, function: str) -> Durability:
        return self._functions.get(function, NO_DURABILITY)

    def _claimed(self, records: list[Record], wants: Mapping[str, Want]) -> None:
        self.window.answered(records, wants)
        for record in records:
            self.window.enter(record)
            if self.deadlines.is_expiring(record.new.id):
                self.window.leave(record, waits=False)
            else:
                self._take(Run(self, record, self._lane))
        for record in records:
            self._share(record.new)
        self.limiter.admit()
        self.window.look_at_more(wants)

    def _share(self, task: New) -> None:
        """Claim the tasks of a function by owner, since this one has an owner."""
        if task.limit_key is not None and self.limiter.share(task.function, self.runs.values()):
            self.window.look_everywhere([task.function])

    def _take(self, run: Run) -> None:
        record = run.record
        self.runs[record.new.id] = run
        if self._is_held or not self._is_run_here(record.new.function):
            self.let_go(run)
        elif record.new.batch is not None and record.new.batch in self.batches.cancelling:
            self.ended(run, Failure.of(Cancelled("the batch was cancelled", was="waiting")))
        elif record.new.function in self.paused:
            self.let_go(run)
        elif not self.limiter.holds(run, self._time_left(record)):
            self._give(run)

    def _give(self, run: Run) -> None:
        """Give a claimed task to the task server, once its start is stored if it runs once."""
        if self._durability(run.record.new.function).once:
            self._once.add(run)
        else:
            self._run(run)

    def _marked(self, run: Run) -> None:
        if self.is_stopping or run.is_fenced:
            self.ended(run, STOPPING)
        elif run.is_cancelled:
            self.ended(run, CANCELLED_WAITING)
        else:
            self._run(run)

    def _run(self, run: Run) -> None:
        call = run.call(self._time_left(run.record))
        if call is None:
            self.ended(run, run.begin_unreadable())
            return
        try:
            if owner := run.record.new.owner:
                run.lane = self._runner.stored_lane(owner, run.owner_running)
            run.task = self._runner.run(call, run, run.lane)
        except TaskdError as error:
            self._functions.pop(call.function, None)  # until the next `use`
            self.ended(run, Failure.of(error))

    def _time_left(self, record: Record) -> float | None:
        """Return the seconds in which a task must start, None if it may start at any time."""
        deadline = record.new.deadline
        return None if deadline is None or record.attempt else max(deadline - self._now(), 0.0)

    # --- the attempt ---

    def started(self, run: Run) -> None:
        """Note the start of an attempt in the store, which is not waited for."""
        self.limiter.started(run)
        if run.is_marked:
            self._once.remove(run)
            return
        start = Start(run.record.new.id, run.attempt)
        self.writer.start(start, partial(self._start_stored, run), may_wait=True)

    def _start_stored(self, run: Run, is_own: bool) -> None:  # noqa: FBT001
        run.start_committed(is_own)
        if not is_own:
            self._not_own.started(run)

    def progressed(self, run: Run, progress: Progress) -> None:
        """Pass progress on to whoever has called the function."""
        self.waiters.progressed(run.record.new.id, progress)

    def reports(self, run: Run) -> Reports:
        """Return where the progress and the partial results of an attempt go."""
        task, committed = run.record.new.id, run.is_start_committed
        push, clock = self.hub.publish, self._clock
        return Reports(task, run.next_seq, self.writer, push, clock, self._now, is_start_committed=committed)

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Settle an attempt; who waits gets the outcome once it is stored."""
        self.limiter.remove(run)
        if isinstance(outcome, Failure) and outcome.code == TimedOut.code and not run.has_started:
            outcome = LATE
        durability = self._durability(run.record.new.function)
        if run.retries is not None:
            durability = msgspec.structs.replace(durability, retries=run.retries)
        if self.is_stopping and not durability.once and is_loss(outcome):
            outcome = STOPPING  # no fault of the task's: any number of stops must not set it aside
        elif run.is_fenced and isinstance(outcome, Failure) and outcome is not STOPPING:
            outcome = LOST_LEASE if durability.once else STOPPING
        settle = settle_of(run, outcome, durability, self._now())
        if settle is None:
            self._release(run)
            return
        run.result = settle.outcome if settle.state is State.SUCCEEDED else None
        is_seen = self.waiters.are_there(settle.id) or self.hub.is_watched(settle.id) or run.record.new.batch
        self.writer.settle(settle, partial(self._settled, run, settle), may_wait=not is_seen)

    def _settled(self, run: Run, settle: Settle, is_own: bool) -> None:  # noqa: FBT001
        self._forget(run, waits=settle.state is State.WAITING)
        if not is_own:
            self._not_own.ended(run, settle)
        elif settle.state in ENDED or self.is_stopping:
            self.waiters.announce(settle.id, settle.state, settle.outcome)
        elif run.record.new.batch in self.batches.cancelling:
            self.writer.cancel(settle.id, bool)
        elif settle.state is State.SCHEDULED:  # not before it is stored: the alarm would find nothing
            self.upkeep.watch(settle.due)
        elif settle.state is State.WAITING:
            self.window.claim(run.record.new.function, run.record.new.limit_key)

    def _forget(self, run: Run, *, waits: bool) -> None:
        self.runs.pop(run.record.new.id, None)
        self._once.remove(run)
        self.limiter.remove(run)
        run.task = None  # the garbage collector does not see the cycle of a task, its call and its run
        self.window.leave(run.record, waits=waits)

    def _release(self, run: Run) -> None:
        """Put back into the store what was claimed and has not started."""
        self.writer.release(run.record.new.id)
        self._forget(run, waits=True)

    def let_go(self, run: Run) -> None:
        """Put back what was claimed, unless a worker has it."""
        if not run.has_started and (run.task is None or self._runner.withdraw(run.task)):
            self._release(run)

    # --- other nodes ---

    def hold(self, *, held: bool) -> None:
        """Claim nothing, and give back what has not begun; or claim tasks again."""
        self._is_held = held
        if held:
            for run in list(self.runs.values()):
                self.let_go(run)
        else:
            self.hub.look_again()
            self.look_everywhere()

    def look_everywhere(self, functions: Sequence[str] | None = None) -> None:
        """Claim tasks of these functions, of all by default, since others may have stored some."""
        known = self._functions
        self.window.look_everywhere(known if functions is None else known.keys() & functions)

    # --- held, and put back ---

    @property
    def paused(self) -> frozenset[str]:
        """The functions of which nothing is started."""
        return self.pauses.functions

    def durability(self, function: str) -> Durability | None:
        """Return how a function's tasks are stored; None for an unknown function."""
        return self._functions.get(function)

    def missing(self, function: str) -> tuple[str, ...]:
        """Return the labels that a function needs and this node does not have."""
        return self._missing.get(function, ())

    def run_of(self, task: str) -> Run | None:
        """Return the run of a claimed task."""
        return self.runs.get(task)

    def position(self, run: Run) -> Position | None:
        """Return the place of a claimed task in the queue for a worker."""
        return None if run.task is None else self._runner.position(run.task)

    def put_back(self, task: str, answer: Callable[[State | StoreError | None], object]) -> None:
        """Let a task that failed or was set aside wait again; the answer is its state before."""

        def done(was: State | StoreError | None) -> None:
            if was in (State.FAILED, State.SET_ASIDE):
                self.look_everywhere()
            answer(was)

        self.writer.put_back(task, done)

    # --- reading ---

    def get(self, task: str) -> Deferred[Record | None]:
        """Read a task."""
        return self.read(lambda: self.store.get(task))

    def read(self, function: Callable[[], Value]) -> Deferred[Value]:
        """Call a reading function of the store, once that is open: before, nothing is known of pauses."""
        return (self._read if self._is_open else self._execute)(function)

    # --- cancelling ---

    def cancel(self, task: str, answer: Callable[[State | StoreError | None], object]) -> None:
        """Cancel a task, whether it waits, runs, or is scheduled; the answer is its state before."""
        self.cancels.cancel(task, answer)

    # --- batches ---

    def now(self) -> float:
        """Return the seconds since 1970."""
        return self._now()

    def stored(self, task: New) -> None:
        """Schedule the start of tasks that have been stored, of which this is one."""
        self._share(task)
        if task.due <= self._now():
            self.window.claim(task.function, task.limit_key)
        self._watch(task)

    def _watch(self, task: New) -> None:
        """Look at a stored task at its times, since it may be scheduled even if they are past by now."""
        if task.due:
            self.upkeep.watch(task.due)
        if task.deadline is not None:
            self.deadlines.watch(task.deadline)

    # --- time ---

    def clock_moved(self, seconds: float, follow: Callable[[float], object]) -> None:
        """Let the clock that was set count, by `follow`; delays and intervals take as long as ever."""
        _log.warn("the machine's clock has been set by {seconds:+.1f} s", seconds=seconds)
        move_clock(seconds, follow, self.schedules, self.upkeep, self.deadlines, self.writer)

    # --- the stop ---

    def stop_accepting(self) -> None:
        """Refuse new tasks. Those that wait are left in the store, if that lasts."""
        self.is_stopping = True
        self.schedules.stop()
        self.batches.stop()
        if self.store.is_lasting:
            self.limiter.close()
            self._once.close()
            for run in list(self.runs.values()):
                if run.is_marked and run.task is not None and self._runner.withdraw(run.task):
                    self.ended(run, STOPPING)
                elif not run.has_started and (run.task is None or self._runner.withdraw(run.task)):
                    del self.runs[run.record.new.id]
                    if self.elsewhere is not None:  # others need not wait for the end of this node
                        self.writer.release(run.record.new.id)
        self.waiters.stop(self.runs)

    def close(self, written: Callable[[], object] = bool) -> Deferred[None]:
        """Write what is left, call `written`, and close the store; fires when that is done."""
        flushed = self.writer.flushed().addTimeout(GIVE_UP_SECONDS, self._clock)
        flushed.addErrback(lambda _: _log.error("the ends of tasks cannot be stored: these run again"))
        return flushed.addBoth(lambda _: written()).addBoth(lambda _: self.upkeep.close())
