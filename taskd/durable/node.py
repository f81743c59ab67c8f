"""One node among those that share a store: follows the others, claims what they leave, and shows itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from taskd.durable.batches import DurableBatches
from taskd.durable.cancels import Cancels
from taskd.durable.elsewhere import Elsewhere
from taskd.durable.membership import Membership
from taskd.durable.pauses import Pauses
from taskd.durable.writer import Execute
from taskd.net.timers import Alarm
from taskd.store.nodes import Beat, NodeInfo, NodeStore

__all__ = ["Node"]

POLL_SECONDS = 0.5
"""Seconds between two looks for tasks that others have stored: what wakes a node may be lost. A tenth more
or less, so that nodes do not fall into step."""

STALLED_SECONDS = 10.0
"""Seconds after which a batch is gone on with that a node has accepted or cancelled, and has not finished."""


class Tasks(Protocol):
    """The stored tasks of this node: `taskd.durable.tasks.DurableTasks`."""

    elsewhere: Elsewhere | None

    @property
    def cancels(self) -> Cancels:
        """The cancelling of tasks."""

    @property
    def pauses(self) -> Pauses:
        """The functions that are paused."""

    @property
    def batches(self) -> DurableBatches:
        """Many tasks each, which are submitted, cancelled and waited for as one."""

    def hold(self, *, held: bool) -> None:
        """Claim nothing, and give back what has not begun; or claim tasks again."""

    def look_everywhere(self) -> None:
        """Claim tasks of all functions, since others may have stored some."""


class Node:
    """Keeps the node's lease, and follows what other nodes do. Implements `taskd.durable.membership.Member`.

    `execute` has a thread of its own, `write` is that of the store's writer. `drain` is called with
    whether somebody wants the node to claim nothing any more, when that has changed.
    """

    def __init__(
        self,
        clock: IReactorTime,
        tasks: Tasks,
        nodes: NodeStore,
        execute: Execute,
        write: Execute,
        elsewhere: Elsewhere,
        info: Callable[[], NodeInfo],
        follow: Callable[[float, float], object],
        drain: Callable[[bool], object],
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._nodes = nodes
        self._execute = execute
        self._drain = drain
        self._is_drained = self._is_stopped = self._has_started = False
        self._number = nodes.node
        self._is_marked = False  # in the store, as one that somebody has drained
        tasks.elsewhere = self._elsewhere = elsewhere
        self.membership = Membership(clock, nodes, execute, write, self, info, follow)
        self._alarm = Alarm(clock, self._poll)
        self._batch_alarm = Alarm(clock, self._look_at_batches)

    @property
    def number(self) -> int:
        """The number of this node in the store."""
        return self._nodes.node

    def start(self) -> None:
        """Begin, once the functions are known. Afterwards, show them to the others soon."""
        if self._has_started:
            self.membership.renew_soon()
            return
        self._has_started = True
        self.membership.start()
        self._elsewhere.start()
        self._set_alarm()
        self._batch_alarm.set(self._clock.seconds() + STALLED_SECONDS)

    def stop(self) -> None:
        """Look for nothing any more; the lease is renewed until `close`."""
        self._is_stopped = True

    def close(self) -> None:
        """Renew the lease no longer."""
        self.membership.stop()
        self._elsewhere.stop()

    # --- the others ---

    def heard(self, beat: Beat) -> None:
        """Follow what the others want."""
        self._tasks.cancels.claimed(beat.cancelled)
        if self._tasks.pauses.functions != frozenset(beat.paused):
            self._tasks.pauses.follow(beat.paused)
        if self._nodes.node != self._number:
            self._number, self._is_marked = self._nodes.node, False
            if self._is_drained:  # which the store has noted of the old number alone
                self.drain(self._number, drained=True)
        if beat.drain != self._is_marked:
            self._is_marked = beat.drain
            self._take_new(new=not beat.drain)
        if beat.rescued:
            self._tasks.look_everywhere()

    def drain(self, node: int, *, drained: bool) -> Deferred[bool]:
        """Have a node take and claim nothing new, or again; fires with whether there is such a node.

        This one does it at once, whatever the store can be asked.
        """
        is_own = node == self.number
        if is_own:
            self._take_new(new=not drained)

        def marked(is_there: bool) -> bool:  # noqa: FBT001
            if is_own:
                self.membership.renew_soon()
            return is_there

        return self._execute(lambda: self._nodes.drain(node, drain=drained)).addCallback(marked)

    def _take_new(self, *, new: bool) -> None:
        self._is_drained = not new
        self._drain(not new)
        self._tasks.hold(held=not new or self.membership.is_fenced)

    def fence(self) -> None:
        """Claim nothing, and end what runs."""
        self._tasks.hold(held=True)
        self._tasks.cancels.fence()

    def joined(self) -> None:
        """Claim tasks again."""
        if not self._is_drained:
            self._tasks.hold(held=False)

    def _set_alarm(self) -> None:
        self._alarm.set(self._clock.seconds() + POLL_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311

    def _poll(self) -> None:
        if not self._is_stopped:
            self._set_alarm()
            self._tasks.look_everywhere()

    def _look_at_batches(self) -> None:
        if not self._is_stopped:
            self._batch_alarm.set(self._clock.seconds() + STALLED_SECONDS)
            self._tasks.batches.resume_stalled()
