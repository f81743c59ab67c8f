"""The membership of this node among those that share a store: renewed all the time, and lost in silence.

Others may run a node's tasks once it has not renewed its lease for `DEAD_SECONDS`. So a node that
cannot renew it ends what it runs before that, by its own clock that nobody can set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.settling import LOST_WITH_DAEMON
from taskd.durable.writer import Execute
from taskd.net.timers import Alarm
from taskd.store.base import StoreError
from taskd.store.nodes import Beat, NodeInfo, NodeStore

__all__ = ["DEAD_SECONDS", "FENCE_SECONDS", "RENEW_SECONDS", "Member", "Membership"]

_log = Logger(namespace="taskd.store")

RENEW_SECONDS = 2.0
"""Seconds between two renewals: several fail before the node is taken for dead."""

DEAD_SECONDS = 10.0
"""Seconds without a renewal, by the store's clock, after which others run the tasks of a node."""

FENCE_SECONDS = 7.0
"""Seconds without a renewal after which a node ends what it runs: there is time left to kill what goes on."""

PROMPT_SECONDS = 1.0
"""Seconds that an answer may have taken to tell the time: it is then wrong by half of that at most."""

RETRY_SECONDS = 0.5
"""Seconds after which a renewal that has failed is tried again."""


class Member(Protocol):
    """The stored tasks of this node, as far as its membership concerns them."""

    def heard(self, beat: Beat, /) -> None:
        """Follow what the others want: cancels, pauses, and tasks that wait again."""

    def fence(self) -> None:
        """Claim nothing, and end what runs: it may be run elsewhere soon."""

    def joined(self) -> None:
        """Claim tasks again."""


class Membership:
    """Renews the lease of this node through `execute`, which has a thread of its own.

    A new number is taken through `write`, by which the store is written: so whatever was claimed with the
    old one has come here before that. `info` returns how the node shows itself; `follow` is called with
    the store's time and when that was asked for, in the seconds of `clock`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        nodes: NodeStore,
        execute: Execute,
        write: Execute,
        member: Member,
        info: Callable[[], NodeInfo],
        follow: Callable[[float, float], object],
    ) -> None:
        self._clock = clock
        self._nodes = nodes
        self._execute = execute
        self._write = write
        self._member = member
        self._info = info
        self._follow = follow
        self._alarm = Alarm(clock, self._renew)
        self._fence_alarm = Alarm(clock, self._look)
        self._last = self._since = clock.seconds()
        self._is_renewing = self._is_stopped = False
        self.is_fenced = False
        """Whether the lease could not be renewed, so that nothing is claimed."""
        self.fault: str | None = None
        """Why it could not be renewed the last time; None if it could."""

    def start(self) -> None:
        """Renew the lease from now on."""
        self._last = self._since = self._clock.seconds()
        self._fence_alarm.set(self._last + FENCE_SECONDS)
        self._renew()

    def stop(self) -> None:
        """Renew it no longer."""
        self._is_stopped = True

    def renew_soon(self) -> None:
        """Renew it now, since there is something to tell, or to hear."""
        self._alarm.set(self._clock.seconds())

    def _renew(self) -> None:
        if self._is_stopped or self._is_renewing:
            return
        self._is_renewing = True
        asked, info = self._clock.seconds(), self._info()
        # After a database was down, each node has the time to show itself again.
        rescues = not self.is_fenced and asked - self._since >= DEAD_SECONDS
        renewing = self._execute(lambda: self._nodes.renew(info, LOST_WITH_DAEMON, rescues=rescues))
        renewing.addCallbacks(self._renewed, self._broke, callbackArgs=(asked,))
        renewing.addErrback(lambda reason: _log.failure("a bug in taskd", reason))

    def _renewed(self, beat: Beat, asked: float) -> None:
        self._is_renewing = False
        if self._is_stopped:
            return
        took = self._clock.seconds() - asked
        if took < PROMPT_SECONDS:
            self._follow(beat.now, asked)
        if not beat.is_mine:
            self._rejoin()
            return
        if self.fault is not None:
            _log.info("the node's lease is renewed again")
            self.fault = None
        self._last = asked  # the store has seen the node after that
        self._fence_alarm.set(asked + FENCE_SECONDS)
        if took >= FENCE_SECONDS:  # which proves nothing about now
            self.renew_soon()
            return
        self._alarm.set(asked + RENEW_SECONDS)
        if self.is_fenced:
            self.is_fenced = False
            self._since = asked
            self._member.joined()
        self._member.heard(beat)

    def _rejoin(self) -> None:
        """Become another node, once nothing is left of what this one had."""
        _log.error("this node was taken for dead, and others run its tasks: it ends them, and joins anew")
        self._fence()
        self._is_renewing = True
        joining = self._write(self._nodes.rejoin)
        joining.addCallbacks(self._rejoined, self._broke)
        joining.addErrback(lambda reason: _log.failure("a bug in taskd", reason))

    def _rejoined(self, _: None) -> None:
        self._is_renewing = False
        self._renew()

    def _broke(self, reason: TwistedFailure) -> None:
        self._is_renewing = False
        if reason.check(StoreError) is None:
            _log.failure("a bug in taskd", reason)
        if (error := reason.getErrorMessage()) != self.fault:
            self.fault = error
            _log.error("the node's lease cannot be renewed: {error}", error=error)
        self._alarm.set(self._clock.seconds() + RETRY_SECONDS)

    def _look(self) -> None:
        """Fence the node if its lease has not been renewed for too long."""
        due = self._last + FENCE_SECONDS
        if self._is_stopped or self.is_fenced:
            return
        if self._clock.seconds() < due:
            self._fence_alarm.set(due)
            return
        _log.error(
            "the node's lease has not been renewed for {seconds:.1f} s: it ends what it runs",
            seconds=self._clock.seconds() - self._last,
        )
        self._fence()

    def _fence(self) -> None:
        if not self.is_fenced:
            self.is_fenced = True
            self._member.fence()
