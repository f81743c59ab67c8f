"""The readiness of a gateway: what its task servers answer, which are asked at most once a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.link import Link, PendingCall
from taskd.errors import Unreachable
from taskd.model import Call, Outcome, Result
from taskd.protocol.method_names import STATUS
from taskd.server.readiness import DRAINING, Unready

__all__ = ["CHECK_SECONDS", "FRESH_SECONDS", "LocalReadiness", "Readiness", "RemoteReadiness"]

FRESH_SECONDS = 1.0
"""Seconds for which an answer of the task servers is used again: several proxies may ask often."""

CHECK_SECONDS = 2.0
"""Seconds that a task server has to answer: as long as health checks usually wait for theirs."""


class Readiness(Protocol):
    """The readiness of a gateway."""

    def announce_stop(self) -> None:
        """Be not ready from now on, since a stop is near."""

    def check(self) -> Deferred[Unready | None]:
        """Return a Deferred that fires with why no task would be taken; None if one would. It never fails."""

    def close(self) -> None:
        """Ask no more."""


class LocalReadiness:
    """The readiness of a gateway whose task server is in its own process. `ask` returns that server's."""

    def __init__(self, ask: Callable[[], Unready | None]) -> None:
        self._ask = ask
        self._is_draining = False

    def announce_stop(self) -> None:
        """Be not ready from now on, since a stop is near."""
        self._is_draining = True

    def check(self) -> Deferred[Unready | None]:
        """Ask the task server. As `Readiness.check`."""
        return succeed(DRAINING if self._is_draining else self._ask())

    def close(self) -> None:
        """Do nothing."""


class _RemoteStatus(msgspec.Struct):
    """The part of a task server's status that matters here; that of an older one has `stopping` alone."""

    stopping: bool = False
    unready: Unready | None = None


def _unready(outcome: Outcome) -> Unready | None:
    """Return why a task server that has answered is not ready."""
    if not isinstance(outcome, Result):
        return Unready("no_task_server", outcome.message)
    try:
        status = msgspec.json.decode(outcome.value, type=_RemoteStatus)
    except msgspec.DecodeError:
        return Unready("no_task_server", "its status cannot be read")
    return DRAINING if status.stopping and status.unready is None else status.unready


def _together(found: Mapping[str, Unready]) -> Unready:
    """Return why none of the task servers is ready: the reason of one that was reached, if any was."""
    reasons = [each.reason for each in found.values()]
    reason = next((each for each in reasons if each != "no_task_server"), reasons[0])
    details = [
        each.detail if name in each.detail else f"{name}: {each.detail}" for name, each in found.items()
    ]
    return Unready(reason, "; ".join(details))


class RemoteReadiness:
    """The readiness of a gateway by that of its task servers: one that is ready is enough.

    `links` has a link to each task server, by the name to show.
    """

    def __init__(self, clock: IReactorTime, links: Mapping[str, Link]) -> None:
        self._clock = clock
        self._links = links
        self._is_draining = False
        self._checked = -inf
        self._last: Unready | None = None
        self._present: _Check | None = None
        self._waiting: list[Deferred[Unready | None]] = []

    def announce_stop(self) -> None:
        """Be not ready from now on, since a stop is near."""
        self._is_draining = True

    def check(self) -> Deferred[Unready | None]:
        """Ask the task servers, unless that was done just now. As `Readiness.check`."""
        if self._is_draining:
            return succeed(DRAINING)
        if self._clock.seconds() - self._checked < FRESH_SECONDS:
            return succeed(self._last)
        fires: Deferred[Unready | None] = Deferred()
        self._waiting.append(fires)
        if self._present is None:
            self._present = _Check(self._clock, self._links, self._answer)
            self._present.begin()
        return fires

    def _answer(self, found: Unready | None) -> None:
        self._present = None
        self._last, self._checked = found, self._clock.seconds()
        waiting, self._waiting = self._waiting, []
        for fires in waiting:
            fires.callback(found)

    def close(self) -> None:
        """Drop the connections over which it asks."""
        for link in self._links.values():
            link.close()


class _Check:
    """One question to all task servers: is answered by the first that is ready, or when none is left."""

    def __init__(
        self,
        clock: IReactorTime,
        links: Mapping[str, Link],
        answer: Callable[[Unready | None], None],
    ) -> None:
        self._clock = clock
        self._links = links
        self._answer = answer
        self._pending: dict[str, PendingCall] = {}
        self._found: dict[str, Unready] = {}
        self._timer: IDelayedCall | None = None
        self._is_answered = False

    def begin(self) -> None:
        """Ask every task server."""
        self._timer = self._clock.callLater(CHECK_SECONDS, self._time_is_over)
        for name, link in self._links.items():
            if self._is_answered:
                return
            self._pending[name] = pending = link.call(Call(STATUS))
            pending.outcome.addCallbacks(
                self._answered, self._failed, callbackArgs=(name,), errbackArgs=(name,)
            )

    def _answered(self, outcome: Outcome, name: str) -> None:
        self._note(name, _unready(outcome))

    def _failed(self, reason: TwistedFailure, name: str) -> None:
        reason.trap(Unreachable)
        self._note(name, Unready("no_task_server", reason.getErrorMessage()))

    def _note(self, name: str, found: Unready | None) -> None:
        self._pending.pop(name, None)
        if found is None:
            self._end(None)
            return
        self._found.setdefault(name, found)
        if len(self._found) == len(self._links):
            self._end(_together(self._found))

    def _time_is_over(self) -> None:
        self._timer = None
        for name in list(self._pending):
            silence = f"{name} has not answered within {CHECK_SECONDS:g} s"
            self._found[name] = Unready("no_task_server", silence)
        for name in list(self._pending):
            self._links[name].close()  # which fails the call

    def _end(self, found: Unready | None) -> None:
        if self._is_answered:
            return
        self._is_answered = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for name in list(self._pending):
            self._links[name].close()
        self._answer(found)
