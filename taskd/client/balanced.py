"""One way to several task servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.balancer import Balancer, ServerLoad
from taskd.client.link import Link, OnProgress
from taskd.errors import Unreachable
from taskd.model import Call, Failure, Outcome

__all__ = ["BalancedLink"]

_log = Logger(namespace="taskd.client")


@dataclass(slots=True, eq=False)
class _Tries:
    """A call that could not be sent to the first server: where it was tried, and who has it now."""

    servers: list[ServerLoad] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    now: Deferred[Outcome] | None = None


class BalancedLink:
    """Sends each call to the least busy server that answers.

    A call that could not be sent goes to the next server. One that was sent
    is never sent again: it may have been run. Its Deferred always fires with
    an outcome; that no server can be reached is one.
    """

    def __init__(self, clock: IReactorTime, servers: Sequence[str], link: Callable[[str], Link]) -> None:
        self._clock = clock
        self._balancer = Balancer(servers)
        self._links = {server: link(server) for server in servers}
        self._tries: dict[Deferred[Outcome], _Tries] = {}

    def call(self, call: Call, on_progress: OnProgress | None = None) -> Deferred[Outcome]:
        """As `Link.call`, but it fails with nothing but `CancelledError`."""
        # The link's own Deferred is returned: few calls need a second one.
        balancer = self._balancer
        server = balancer.choose(self._clock.seconds())
        assert server is not None, "none was tried yet"
        balancer.started(server)
        done = self._links[server.name].call(call, on_progress)
        return done.addCallbacks(
            self._answered,
            self._failed,
            callbackArgs=(server,),
            errbackArgs=(server, call, on_progress, done),
        )

    def _answered(self, outcome: Outcome, server: ServerLoad) -> Outcome:
        self._balancer.answered(server)
        return outcome

    def _failed(
        self,
        reason: TwistedFailure,
        server: ServerLoad,
        call: Call,
        on_progress: OnProgress | None,
        done: Deferred[Outcome],
    ) -> TwistedFailure | Outcome | Deferred[Outcome]:
        error = reason.value
        if not isinstance(error, Unreachable):
            self._balancer.abandoned(server)
            self._tries.pop(done, None)
            return reason
        self._balancer.failed(server, self._clock.seconds())
        _log.warn("{error}", error=error.message)
        if error.data.get("sent"):
            self._tries.pop(done, None)
            return Failure.of(error)
        return self._try_next(server, error, call, on_progress, done)

    def _try_next(
        self,
        server: ServerLoad,
        error: Unreachable,
        call: Call,
        on_progress: OnProgress | None,
        done: Deferred[Outcome],
    ) -> Outcome | Deferred[Outcome]:
        """Send what could not be sent to one server to another one; `done` is what the caller has."""
        tries = self._tries.setdefault(done, _Tries())
        tries.servers.append(server)
        tries.errors.append(error.message)
        balancer = self._balancer
        following = balancer.choose(self._clock.seconds(), tries.servers)
        if following is None:
            del self._tries[done]
            return Failure.of(Unreachable("; ".join(tries.errors), sent=False))
        balancer.started(following)
        tries.now = self._links[following.name].call(call, on_progress)
        return tries.now.addCallbacks(
            self._answered_late,
            self._failed,
            callbackArgs=(following, done),
            errbackArgs=(following, call, on_progress, done),
        )

    def _answered_late(self, outcome: Outcome, server: ServerLoad, done: Deferred[Outcome]) -> Outcome:
        del self._tries[done]
        return self._answered(outcome, server)

    def _sent(self, done: Deferred[Outcome]) -> Deferred[Outcome]:
        """What the link gave that has the call now."""
        tries = self._tries.get(done)
        return done if tries is None or tries.now is None else tries.now

    def ask_to_cancel(self, done: Deferred[Outcome]) -> bool:
        """As `Link.ask_to_cancel`."""
        sent = self._sent(done)
        return any(link.ask_to_cancel(sent) for link in self._links.values())

    def let_go(self, done: Deferred[Outcome]) -> bool:
        """As `Link.let_go`."""
        sent = self._sent(done)
        return any(link.let_go(sent) for link in self._links.values())

    def close(self) -> None:
        """Drop every connection."""
        for link in self._links.values():
            link.close()
