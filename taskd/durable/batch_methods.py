"""The methods about batches: ``taskd.submit_batch``, and ``get``, ``wait`` and ``cancel`` of a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from msgspec import Raw
from msgspec.structs import replace
from twisted.internet.interfaces import IReactorTime

from taskd.auth.policy import check_function
from taskd.durable.answers import answer_by, refused, result, unknown_task
from taskd.durable.coverage import follower_args
from taskd.durable.ids import Ids
from taskd.durable.ownership import allowed, check_may_change, check_may_see, for_whom
from taskd.durable.rows import RowCheck
from taskd.durable.tasks import DurableTasks
from taskd.durable.waiters import AnsweredWait, left_for_next_start
from taskd.errors import InvalidParams, TaskdError, quoted
from taskd.functions.descriptions import ParameterInfo
from taskd.functions.registry import FunctionInfo
from taskd.model import NO_SUBMIT_OPTIONS, Failure, Grant, Outcome, SubmitOptions
from taskd.server.labels import check_labels
from taskd.server.methods import Asker
from taskd.store.base import StoreError
from taskd.store.batches import COUNTS, BatchRecord, NewBatch, Rows, counts
from taskd.store.records import Full, New

__all__ = ["BatchMethods", "BatchView"]

MAX_ROWS = 200_000
"""Tasks in one batch: the answer, with their ids, must not be longer than a message (10 MiB)."""

ROWS_AT_ONCE = 1000
"""Rows that are checked in one step of the reactor, and stored in one transaction: each takes some 10 ms."""

SEALED_AT_ONCE = 100
"""Rows with secrets that are sealed and stored in one step: sealing one takes some 30 µs more."""


class Follower(msgspec.Struct, frozen=True):
    """The function that is called when a batch has ended, and the id of its task."""

    function: str
    task: str


class BatchView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A batch, as the methods show it. Times are in seconds since 1970."""

    batch: str
    function: str
    state: str
    created: float
    done: int
    failed: int
    cancelled: int
    total: int
    ended: float | None = None
    then: Follower | None = None

    @classmethod
    def of(cls, record: BatchRecord) -> BatchView:
        """Return the view of a batch."""
        then = record.then
        return cls(
            record.id,
            record.task.function,
            record.state,
            round(record.created, 3),
            record.done,
            record.failed,
            record.cancelled,
            record.total,
            None if record.ended is None else round(record.ended, 3),
            None if then is None else Follower(then.function, then.id),
        )


