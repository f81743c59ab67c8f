"""The start of a store, and its part in the stop of the daemon."""

from __future__ import annotations

import time
from collections import Counter
from typing import cast

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorThreads

from taskd.durable.described import described
from taskd.durable.elsewhere import Elsewhere
from taskd.durable.methods import StoredMethods
from taskd.durable.node import Node
from taskd.durable.opening import Opening, StoreChoice
from taskd.durable.operators import OperatorRecords
from taskd.durable.pace import Pace
from taskd.durable.shared_clock import SharedClock
from taskd.durable.shared_nodes import SharedNodes
from taskd.durable.tasks import DurableTasks
from taskd.durable.vault import Sealing
from taskd.durable.wall_clock import WallClock
from taskd.functions.registry import FunctionInfo
from taskd.net.reactor import Reactor
from taskd.server.nodes import node_info
from taskd.server.status import StoreStatus
from taskd.server.task_server import TaskServer
from taskd.store.base import StoreError

__all__ = ["StorePart"]


class StorePart:
    """The store of a daemon, as a part that stops with it. Implements `taskd.daemon.parts.TaskPart`.

    Secret arguments are stored as `sealing` makes them; without it, as they are.

    Raises `StoreError` if a store that was named cannot be opened.
    """

    def __init__(
        self, reactor: Reactor, server: TaskServer, choice: StoreChoice, sealing: Sealing | None = None
    ) -> None:
        self._opening = opening = Opening(cast(IReactorThreads, reactor), choice)
        self._wall_clock: WallClock | None = None
        clock: WallClock | SharedClock
        if (nodes := opening.nodes) is None:
            clock = self._wall_clock = WallClock(reactor, time.time, self._clock_moved)
            clock.start()
        else:
            clock = shared_clock = SharedClock(reactor, nodes.now())
        tasks = self._tasks = DurableTasks(
            reactor, server, opening.store, opening.execute, clock.now, opening.read, sealing
        )
        self._node: Node | None = None
        if nodes is not None:
            tasks.window.pace = Pace(reactor, lambda: server.max_workers)
            tasks.limiter.is_shared = True
            elsewhere = Elsewhere(
                reactor,
                opening.store,
                nodes,
                opening.read,
                tasks.hub,
                tasks.waiters,
                tasks.batches,
                tasks.runs,
            )
            self._node = Node(
                reactor,
                tasks,
                nodes,
                opening.renew,
                opening.execute,
                elsewhere,
                lambda: replace(
                    node_info(server, is_draining=server.operation.is_drained),
                    described=described(server.functions, seals=sealing is not None),
                ),
                shared_clock.follow,
                lambda drain: server.operation.take_new(new=not drain),
            )
            node = self._node
            nodes.listen(lambda hint: cast(IReactorThreads, reactor).callFromThread(node.hinted, hint))
            server.operation.nodes = SharedNodes(self._node, elsewhere, clock.now)
        self._tasks.log.shows_tracebacks = server.shows_tracebacks
        self._tasks.writer.taken_on = server.operation.stored
        self._records = server.operation.records = OperatorRecords(
            reactor, server.operation, opening.store, opening.execute, opening.read, clock.now
        )
        server.stored = _OpenedMethods(opening, reactor, self._tasks, server, self._node)

    @property
    def error(self) -> StoreError | None:
        """Why the store could not be opened when the functions were known; None if it could."""
        return self._opening.error

    def _clock_moved(self, seconds: float) -> None:
        assert self._wall_clock is not None
        self._tasks.clock_moved(seconds, self._wall_clock.follow)

    def stop_accepting(self) -> None:
        """Refuse new tasks; what waits is left in the store."""
        self._opening.give_up()
        if self._node is not None:
            self._node.stop()
        self._tasks.stop_accepting()

    def drain(self) -> Deferred[None]:
        """Return a Deferred that fires at once: the task server waits for the tasks that run."""
        return succeed(None)

    def in_flight(self) -> Counter[str]:
        """Return nothing: these are the task server's tasks."""
        return Counter()

    def abort(self) -> None:
        """Do nothing: what is not stored yet has to be."""

    def close(self) -> Deferred[None]:
        """Write what is left, and close the store."""
        if self._wall_clock is not None:
            self._wall_clock.stop()
        return (
            self._records.close()
            .addCallback(lambda _: self._tasks.close(self._leave))
            .addBoth(lambda _: self._opening.end_threads())
        )

    def _leave(self) -> None:
        """Renew the node's lease no longer, since everything is written."""
        if self._node is not None:
            self._node.close()


class _OpenedMethods(StoredMethods):
    """The methods about stored tasks, which open the store before they use it for the app's functions."""

    def __init__(
        self, opening: Opening, reactor: Reactor, tasks: DurableTasks, server: TaskServer, node: Node | None
    ) -> None:
        super().__init__(reactor, tasks, lambda: server.functions)
        self._opening = opening
        self._node = node

    @property
    def status(self) -> StoreStatus:
        """The state of the store, and the number of this node if it is shared."""
        status = super().status
        node = self._node
        return status if node is None else replace(status, node=node.number, polls=node.polls)

    def use(self, functions: list[FunctionInfo]) -> None:
        """Run the stored tasks of these functions from now on, in a store that suits them."""
        self._opening.use(functions)
        if self._opening.error is None:
            super().use(functions)
            if self._node is not None:
                self._node.start()
