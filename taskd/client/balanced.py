"""One link to several task servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.balancer import Balancer, ServerLoad
from taskd.client.link import Link, Meter, OnProgress, PendingCall
from taskd.client.pending import CANCELLED_UNSENT
from taskd.client.stored_calls import home_of, is_unknown, names_stored
from taskd.errors import Unreachable
from taskd.model import Call, Failure, Outcome
from taskd.protocol.dialects import JSON_RPC, Dialect

__all__ = ["BalancedLink"]

_log = Logger(namespace="taskd.client")


class _BalancedCall:
    """A call that goes from server to server until one has it. Is a `taskd.client.link.PendingCall`.

    One about a stored task goes on until a server knows the task; `home` is the
    number of the only server that may have it, if there is one.
    """

    __slots__ = (
        "_call",
        "_dialect",
        "_home",
        "_is_detached",
        "_link",
        "_meter",
        "_on_progress",
        "_pending",
        "_tried",
        "_unknown",
        "outcome",
    )

    def __init__(
        self,
        link: BalancedLink,
        call: Call,
        on_progress: OnProgress | None,
        dialect: Dialect,
        meter: Meter | None,
        home: int | None,
    ) -> None:
        self.outcome: Deferred[Outcome] = Deferred()
        self._home = home
        self._unknown: Outcome | None = None  # what the last server answered that does not know the task
        self._link = link
        self._call = call
        self._on_progress = on_progress
        self._dialect = dialect
        self._meter = meter
        self._is_detached = False
        self._tried: dict[ServerLoad, str] = {}  # with the reasons why it could not be sent, "" if it was
        self._pending: PendingCall

    def send(self) -> None:
        """Send the call to the least busy server that was not tried, if there is one."""
        server = self._link.choose(self._tried, self._home)
        if server is None:
            reasons = [reason for reason in self._tried.values() if reason]
            if reasons or self._unknown is None:  # one that cannot be reached may know the task
                self._unknown = Failure.of(Unreachable("; ".join(reasons), sent=False))
            self.outcome.callback(self._unknown)
            return
        link = self._link.link_to(server)
        self._pending = link.call(self._call, self._on_progress, self._dialect, self._meter)
        self._pending.outcome.addCallbacks(
            self._ended, self._failed, callbackArgs=(server,), errbackArgs=(server,)
        )
        if self._is_detached:
            self._pending.detach()

    def cancel(self) -> None:
        """Have the task cancelled. As `PendingCall.cancel`."""
        self._pending.cancel()

    def detach(self) -> None:
        """Wait no more. As `PendingCall.detach`."""
        self._is_detached = True
        self._pending.detach()

    def _ended(self, outcome: Outcome, server: ServerLoad) -> None:
        self._link.ended(server, outcome)
        if is_unknown(outcome) and names_stored(self._call):
            self._tried[server] = ""
            self._unknown = outcome
            self.send()
        else:
            self.outcome.callback(outcome)

    def _failed(self, reason: TwistedFailure, server: ServerLoad) -> None:
        error = _unreachable(reason)
        if self._link.failed(server, error):
            self._tried[server] = error.message
            self.send()
        else:
            self.outcome.callback(Failure.of(error))


def _unreachable(reason: TwistedFailure) -> Unreachable:
    """Return why a call failed, and log it."""
    error = reason.value
    assert isinstance(error, Unreachable), error
    _log.warn("{error}", error=error.message)
    return error


class BalancedLink:
    """Sends each call to the least busy server that answers.

    A call that could not be sent goes to the next server. A call that was sent
    is never sent again, because it may have been run, unless it asks about a stored
    task that the server does not know. `PendingCall.outcome` never fails: that no
    server can be reached is an outcome. Is a
    `taskd.client.link.Link`.
    """

    def __init__(self, clock: IReactorTime, servers: Sequence[str], link: Callable[[str], Link]) -> None:
        self._clock = clock
        self._balancer = Balancer(servers)
        self._links = {server: link(server) for server in servers}
        self._only = self._links[servers[0]] if len(servers) == 1 else None  # the usual case, made fast
        self._is_closing = False

    def call(
        self,
        call: Call,
        on_progress: OnProgress | None = None,
        dialect: Dialect = JSON_RPC,
        meter: Meter | None = None,
    ) -> PendingCall:
        """Send to the least busy server. As `Link.call`, but the outcome never fails."""
        if self._only is not None:
            pending = self._only.call(call, on_progress, dialect, meter)
            pending.outcome.addErrback(_as_outcome)
            return pending
        home = home_of(call, len(self._links))
        balanced = _BalancedCall(self, call, on_progress, dialect, meter, home)
        balanced.send()
        return balanced

    def choose(self, tried: dict[ServerLoad, str], home: int | None = None) -> ServerLoad | None:
        """Return the server that should get a call, None if all were tried, or its `home` was."""
        if home is None:
            server = self._balancer.choose(self._clock.seconds(), tried)
        else:
            only = self._balancer.servers[home]
            server = None if only in tried else only
        if server is not None:
            self._balancer.started(server)
        return server

    def link_to(self, server: ServerLoad) -> Link:
        """Return the link to one of the servers."""
        return self._links[server.name]

    def ended(self, server: ServerLoad, outcome: Outcome) -> None:
        """Count a call that a server answered, or that was cancelled before the server had it."""
        if outcome is CANCELLED_UNSENT:
            self._balancer.abandoned(server)
        else:
            self._balancer.answered(server)

    def failed(self, server: ServerLoad, error: Unreachable) -> bool:
        """Count a call that failed; returns whether it may be sent to another server."""
        self._balancer.failed(server, self._clock.seconds())
        return not error.data.get("sent") and not self._is_closing

    def close(self) -> None:
        """Drop every connection. As `Link.close`."""
        self._is_closing = True
        for link in self._links.values():
            link.close()
        self._is_closing = False


def _as_outcome(reason: TwistedFailure) -> Outcome:
    return Failure.of(_unreachable(reason))
