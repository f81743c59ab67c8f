"""The task server as its users see it: submit, cancel, status, reload, stop; whether to accept a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.auth.policy import check_function, check_role, check_urgent
from taskd.errors import MethodNotFound, NotAllowed, ShuttingDown, TaskdError, quoted
from taskd.functions.registry import FunctionInfo
from taskd.functions.wire_names import RESERVED
from taskd.model import NO_OPTIONS, PRIORITY, Call, Failure, Grant
from taskd.net.pressure import watch_budget
from taskd.net.reactor import Reactor
from taskd.pool.pool import PoolConfig
from taskd.protocol.method_names import SUBMIT, SUBMIT_BATCH
from taskd.protocol.methods import dispatch
from taskd.protocol.requests import Request
from taskd.scheduler import FunctionStats
from taskd.scheduler.budget import MAX_BUFFERED, Account, Budget
from taskd.scheduler.config import SchedulerConfig
from taskd.scheduler.parties import Lane, Parties
from taskd.scheduler.quotas import Quota
from taskd.scheduler.states import GIVEN, WAITING
from taskd.scheduler.task import Nobody, Subscriber, Task
from taskd.server.counters import Counters
from taskd.server.dispatcher import Dispatcher
from taskd.server.failures import internal_error, no_memory
from taskd.server.figures import ServerFigures, workers_of
from taskd.server.fixed_arguments import fix_arguments
from taskd.server.labels import LackingFunctions
from taskd.server.methods import Asker, Requester, StoredCalls, Work, granted
from taskd.server.operating import AllMethods
from taskd.server.operation import Operation
from taskd.server.position import Position, position_of
from taskd.server.readiness import DRAINED, DRAINING, Unready, no_new_tasks, unready
from taskd.server.status import ServerStatus, server_status
from taskd.server.unanswered import Unanswered

__all__ = ["ServerConfig", "TaskServer"]

_log = Logger(namespace="taskd.server")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The configuration of a task server.

    `timeout` is the time limit of functions that have none of their own, in
    seconds; None means no limit. `max_buffered` is in bytes. `labels` are
    those that functions may need; None stands for all.
    """

    pool: PoolConfig
    scheduler: SchedulerConfig
    timeout: float | None = None
    max_buffered: int = MAX_BUFFERED
    labels: Sequence[str] | None = ()

    def start(self, reactor: Reactor) -> TaskServer:
        """Start a server and its pool. `TaskServer.loaded` fires when the app is imported."""
        return TaskServer(reactor, self)


