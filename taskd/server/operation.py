"""The task server as operators see it: whether it is drained, who has done what, and what its workers do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.errors import InvalidParams
from taskd.model import Grant, StoredCall
from taskd.scheduler.task import Task
from taskd.server.audit import Audit
from taskd.server.dispatcher import Dispatcher
from taskd.server.nodes import Nodes
from taskd.server.operating import Records
from taskd.server.sampling import Sampler
from taskd.server.stacks import WorkerStack
from taskd.server.status import worker_status

__all__ = ["Operation"]

_log = Logger(namespace="taskd.server")


class Operation:
    """A task server's operation. Implements `taskd.server.operating.Operated`.

    `reload` imports the app again; `drained` is called when the server is drained, or is not any more.
    """

    def __init__(
        self,
        clock: IReactorTime,
        dispatcher: Dispatcher,
        reload: Callable[[], Deferred[str]],
        drained: Callable[[], object],
    ) -> None:
        self._clock = clock
        self._dispatcher = dispatcher
        self._in_flight = dispatcher.completion.in_flight
        self._drained = drained
        self.is_drained = False
        """Whether the server takes no new tasks until an operator has it take them again."""
        self.audit = Audit(clock, time.time)
        """Who has done what."""
        self.records: Records | None = None
        """The history and the audit log; set by whoever has a store."""
        self.nodes: Nodes | None = None
        """The nodes that share the store; set by whoever has one that is shared."""
        self.reload_all: Callable[[], Deferred[str]] = reload
        """Does what SIGHUP does; set by the daemon."""
        self._stored_ahead: Counter[str] = Counter()  # tasks that were stored less those that were queued
        self.samples = Sampler(lambda: dispatcher.scheduler.functions, self._taken_on)
        """What was done of each function, for the history."""

    # --- drained ---

    def take_new(self, *, new: bool) -> None:
        """Take new tasks, or take none; what was taken is run as ever."""
        if self.is_drained == new:
            _log.info("new tasks are {how}", how="taken again" if new else "refused: the server is drained")
            self.is_drained = not new
            self._drained()

    # --- what there is, and what there was ---

    def bare_tasks(self) -> Iterator[Task]:
        """Return the tasks that wait or run, but for stored ones, the oldest first."""
        return (task for task in self._in_flight.values() if type(task.call) is not StoredCall)

    def stored(self, function: str, count: int, grant: Grant | None, owner: str) -> None:
        """Note that tasks of an `owner` were stored by whoever has a grant; None is the server itself."""
        self._stored_ahead[function] += count
        if grant is not None:
            self.audit.submitted(grant, function, count, owner)

    def queued(self, function: str, count: int) -> None:
        """Note that stored tasks were queued; with a negative `count`, that they were withdrawn."""
        self._stored_ahead[function] -= count

    def _taken_on(self) -> Counter[str]:
        """Count the tasks that were taken on since the start and have not ended, by function."""
        counts = Counter(task.stats.name for task in self._in_flight.values())
        counts.update(self._stored_ahead)
        return counts

    # --- workers ---

    def stacks(self, worker: int | None) -> Deferred[list[WorkerStack]]:
        """Return what a worker does right now, or each of them. Raises `InvalidParams` if there is none."""
        pool, workers = self._dispatcher.pool, self._dispatcher.scheduler.fleet.workers
        if worker is not None and worker not in workers:
            raise InvalidParams(f"taskd.stacks: there is no worker {worker}", argument="worker")
        wanted = sorted(workers) if worker is None else [worker]
        now = self._clock.seconds()
        shown = [worker_status(workers[number], pool, now) for number in wanted]

        def together(stacks: list[str | None]) -> list[WorkerStack]:
            return [
                WorkerStack(
                    each.number,
                    each.pid,
                    each.function,
                    each.task,
                    None if each.function is None else each.seconds,
                    stack,
                )
                for each, stack in zip(shown, stacks, strict=True)
            ]

        return gatherResults([pool.stacks(number) for number in wanted]).addCallback(together)
