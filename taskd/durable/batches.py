"""Batches on one node: accepted as a whole, stored a part at a time, cancelled and waited for as one.

Whatever takes long for 100 000 tasks is done in steps, in the reactor as in the
store's thread, so that everybody else has their turn in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.batch_events import BatchProgress
from taskd.durable.writer import Execute
from taskd.errors import Busy, ShuttingDown
from taskd.store.base import Store, StoreError
from taskd.store.batches import BatchRecord, CancelledRows, NewBatch
from taskd.store.records import Allowance, Event, Full, New

__all__ = ["BatchCancels", "DurableBatches"]

_log = Logger(namespace="taskd.store")

CANCELLED_AT_ONCE = 500
"""Tasks that are cancelled in one transaction, or in one step of the reactor: a few ms."""

RETRY_SECONDS = 1.0
"""Seconds after which a store that has failed is tried again."""

TASK_BYTES = 800
"""Bytes that a task takes in the store in memory, besides its arguments."""

MAX_PENDING = 256 * 1024 * 1024
"""Bytes of batches that may wait to be accepted by the store; then more are refused."""


class BatchCancels(Protocol):
    """The cancelling of the tasks of batches: `taskd.durable.cancels.Cancels`."""

    def members_claimed(self, batch: str, /) -> list[str]:
        """Return the ids of the tasks of a batch that this node has claimed."""

    def claimed(self, tasks: Collection[str], /) -> None:
        """Cancel those of these tasks that this node has claimed."""

    def noted(self, events: list[Event], /) -> None:
        """Pass on that the store has cancelled tasks."""


class DurableBatches:
    """The batches of one node.

    `stored` is called with a task, once tasks like it have been stored. `execute` runs the store's
    functions, one at a time, `read` those that only read; `push` pushes events.
    """

    def __init__(
        self,
        clock: IReactorTime,
        stored: Callable[[New], object],
        cancels: BatchCancels,
        store: Store,
        execute: Execute,
        read: Execute,
        now: Callable[[], float],
        push: Callable[[list[Event]], object],
    ) -> None:
        self._clock = clock
        self._stored = stored
        self._cancels = cancels
        self._store = store
        self._execute = execute
        self._read = read
        self._now = now
        self._waiters: dict[str, list[Callable[[], object]]] = {}
        self._pending_bytes = 0
        self._steps: dict[str, tuple[int, int]] = {}
        """How far the unended batches were when they were last looked at."""
        self.is_stopping = False
        self._progress = BatchProgress(clock, now, push)
        self.cancelling: set[str] = set()
        """The batches that somebody has cancelled, and that have not ended yet."""

    # --- in ---

    def add(
        self,
        new: NewBatch,
        answer: Callable[[BatchRecord | Full | ShuttingDown | StoreError], object],
        allowance: Allowance | None = None,
    ) -> None:
        """Store a batch, if its owner has room.

        The answer comes once all of its tasks are stored, and may be another batch.

        Raises `Busy` if too much waits already, and `ShuttingDown`.
        """
        size = sum(len(args) + TASK_BYTES for part in new.parts for args in part.args)
        if self.is_stopping:
            raise ShuttingDown("the server is shutting down")
        if self._pending_bytes and self._pending_bytes + size > MAX_PENDING:
            raise Busy(
                f"{self._pending_bytes} bytes of batches wait for the store", retry_after=RETRY_SECONDS
            )
        if self._pending_bytes + size > self._store.room:
            raise Busy(
                "the store in memory has no room for the batch: it is full of tasks that have not ended "
                "(--store memory:bytes=SIZE, or --store sqlite:PATH)",
                retry_after=RETRY_SECONDS,
            )
        self._pending_bytes += size

        def added(batch: BatchRecord | Full) -> None:
            self._pending_bytes -= size
            if isinstance(batch, Full):
                answer(batch)
                return
            if batch.id == new.id and batch.ended is not None:  # it has no tasks
                self.changed([batch])
            self._store_tasks(batch, answer)

        def failed(reason: TwistedFailure) -> None:
            self._pending_bytes -= size
            answer(_store_error(reason))

        self._execute(lambda: self._store.batches.add(new, self._now(), allowance)).addCallbacks(
            added, failed
        )

    def _store_tasks(
        self, batch: BatchRecord, answer: Callable[[BatchRecord | ShuttingDown], object]
    ) -> None:
        """Store the tasks of a batch that are not stored yet, however long that takes: it is accepted."""
        if self.is_stopping:
            answer(ShuttingDown("the server is shutting down; the batch is accepted"))
            return

        def stored(found: BatchRecord | None) -> None:
            after = found or batch  # it is forgotten already
            if after.stored > batch.stored:
                self._stored(after.task)
            if after.is_stored or after is batch:
                answer(after)
            else:
                self._clock.callLater(0, self._store_tasks, after, answer)

        def failed(reason: TwistedFailure) -> None:
            _store_error(reason)
            self._clock.callLater(RETRY_SECONDS, self._store_tasks, batch, answer)

        if batch.is_stored:
            answer(batch)
        else:
            now = self._now()  # and not that of the thread: the clock may be set until then
            self._execute(lambda: self._store.batches.unpack(batch.id, now)).addCallbacks(stored, failed)

    def resume(self) -> None:
        """Go on with what the last process had begun. Call this once, before anything is claimed."""

        def read(batches: list[BatchRecord]) -> None:
            for batch in batches:
                if batch.is_cancelled:
                    self.cancelling.add(batch.id)
                self._store_tasks(batch, self._go_on)

        def failed(reason: TwistedFailure) -> None:
            _store_error(reason)
            self._clock.callLater(RETRY_SECONDS, self.resume)

        self._execute(self._store.batches.unended).addCallbacks(read, failed)

    def resume_stalled(self) -> None:
        """Go on with what another node has begun, and has left where it was since the last call."""

        def read(batches: list[BatchRecord]) -> None:
            before, self._steps = self._steps, {batch.id: (batch.stored, batch.over) for batch in batches}
            for batch in batches:
                if before.get(batch.id) != self._steps[batch.id] or batch.id in self.cancelling:
                    continue
                if batch.is_cancelled:
                    self.cancelling.add(batch.id)
                if batch.is_cancelled or not batch.is_stored:
                    self._store_tasks(batch, self._go_on)

        self._execute(self._store.batches.unended).addCallbacks(read, _store_error)

    def _go_on(self, batch: BatchRecord | ShuttingDown) -> None:
        if isinstance(batch, BatchRecord) and batch.is_cancelled:
            self._cancel_claimed(batch.id, self._cancels.members_claimed(batch.id))

    # --- the cancel ---

    def cancel(self, batch: str, answer: Callable[[BatchRecord | StoreError | None], object]) -> None:
        """Cancel a batch; the answer, which comes when it has ended, is the batch as it was before."""

        def noted(before: BatchRecord | None) -> None:
            if before is None or before.ended is not None:
                answer(before)
                return
            self.wait(batch, lambda: answer(before))
            if batch not in self.cancelling:
                self.cancelling.add(batch)
                self._store_tasks(replace(before, is_cancelled=True), self._go_on)

        self._execute(lambda: self._store.batches.cancel(batch)).addCallbacks(
            noted, lambda reason: answer(_store_error(reason))
        )

    def _cancel_claimed(self, batch: str, tasks: list[str]) -> None:
        """Cancel the tasks that this node has claimed, then those in the store.

        Those that are claimed from now on are cancelled by whoever claims them.
        """
        self._cancels.claimed(tasks[:CANCELLED_AT_ONCE])
        if len(tasks) > CANCELLED_AT_ONCE:
            self._clock.callLater(0, self._cancel_claimed, batch, tasks[CANCELLED_AT_ONCE:])
        else:
            self._cancel_stored(batch, "")

    def _cancel_stored(self, batch: str, after: str) -> None:
        if self.is_stopping:
            return

        def cancelled(rows: CancelledRows) -> None:
            self._cancels.noted(rows.events)
            if rows.batch is not None and rows.events:
                self.changed([rows.batch])
            if rows.last is not None:
                self._clock.callLater(0, self._cancel_stored, batch, rows.last)

        def failed(reason: TwistedFailure) -> None:
            _store_error(reason)
            self._clock.callLater(RETRY_SECONDS, self._cancel_stored, batch, after)

        def cancel() -> CancelledRows:
            return self._store.batches.cancel_rows(batch, after, CANCELLED_AT_ONCE, self._now())

        self._execute(cancel).addCallbacks(cancelled, failed)

    def stop(self) -> None:
        """Begin no more steps, which go on at the next start, and keep nobody waiting for an end."""
        self.is_stopping = True
        for batch in list(self._waiters):
            self._wait_is_over(batch)

    # --- out ---

    def changed(self, batches: list[BatchRecord]) -> None:
        """Receive batches whose counts have changed, after the commit."""
        for batch in batches:
            if batch.ended is not None:
                self.cancelling.discard(batch.id)
                if batch.then is not None:
                    self._stored(batch.then)
                self._wait_is_over(batch.id)
        self._progress.changed(batches)

    def _wait_is_over(self, batch: str) -> None:
        for waiter in [*self._waiters.pop(batch, ())]:  # of which each takes itself out
            waiter()

    @property
    def awaited(self) -> Iterable[str]:
        """The batches for whose ends somebody waits."""
        return self._waiters

    def wait(self, batch: str, waiter: Callable[[], object]) -> Callable[[], None]:
        """Call `waiter` when a batch has ended, or at a stop; return how to wait no longer.

        The batch must not have ended yet.
        """
        waiters = self._waiters.setdefault(batch, [])
        waiters.append(waiter)

        def stop() -> None:
            if waiter in waiters:
                waiters.remove(waiter)
                if not waiters and self._waiters.get(batch) is waiters:
                    del self._waiters[batch]

        return stop

    def get(self, batch: str) -> Deferred[BatchRecord | None]:
        """Read a batch."""
        return self._read(lambda: self._store.batches.get(batch))

    def find(
        self, like: str | None, edge: str, limit: int, owner: str | None, *, newest: bool
    ) -> Deferred[list[BatchRecord]]:
        """Read batches of an owner, None for everybody's: after `edge`, or from the `newest` on before it."""
        return self._read(lambda: self._store.batches.find(like, edge, limit, owner, newest=newest))

    def tasks_of(self, batch: str) -> Deferred[list[str]]:
        """Read the ids of all tasks of a batch."""
        return self._read(lambda: self._store.batches.tasks(batch))


def _store_error(reason: TwistedFailure) -> StoreError:
    """Log why the store has not done what it should, and return it."""
    if reason.check(StoreError) is None:
        _log.failure("a bug in taskd", reason)
        return StoreError(reason.getErrorMessage())
    _log.error("{error}", error=reason.getErrorMessage())
    return StoreError(reason.getErrorMessage())