class TaskServer:
    """A running task server, made by `ServerConfig.start`.

    `submit` takes requests; `stop_accepting`, `drain`, `abort` and `close` end it.
    """

    copies = 1
    """A task has the arguments of its request."""

    def __init__(self, reactor: Reactor, config: ServerConfig) -> None:
        self._clock: IReactorTime = reactor
        self._config = config
        self._started = self._clock.seconds()
        self._functions: dict[str, FunctionInfo] = {}
        self._last_task = 0
        self.counters = Counters()
        self._is_draining = False
        self._is_closed = False  # to new tasks: it is drained, or stops
        self.connections = 0
        """The number of open connections, kept by those who accept them."""
        self.budget = Budget(config.max_buffered, config.pool.config.max_result)
        watch_budget(self._clock, self.budget)
        self.log_lines_lost: Callable[[], int] = int
        """Returns how many lines of the log were lost; set by whoever writes the log."""
        self.unanswered = Unanswered(reactor)
        self.parties = Parties()
        self._dispatcher = Dispatcher(
            reactor, config.pool, config.scheduler, self.counters, self.unanswered, self._use
        )
        self._scheduler = self._dispatcher.scheduler
        self._stats: dict[str, FunctionStats] = {}  # of the functions whose calls need no store
        self.stored: StoredCalls | None = None
        """The tasks that are stored; set by whoever has a store."""
        self._durable: set[str] = set()  # those of which every call is stored here
        self._lacking = LackingFunctions(config.labels)
        self._in_flight = self._dispatcher.completion.in_flight
        self.operation = Operation(self._clock, self._dispatcher, self.reload, self._drained)
        self._methods = AllMethods(self, self.operation, self._clock)

    @property
    def loaded(self) -> Deferred[None]:
        """A Deferred that fires when the app is imported, and fails with `StartError` if it cannot be."""
        return self._dispatcher.pool.loaded

    @property
    def shows_tracebacks(self) -> bool:
        """Whether callers may get the traceback of an exception."""
        return self._config.pool.config.error_details == "traceback"

    # --- what `taskd.server.methods` asks for ---

    @property
    def functions(self) -> list[FunctionInfo]:
        """The functions that can be called; empty before the app is imported."""
        return list(self._functions.values())

    def known_functions(self) -> Mapping[str, FunctionInfo]:
        """Return the functions that can be called, by name; none before the app is imported."""
        return self._functions

    def find(self, number: int) -> Task | None:
        """Return the task with this number, None if it has ended or never existed."""
        return self._in_flight.get(number)

    @property
    def max_workers(self) -> int:
        """The number of workers that there may be."""
        return self._scheduler.config.max_workers

    def cancel(self, work: Work, grace: float = inf) -> None:
        """Cancel a task in flight; its subscribers get the outcome, possibly before this returns.

        `grace` is how many seconds it has at most until its process is terminated, if it is not a stored one.
        """
        if isinstance(work, Task):
            self._dispatcher.cancel(work, grace)
        else:
            work.cancel()

    def detach(self, work: Work, account: Account | None = None, held: int = 0) -> None:
        """Let a task go on without its submitter; at its end, release `held` bytes of an account.

        A stored task holds none of them.
        """
        if isinstance(work, Task):
            work.detach(account, held)
            return
        work.detach()
        if account is not None:
            account.release(held)

    def status(self) -> ServerStatus:
        """Return what the server and each of its workers is doing."""
        now = self._clock.seconds()
        dispatcher = self._dispatcher
        return server_status(
            self._scheduler,
            dispatcher.pool,
            self.budget,
            next((task for task in self._in_flight.values() if task.state is not GIVEN), None),
            now,
            name=self._config.pool.config.name,
            uptime=round(now - self._started, 3),
            stopping=dispatcher.is_stopping,
            reloading=dispatcher.reloader.in_progress,
            connections=self.connections,
            counts=self.counters,
            unanswered=self.unanswered.counts,
            log_lines_lost=self.log_lines_lost(),
            unready=self.unready(),
            labels=sorted(self._config.labels or ()),
            store=self.stored.status if self.stored is not None else None,
            schedules=self.stored.schedules if self.stored is not None else [],
        )

    def unready(self) -> Unready | None:
        """Return why the server would not take a task now; None if it would."""
        if self._is_draining or self._dispatcher.is_stopping:
            return DRAINING
        if self.operation.is_drained:
            return DRAINED
        fault = None if self.stored is None else self.stored.status.fault
        return unready(self._scheduler, self._dispatcher.pool, self.budget, fault)

    def figures(self) -> ServerFigures:
        """Return the figures of the server, for those who measure it."""
        scheduler, dispatcher = self._scheduler, self._dispatcher
        oldest = next((task for task in self._in_flight.values() if task.state is not GIVEN), None)
        return ServerFigures(
            name=self._config.pool.config.name,
            functions=list(scheduler.functions.values()),
            counters=self.counters,
            workers=workers_of(scheduler, dispatcher.pool, dispatcher.feedback.worker_ends),
            running=scheduler.fleet.running,
            max_queue=scheduler.config.max_queue,
            oldest_waiting=0.0 if oldest is None else self._clock.seconds() - oldest.received,
            connections=self.connections,
            log_lines_lost=self.log_lines_lost(),
            generation=scheduler.fleet.generation,
            store=self.stored.status if self.stored is not None else None,
            commits=self.stored.commits if self.stored is not None else None,
        )

    # --- requests ---

    def submit(self, requests: Sequence[Request[Work]], requester: Requester) -> None:
        """Accept requests of one connection, each as a task, which becomes its `Request.work`.

        Each request is answered exactly once, by `Requester.task_ended` with the
        request as the key. If that happens before this returns, the requester is
        not flushed.
        """
        now = self._clock.seconds()
        for request in requests:
            try:
                self._accept(request, requester, now)
            except TaskdError as error:
                requester.task_ended(request, Failure.of(error))
            except Exception:
                requester.task_ended(request, internal_error(request.function))
        self._dispatcher.submitted(now)

    def _accept(self, request: Request[Work], requester: Requester, now: float) -> None:
        stats = self._stats.get(request.function)
        if stats is None or self._is_closed:
            stats = self._begin_otherwise(request, requester)
            if stats is None:
                return
        if self.budget.is_spent:
            self.counters.refused += 1
            raise no_memory(self.budget)
        self._last_task += 1
        options = request.options
        lane, limit, deadline = requester.lane, stats.limit, None
        if options is not NO_OPTIONS:
            if options.caller is not None or options.grant is not None or options.owner is not None:
                lane = self._lane_of(request, requester)
            if options.track:
                self._track(request, requester)
                return
            if options.timeout is not None:
                limit = stats.limit_for(options.timeout)
            if options.deadline is not None:
                deadline = now + options.deadline
        task = Task(
            self._last_task,
            request,
            stats,
            requester,
            request,
            now,
            options.priority,
            lane,
            limit,
            deadline,
            lane.party.quota,
        )
        try:
            self._scheduler.submit(task)
        except TaskdError:
            self.counters.refused += 1
            raise
        self._in_flight[task.number] = task
        request.work = task

    def _begin_otherwise(self, request: Request[Work], requester: Requester) -> FunctionStats | None:
        """Begin with a request that is no plain call; return statistics if it is one of an unknown function.

        Raises `TaskdError` to refuse it.
        """
        self._hold_to_grant(request, requester)
        if request.function.startswith(RESERVED):
            grant = granted(requester, request.options)
            check_role(grant, request.function)
            asker = Asker(requester, request, self.operation.audit.noting(grant, request))
            if self.operation.is_drained and request.function in (SUBMIT, SUBMIT_BATCH):
                raise no_new_tasks()
            answer = dispatch(self._methods, self.stored, asker, request)
            if answer is not None:
                if asker.on_answer is not None:
                    asker.on_answer(answer)
                requester.task_ended(request, answer)
            return None
        if self.operation.is_drained:
            raise no_new_tasks()
        if self.stored is not None and self._is_stored(request):
            self.stored.call(request, requester, granted(requester, request.options))
            return None
        return self._unknown(request)

    def _is_stored(self, request: Request[Work]) -> bool:
        """Return whether a call that is no plain one becomes a stored task."""
        is_for_others = request.function in self._lacking.missing and self._is_shared
        return request.function in self._durable or (is_for_others and request.options.track)

    @property
    def _is_shared(self) -> bool:
        return self.stored is not None and self.stored.is_shared

    def _lane_of(self, request: Request[Work], requester: Requester) -> Lane:
        """Return where a call waits that is of another caller, or for another owner, if that is allowed."""
        self._hold_to_grant(request, requester)
        grant, caller = request.options.grant, request.options.caller
        if not requester.may_name_callers:
            return requester.lane
        if grant is not None and grant.owner:
            return self.parties.owned_lane(grant, caller)
        return requester.lane if caller is None else self.parties.named_lane(caller)

    def _hold_to_grant(self, request: Request[Work], requester: Requester) -> None:
        """Hold a call to what its caller may do, as a gateway says. Raises `NotAllowed` or `Busy`."""
        options = request.options
        if options is NO_OPTIONS:
            return
        grant = granted(requester, options)
        if options.owner is not None and options.owner != grant.owner and not grant.has("operate"):
            raise NotAllowed("options.owner: only operators speak for others", reason="role")
        if options.grant is not grant:
            return
        if not request.function.startswith(RESERVED):
            check_function(grant, request.function)
        if self._config.scheduler.shared_priorities and options.priority < PRIORITY:
            check_urgent(grant)
        if grant.args:
            fix_arguments(request, grant.args, self.known_functions)

    def _track(self, request: Request[Work], requester: Requester) -> None:
        """Store the task of a call with the option `track`, and answer with its id."""
        if self.stored is None:
            raise NotAllowed("options.track: this server has no store")
        self.stored.call(request, requester, granted(requester, request.options))

    def _unknown(self, call: Call) -> FunctionStats:
        """Return new statistics for an unknown function, or raise the reason to refuse the call."""
        if self._dispatcher.is_stopping:
            raise ShuttingDown("the server is shutting down")
        self._lacking.check(call.function, is_shared=self._is_shared)
        # Until the app is imported its functions are unknown: let the call wait.
        if self._functions:
            raise MethodNotFound(f"no such function: {quoted(call.function)}")
        stats = self._stats[call.function] = FunctionStats(call.function)
        self._scheduler.functions[call.function] = stats
        return stats

    def limit(self, grant: Grant) -> Quota:
        """Return the limits of an owner, which are those of this grant from now on."""
        return self.parties.limit(grant)

    def stored_lane(self, owner: str, running: int | None) -> Lane:
        """Return the lane of an owner's stored tasks; `running` may run, unless more is known of that."""
        return self.parties.stored_lane(owner, running)

    def run(self, call: Call, subscriber: Subscriber, lane: Lane) -> Task:
        """Queue a task of the store, however many wait. Raises `MethodNotFound`."""
        stats = self._scheduler.functions.get(call.function)
        if stats is None or call.function not in self._functions or call.function in self._lacking.missing:
            raise MethodNotFound(f"no such function: {quoted(call.function)}")
        self._last_task += 1
        now, priority = self._clock.seconds(), call.options.priority
        limit, deadline, quota = (
            stats.limit_for(call.options.timeout),
            call.options.deadline,
            lane.party.quota,
        )
        ends = None if deadline is None else now + deadline
        task = Task(self._last_task, call, stats, subscriber, None, now, priority, lane, limit, ends, quota)
        self._scheduler.enqueue(task)
        self._in_flight[task.number] = task
        self.operation.queued(call.function, 1)
        self._dispatcher.submitted(now)
        return task

    def withdraw(self, task: Task) -> bool:
        """Take back a task of `run` that waits, without an outcome; return whether it did."""
        if task.state is not WAITING:
            return False
        self._scheduler.queue.remove(task)
        del self._in_flight[task.number]
        self.operation.queued(task.stats.name, -1)
        return True

    def position(self, task: Task) -> Position | None:
        """Return the place of a task in the queue, None if it does not wait there."""
        return position_of(self._scheduler, task)

    def resume(self, requester: Requester) -> None:
        """Let the throttled tasks of a requester start: it was full and reads again, or is gone."""
        self._scheduler.queue.resume(requester)
        self._dispatcher.turn_soon()

    def read_again(self, requester: Requester) -> None:
        """Push events again to a requester that watches tasks, and was slow to read."""
        if self.stored is not None:
            self.stored.read_again(requester)

    def gone(self, requester: Requester) -> None:
        """Push no more events to a requester that watched tasks."""
        if self.stored is not None:
            self.stored.gone(requester)

    # --- code ---

    def reload(self) -> Deferred[str]:
        """Load the app again, and use it once its workers are ready; the result is logged.

        Return a Deferred that fires with the result in words, whatever it is.
        """
        if self._dispatcher.is_stopping:
            return succeed("not reloaded: the server is shutting down")
        return self._dispatcher.reloader.start()

    def _use(self, functions: list[FunctionInfo]) -> None:
        """Accept calls of these functions from now on."""
        is_first = not self._functions
        functions = self._lacking.use(functions)
        self._functions = {function.name: function for function in functions}
        self._dispatcher.feedback.secrets.use(functions)
        _log.info("functions: {names}", names=", ".join(sorted(self._functions)))
        scheduler = self._scheduler
        known = scheduler.functions
        for function in functions:
            stats = known.setdefault(function.name, FunctionStats(function.name))
            stats.timeout, stats.grace = function.timeout, function.grace
            stats.limit = function.timeout if function.timeout is not None else self._config.timeout
            stats.forget()  # the code is new
        runnable = self._functions.keys() - self._lacking.missing.keys()
        durable = {each.name for each in functions if each.durable is not None and self.stored is not None}
        self._durable = durable if self._is_shared else durable & runnable
        self._stats = {name: known[name] for name in runnable - self._durable}
        if is_first:
            self._store_early_calls()
        for task in scheduler.queue.drop_waiting(unless=runnable):
            self._dispatcher.refuse([task], self._lacking.refusal(task, is_shared=self._is_shared))
        for name in [name for name in known if name not in self._functions]:
            del known[name]
        for task in scheduler.queue.all_waiting:
            task.limit = task.stats.limit_for(task.call.options.timeout)
        self._methods.functions_changed()
        if self.stored is not None:
            self.stored.use(functions)

    def _store_early_calls(self) -> None:
        """Store the calls of durable functions that have come before it was known which are."""
        if self.stored is not None:
            for task in self._scheduler.queue.drop_waiting(unless=self._functions.keys() - self._durable):
                if task.stats.name in self._durable:
                    del self._in_flight[task.number]
                    gone = isinstance(task.subscriber, Nobody)
                    requester = None if gone else cast("Requester", task.subscriber)
                    request = cast("Request[Work]", task.call)
                    request.work = None
                    owner = Grant(task.lane.party.owner)
                    grant = owner if requester is None else granted(requester, request.options)
                    self.stored.call(request, requester, grant)
                else:
                    self._dispatcher.refuse([task], MethodNotFound(f"no such function: {task.stats.name}"))

    # --- the stop ---

    def _drained(self) -> None:
        self._is_closed = self.operation.is_drained or self._dispatcher.is_stopping

    def announce_stop(self) -> None:
        """Be unready from now on, so that health checks send nobody here; everything is served as before."""
        self._is_draining = True

    def stop_accepting(self) -> None:
        """Refuse new calls; the server's own methods are still answered."""
        self._is_closed = True
        self._dispatcher.stop_accepting()

    def drain(self) -> Deferred[None]:
        """Return a Deferred that fires when no task waits or runs; call `stop_accepting` first."""
        return self._dispatcher.drain()

    def in_flight(self) -> Counter[str]:
        """Count the tasks that wait or run, by function."""
        return Counter(task.stats.name for task in self._in_flight.values())

    def abort(self) -> None:
        """Complete every task that still waits or runs with a failure; kill the workers that have one."""
        self._is_closed = True
        self._dispatcher.abort()

    def kill(self) -> None:
        """Kill every process at once, in a signal handler while the reactor does not answer."""
        self._dispatcher.pool.kill()

    def close(self) -> Deferred[None]:
        """End every process; fires when none is left. `abort` hastens it."""
        self.unanswered.close()
        return self._dispatcher.close()