class BatchMethods:
    """Handles the methods about batches."""

    def __init__(
        self, clock: IReactorTime, tasks: DurableTasks, functions: Callable[[], list[FunctionInfo]]
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._batches = tasks.batches
        self._functions = functions
        self._ids = Ids()

    # --- in ---

    def submit(
        self,
        asker: Asker,
        function: str,
        args: list[Raw],
        options: SubmitOptions,
        then: str | None,
        token: str | None,
    ) -> Outcome | None:
        """Store a task for each of `args`, all or none, and answer with their ids."""
        check_function(asker.grant, function)
        if len(args) > MAX_ROWS:
            raise InvalidParams(
                f"taskd.submit_batch: a batch has at most {MAX_ROWS} tasks, not {len(args)}; submit several",
                argument="args",
                limit=MAX_ROWS,
            )
        if options.key is not None:
            raise InvalidParams(
                "taskd.submit_batch: all of its tasks would have the same key, so that they would be one; "
                "token is what keeps a batch from being submitted twice",
                argument="options.key",
            )
        rows = RowCheck(self._parameters("function", function))
        grant = for_whom(asker.grant, options.owner)
        now = self._tasks.now()
        batch = self._ids.make(now)
        vault = self._tasks.vault
        task = vault.sealed(self._tasks.new(function, None, options, now, grant=grant))
        task = replace(task, id="", batch=batch)
        at_once = SEALED_AT_ONCE if vault.seals(function) else ROWS_AT_ONCE
        follower = None
        if then is not None:
            own = follower_args(asker.grant, then, self._functions)
            self._check_follower(then, batch, own)
            follower = self._follower(then, own, now, grant)
        parts: list[Rows] = []

        def store() -> None:
            new = NewBatch(batch, task, parts, token, follower, task.keep)
            self._batches.add(new, partial(self._added, asker, new, grant), allowed(grant, new))

        def step(first: int) -> None:
            try:
                if first >= len(args):
                    store()
                    return
                some = args[first : first + at_once]
                for place, row in enumerate(some, first):
                    rows.check(row, f"args[{place}]")
                given = [bytes(row) for row in some]
                keys = [self._tasks.limiter.key(function, each, grant.owner) for each in given]
                ids = [self._ids.make(now) for _ in some]
                parts.append(
                    Rows(ids, vault.sealed_rows(function, given), keys if keys[0] is not None else None)
                )
            except TaskdError as error:
                asker.answer(Failure.of(error))
            else:
                self._clock.callLater(0, step, first + at_once)

        step(0)
        return None

    def _follower(self, then: str, own: Raw | None, now: float, grant: Grant) -> New:
        """Return the task that follows a batch, with arguments of its `own` besides the counts."""
        new, vault = self._tasks.new(then, own, NO_SUBMIT_OPTIONS, now, grant=grant), self._tasks.vault
        if own is None or not vault.seals(then):
            return new
        secrets = vault.secrets(then)
        if any(
            map(secrets.has_name, COUNTS)
        ):  # they are stored as they are, and would be opened with the others
            raise InvalidParams(
                f"then: {then} takes a count of a batch as a secret argument", argument="then"
            )
        return vault.sealed(new)

    def _check_follower(self, then: str, batch: str, own: Raw | None) -> None:
        check = RowCheck(self._parameters("then", then))
        try:
            check.check(Raw(counts(batch, 0, 0, 0, 0, None if own is None else bytes(own))), "then")
        except InvalidParams as error:
            why = error.message.removeprefix("then: ")
            raise InvalidParams(
                f"then: {then} is called with the counts of a batch: {why}", **error.data
            ) from None

    def _parameters(self, argument: str, function: str) -> dict[str, ParameterInfo] | None:
        known = self._functions()
        for each in known:
            if each.name == function:
                check_labels(each, is_shared=self._tasks.elsewhere is not None)
                return each.parameters
        if known:
            raise InvalidParams(
                f"taskd.submit_batch: no such function: {quoted(function)}", argument=argument
            )
        return None  # the app is not imported yet

    def _added(
        self, asker: Asker, new: NewBatch, grant: Grant, batch: BatchRecord | Full | TaskdError | StoreError
    ) -> None:
        def answer(tasks: list[str], *, joined: bool) -> None:
            asker.answer(result({"batch": added, "tasks": tasks, "joined": joined}))

        if isinstance(batch, Full):
            asker.answer(refused(self._tasks.busy(grant, batch)))
            return
        if isinstance(batch, TaskdError | StoreError):
            asker.answer(refused(batch))
            return
        added = batch.id
        if added == new.id:
            total = sum(len(part.ids) for part in new.parts)
            self._tasks.writer.taken_on(new.task.function, total, asker.grant, new.task.owner)
            answer([task for part in new.parts for task in part.ids], joined=False)
        else:
            self._batches.tasks_of(added).addCallbacks(
                partial(answer, joined=True), lambda reason: asker.answer(refused(reason.value))
            )

    def cancel(self, asker: Asker, batch: str, unknown: Callable[[], object]) -> None:
        """Cancel a batch, and answer with what it was, or call `unknown`."""

        def found(record: BatchRecord | None) -> None:
            if record is None:
                unknown()
            else:
                check_may_change(asker.grant, record.task.owner)
                self._batches.cancel(batch, cancelled)

        def cancelled(before: BatchRecord | StoreError | None) -> None:
            if isinstance(before, StoreError):
                asker.answer(refused(before))
            elif before is None:
                unknown()
            else:
                asker.answer(result({"was": "running" if before.ended is None else "done"}))

        if asker.grant.has("operate"):  # who need not be asked whose it is
            self._batches.cancel(batch, cancelled)
        else:
            self._read(asker, batch, found)

    # --- out ---

    def unknown_task(self, asker: Asker, task: str) -> None:
        """Answer that there is no task with an id, which may be a batch's."""

        def got(record: BatchRecord | None) -> None:
            is_seen = record is not None and asker.grant.sees(record.task.owner)
            asker.answer(Failure.of(_no_task(task) if is_seen else unknown_task(task)))

        self._read(asker, task, got)

    def get(self, asker: Asker, batch: str) -> None:
        """Answer with a batch."""
        self._find(asker, batch, lambda record: asker.answer(result(BatchView.of(record))))

    def list(
        self, asker: Asker, like: str | None, edge: str, limit: int, owner: str | None, *, newest: bool
    ) -> None:
        """Answer with batches of an owner, None for everybody's: in the order of their ids, or reversed."""
        self._batches.find(like, edge, limit, owner, newest=newest).addCallbacks(
            lambda found: asker.answer(result([BatchView.of(record) for record in found])),
            lambda reason: asker.answer(refused(reason.value)),
        )

    def _find(
        self,
        asker: Asker,
        batch: str,
        found: Callable[[BatchRecord], object],
        refusing: Callable[[], object] = bool,  # which does nothing
    ) -> None:
        """Call `found` with a batch that the asker may see; if there is none, call `refusing`, and answer."""

        def got(record: BatchRecord | None) -> None:
            if record is None:
                raise unknown_batch(batch)
            check_may_see(asker.grant, record.task.owner)
            found(record)

        def refuse(outcome: Outcome) -> None:
            refusing()
            asker.answer(outcome)

        answer_by(self._batches.get(batch), got, refuse)

    def _read(self, asker: Asker, batch: str, got: Callable[[BatchRecord | None], object]) -> None:
        """Call `got` with a batch, None if there is none; what it raises is the answer."""
        answer_by(self._batches.get(batch), got, asker.answer)

    def wait(self, asker: Asker, batch: str, timeout: float | None) -> None:
        """Answer with a batch once it has ended, or after `timeout` seconds."""
        # Waiting comes first, so that no end is missed.
        wait = AnsweredWait(
            self._clock,
            timeout,
            partial(self._batches.wait, batch),
            lambda: self._find(asker, batch, partial(self._answer_wait, asker)),
        )
        asker.request.work = wait
        is_stopping = self._batches.is_stopping

        def found(record: BatchRecord) -> None:
            wait.begin(has_ended=record.ended is not None or is_stopping)

        self._find(asker, batch, found, wait.give_up)

    def _answer_wait(self, asker: Asker, record: BatchRecord) -> None:
        if self._batches.is_stopping and record.ended is None:
            asker.answer(Failure.of(left_for_next_start("the batch")))
        else:
            asker.answer(result(BatchView.of(record)))


def unknown_batch(batch: str) -> InvalidParams:
    """Return the error for an id that is none of this store's batches."""
    return InvalidParams(
        f"there is no batch {quoted(batch)} in this store: it was never accepted here, or has been forgotten "
        "some time after its end (keep)",
        argument="batch",
    )


def _no_task(batch: str) -> InvalidParams:
    return InvalidParams(
        f"{quoted(batch)} is a batch, not a task: name it as batch where that is possible, or one of its "
        "tasks, which taskd.list has",
        argument="task",
    )
