"""The methods about stored tasks (``taskd.submit`` and others), and ordinary calls of durable functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Raw
from twisted.internet.interfaces import IReactorTime

from taskd.auth.policy import check_function
from taskd.durable.answers import answer_by, refused, result, unknown_task
from taskd.durable.attaching import Attaching
from taskd.durable.batch_methods import BatchMethods
from taskd.durable.calls import OrdinaryCall
from taskd.durable.coverage import check_runs_again
from taskd.durable.holding import Holding
from taskd.durable.listing import Listed, Listing
from taskd.durable.ownership import check_may_change, check_may_see, check_may_see_arguments, for_whom
from taskd.durable.reasons import SharedPlaces, why
from taskd.durable.rows import RowCheck
from taskd.durable.tasks import DurableTasks
from taskd.durable.views import TaskView
from taskd.durable.waiters import AnsweredWait, left_for_next_start
from taskd.errors import Busy, InvalidParams, quoted
from taskd.functions.registry import FunctionInfo
from taskd.model import NO_SUBMIT_OPTIONS, Failure, Grant, Outcome, SubmitOptions
from taskd.protocol.requests import Request
from taskd.protocol.stored_methods import NOT_GIVEN
from taskd.server.figures import Commits
from taskd.server.labels import check_labels
from taskd.server.methods import Asker, Requester, Work
from taskd.server.status import ScheduleStatus, StoreStatus
from taskd.store.base import StoreError
from taskd.store.nodes import NodeRow, Places
from taskd.store.records import ENDED, Accepted, Record, State

__all__ = ["StoredMethods"]

_NO_ARGS = Raw(b"[]")


class StoredMethods:
    """Handles the methods about stored tasks. Implements `taskd.server.methods.StoredCalls`."""

    def __init__(
        self, clock: IReactorTime, tasks: DurableTasks, functions: Callable[[], list[FunctionInfo]]
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._functions = functions
        self._checks: dict[str, RowCheck] = {}
        self._attaching = Attaching(tasks.hub, tasks.log.read)
        self._batches = BatchMethods(clock, tasks, functions)
        self._holding = Holding(tasks, functions, self._batches.unknown_task)
        self._listing = Listing(tasks, self._batches)

    def use(self, functions: list[FunctionInfo]) -> None:
        """Run the stored tasks of these functions from now on."""
        self._checks = {each.name: RowCheck(each.parameters) for each in functions}
        self._tasks.use(functions)

    @property
    def status(self) -> StoreStatus:
        """The state of the store."""
        tasks = self._tasks
        return StoreStatus(tasks.store.is_lasting, tasks.claimed, tasks.fault, sorted(tasks.paused))

    @property
    def is_shared(self) -> bool:
        """Whether other nodes have the same store, and run tasks of it."""
        return self._tasks.elsewhere is not None

    @property
    def commits(self) -> Commits:
        """The transactions of the store."""
        writer = self._tasks.writer
        return Commits(writer.commit_seconds, writer.failed_commits)

    @property
    def schedules(self) -> list[ScheduleStatus]:
        """The schedules of the functions."""
        return self._tasks.schedules.status

    # --- in ---

    def call(self, request: Request[Work], requester: Requester | None, grant: Grant) -> None:
        """Store the task of an ordinary call, and answer when it has ended; None if the caller is gone."""
        options = request.options
        by, grant = grant, for_whom(grant, options.owner)
        note = partial(self._tasks.writer.taken_on, request.function, 1, by, grant.owner)
        if options.track:
            self._track(request, requester, grant, note)
        elif requester is not None:
            OrdinaryCall(self._tasks, request, requester, grant, note)
        else:
            self._tasks.submit(
                request.function, request.args, options, lambda given: _noted(given, note), grant=grant
            )

    def _track(
        self,
        request: Request[Work],
        requester: Requester | None,
        grant: Grant,
        note: Callable[[], object],
    ) -> None:
        """Store the task of a call, and answer with its id."""
        if request.options.progress or request.options.on_disconnect != "finish":
            raise InvalidParams(
                "options.track: the task does not depend on this connection, so that progress and "
                "on_disconnect mean nothing: see taskd.attach and taskd.cancel",
                argument="options.track",
            )

        def stored(accepted: Accepted | StoreError | Busy) -> None:
            _noted(accepted, note)
            if requester is not None:
                requester.task_ended(request, _accepted(accepted))
                requester.flush()

        self._tasks.submit(request.function, request.args, request.options, stored, grant=grant)

    def submit(
        self,
        asker: Asker,
        /,
        function: str,
        args: Raw = NOT_GIVEN,
        options: SubmitOptions = NO_SUBMIT_OPTIONS,
        token: str | None = None,
    ) -> Outcome | None:
        """Store a task, and answer with its id."""
        check_function(asker.grant, function)
        self._check_is_known(function)
        grant = for_whom(asker.grant, options.owner)
        given = None if bytes(args) == bytes(NOT_GIVEN) else Raw(bytes(args))
        if given is not None and memoryview(given)[0] not in b"{[":
            raise InvalidParams("taskd.submit: args is an object or an array", argument="args")
        if (check := self._checks.get(function)) is not None:
            check.check(_NO_ARGS if given is None else given, "args")

        note = partial(self._tasks.writer.taken_on, function, 1, asker.grant, grant.owner)

        def stored(accepted: Accepted | StoreError | Busy) -> None:
            _noted(accepted, note)
            asker.answer(_accepted(accepted))

        self._tasks.submit(function, given, options, stored, token=token, grant=grant)
        return None

    def _check_is_known(self, function: str) -> None:
        known = self._functions()
        for each in known:
            if each.name == function:
                check_labels(each, is_shared=self.is_shared)
                return
        if known:
            raise InvalidParams(f"taskd.submit: no such function: {quoted(function)}", argument="function")

    def submit_batch(
        self,
        asker: Asker,
        /,
        function: str,
        args: list[Raw],
        options: SubmitOptions = NO_SUBMIT_OPTIONS,
        then: str | None = None,
        token: str | None = None,
    ) -> Outcome | None:
        """Store many tasks of a function, all or none, and answer with their ids."""
        return self._batches.submit(asker, function, args, options, then, token)

    def cancel(self, asker: Asker, task: str) -> Outcome | None:
        """Cancel a stored task or a batch, and answer with what it was: waiting, running, scheduled, done."""

        def cancelled(state: State | StoreError | None) -> None:
            if isinstance(state, StoreError):
                asker.answer(refused(state))
            elif state is None:
                self._batches.cancel(asker, task, lambda: asker.answer(Failure.of(unknown_task(task))))
            else:
                asker.answer(result({"was": "done" if state in ENDED else state.name.lower()}))

        def found(record: Record | None) -> None:
            if record is None:
                cancelled(None)
            else:
                check_may_change(asker.grant, record.new.owner)
                self._tasks.cancel(task, cancelled)

        run = self._tasks.run_of(task)
        if run is not None:
            found(run.record)
        elif asker.grant.has("operate"):  # who need not be asked whose it is
            self._tasks.cancel(task, cancelled)
        else:
            self._read(asker, task, found)
        return None

    # --- held, and put back ---

    def retry(self, asker: Asker, /, task: str) -> Outcome | None:
        """Put back a task that failed or was set aside, and that the asker could have submitted itself."""

        def found(record: Record) -> None:
            check_may_change(asker.grant, record.new.owner)
            check_runs_again(asker.grant, record, self._tasks.vault, self._functions)
            self._holding.retry(asker, task)

        if asker.grant.has("operate") and not asker.grant.is_narrow:  # who may put back any task
            self._holding.retry(asker, task)
        else:
            self._find(asker, task, found)
        return None

    def why(self, asker: Asker, /, task: str) -> Outcome | None:
        """Answer with what holds a task."""

        def answer(
            record: Record, nodes: Sequence[NodeRow] | None = None, shared: SharedPlaces | None = None
        ) -> None:
            reason = why(record, self._tasks, self._tasks.now(), asker.grant, nodes, shared)
            asker.answer(result(reason))

        def found(record: Record) -> None:
            elsewhere, function = self._tasks.elsewhere, record.new.function
            place = self._tasks.limiter.place(record)
            if elsewhere is not None and self._tasks.missing(function):  # others can run it
                answer_by(elsewhere.nodes(), partial(answer, record), asker.answer)
            elif elsewhere is not None and place is not None and self._tasks.run_of(task) is None:

                def counted(places: Places) -> None:
                    answer(record, shared=SharedPlaces(place, places))

                answer_by(elsewhere.places(function, place), counted, asker.answer)
            else:
                answer(record)

        self._find(asker, task, found)
        return None

    def pause(self, asker: Asker, /, function: str) -> Outcome | None:
        """Start no stored task of a function until it is resumed."""
        check_function(asker.grant, function)
        return self._holding.pause(asker, function, paused=True)

    def resume(self, asker: Asker, /, function: str) -> Outcome | None:
        """Start the stored tasks of a function again."""
        check_function(asker.grant, function)
        return self._holding.pause(asker, function, paused=False)

    # --- out ---

    def get(
        self,
        asker: Asker,
        /,
        task: str | None = None,
        batch: str | None = None,
        with_args: bool = False,  # noqa: FBT001, FBT002
    ) -> Outcome | None:
        """Answer with a stored task, or with a batch."""
        task = _task_of("get", task, batch)
        if batch is not None:
            self._batches.get(asker, batch)
            return None

        def found(record: Record) -> None:
            if with_args:
                check_may_see_arguments(asker.grant, record.new.owner)
            asker.answer(
                result(
                    TaskView.with_args(record, vault=self._tasks.vault) if with_args else TaskView.of(record)
                )
            )

        self._find(asker, task, found)
        return None

    def _find(
        self,
        asker: Asker,
        task: str,
        found: Callable[[Record], object],
        refusing: Callable[[], object] = bool,  # which does nothing
    ) -> None:
        """Call `found` with a task that the asker may see; if there is none, call `refusing`, and answer."""

        def got(record: Record | None) -> None:
            if record is None:
                refusing()
                self._batches.unknown_task(asker, task)
                return
            check_may_see(asker.grant, record.new.owner)
            found(record)

        def refuse(outcome: Outcome) -> None:
            refusing()
            asker.answer(outcome)

        answer_by(self._tasks.get(task), got, refuse)

    def _read(self, asker: Asker, task: str, got: Callable[[Record | None], object]) -> None:
        """Call `got` with a task, None if there is none; what it raises is the answer."""
        answer_by(self._tasks.get(task), got, asker.answer)

    def wait(
        self, asker: Asker, /, task: str | None = None, timeout: float | None = None, batch: str | None = None
    ) -> Outcome | None:
        """Answer with a stored task or a batch once it has ended, or after `timeout` seconds."""
        task = _task_of("wait", task, batch)
        if batch is not None:
            self._batches.wait(asker, batch, timeout)
            return None
        # Waiting comes first, so that no end is missed.
        wait = AnsweredWait(
            self._clock,
            timeout,
            partial(self._tasks.waiters.wait, task),
            lambda: self._find(asker, task, partial(self._answer_wait, asker)),
        )
        asker.request.work = wait

        def found(record: Record) -> None:
            wait.begin(has_ended=record.state in ENDED or self._is_left(record))

        self._find(asker, task, found, wait.give_up)
        return None

    def _is_left(self, record: Record) -> bool:
        return record.state not in ENDED and self._tasks.waiters.is_left(record.new.id)

    def _answer_wait(self, asker: Asker, record: Record) -> None:
        left = Failure.of(left_for_next_start("the task"))
        asker.answer(left if self._is_left(record) else result(TaskView.of(record)))

    def attach(
        self, asker: Asker, /, task: str | None = None, batch: str | None = None, after: int = 0
    ) -> Outcome | None:
        """Push the events of a task or a batch to the asker's connection."""
        return self._attaching.attach(asker, task, batch, after)

    def detach(self, asker: Asker, /, task: str | None = None, batch: str | None = None) -> Outcome:
        """Push no more events of a task or a batch."""
        return self._attaching.detach(asker, task, batch)

    def events(
        self,
        asker: Asker,
        /,
        task: str | None = None,
        batch: str | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> Outcome | None:
        """Answer with events of a task or a batch."""
        return self._attaching.events(asker, task, batch, after, limit)

    def read_again(self, requester: Requester) -> None:
        """Push events again to a connection that was slow to read."""
        self._tasks.hub.resume(requester)

    def gone(self, requester: Requester) -> None:
        """Push nothing more to a connection that is gone."""
        self._tasks.hub.gone(requester)

    def list(
        self,
        asker: Asker,
        /,
        state: str | None = None,
        function: str | None = None,
        after: str = "",
        limit: int = 100,
        batch: str | None = None,
        key: str | None = None,
        like: str | None = None,
        batches: bool = False,  # noqa: FBT001, FBT002
        owner: str | None = None,
        error: str | None = None,
        newest: bool = False,  # noqa: FBT001, FBT002
        before: str = "",
    ) -> Outcome | None:
        """Answer with stored tasks, or with batches."""
        listed = Listed(state, function, batch, key, like, owner, error, newest)
        return self._listing.list(asker, listed, before if newest else after, limit, batches=batches)


def _task_of(method: str, task: str | None, batch: str | None) -> str:
    """Return the task that is named, "" if a batch is. Raises `InvalidParams` unless one of them is."""
    if (task is None) is (batch is None):
        raise InvalidParams(f"taskd.{method}: takes either a task or a batch", argument="task")
    return task or ""


def _noted(accepted: Accepted | StoreError | Busy, note: Callable[[], object]) -> None:
    """Note a task that was stored, unless it has joined another."""
    if isinstance(accepted, Accepted) and not accepted.joined:
        note()


def _accepted(accepted: Accepted | StoreError | Busy) -> Outcome:
    if not isinstance(accepted, Accepted):
        return refused(accepted)
    return result({"task": accepted.id, "joined": accepted.joined})
