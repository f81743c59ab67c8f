"""How a `TaskClient` asks a server: calls over its link, and events over a connection that is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from taskd.client.answers import Following, lost, not_in_time
from taskd.client.link import Link, PendingCall
from taskd.client.pending import OnEvent
from taskd.client.tokens import has_expired
from taskd.client.watches import Watch, Watches
from taskd.client.words import OnProgress, named_call
from taskd.model import Call, Outcome
from taskd.net.reactor import Reactor
from taskd.protocol.method_names import ATTACH, DETACH

__all__ = ["EventConnection", "TwistedAsking"]


class EventConnection(Protocol):
    """A connection that is made when it is needed, and that events come over."""

    def send(self, call: Call) -> Deferred[Outcome]:
        """Send a call; fails with `Unreachable` if the connection cannot be made or is lost."""

    def close(self) -> None:
        """End the connection; `on_lost` need not be called."""


MakeConnection = Callable[[OnEvent, Callable[[], object]], EventConnection]
"""Makes a connection from a function for its events, and one that is called when it is lost."""


class DeferredSignal:
    """Something that coroutines wait for. Is a `taskd.client.watches.Signal`."""

    def __init__(self) -> None:
        self._waiting: Deferred[None] = Deferred()

    def set(self) -> None:
        """Wake who waits."""
        if not self._waiting.called:
            self._waiting.callback(None)

    def clear(self) -> None:
        """Have the next `wait` wait."""
        if self._waiting.called:
            self._waiting = Deferred()

    async def wait(self) -> None:
        """Wait until it is set."""
        await self._waiting


class _Asked:
    """A call that is sent once more, with a new token, if the old one had expired and it `may_renew`."""

    def __init__(self, send: Callable[[], PendingCall], *, may_renew: bool) -> None:
        self._send = send
        self._pending = send()
        self.outcome = self._pending.outcome
        if may_renew:
            self.outcome.addCallback(self._again_if_expired)

    def _again_if_expired(self, outcome: Outcome) -> Outcome | Deferred[Outcome]:
        if not has_expired(outcome):
            return outcome
        self._pending = self._send()
        return self._pending.outcome

    def cancel(self) -> None:
        """Have the task cancelled, and wait no more."""
        self._pending.cancel()
        self._pending.detach()


class TwistedAsking:
    """Asks a server, with Deferreds and in coroutines. Is a `taskd.client.async_handles.Asking`.

    If the token `is_renewable`, what was refused because it had expired is asked once more.
    """

    def __init__(
        self,
        reactor: Reactor,
        server: str,
        link: Link,
        make_connection: MakeConnection,
        *,
        is_renewable: bool = False,
    ) -> None:
        self._is_renewable = is_renewable
        self._reactor = reactor
        self._server = server
        self._link = link
        self._watches = Watches()
        self._make_connection = make_connection
        self._events: EventConnection | None = None

    def clock(self) -> float:
        """Return the seconds of the reactor's clock."""
        return self._reactor.seconds()

    async def sleep(self, seconds: float) -> None:
        """Wait before another attempt."""
        await deferLater(self._reactor, seconds)

    def ask(
        self, call: Call, on_progress: OnProgress | None = None, wait: float | None = None
    ) -> Deferred[Outcome]:
        """Send a call; return a Deferred of its outcome, which fails with `Unreachable` or `WaitTimeout`.

        The end of the `wait`, and cancelling the Deferred, cancel the task.
        """
        asked = _Asked(partial(self._link.call, call, on_progress), may_renew=self._is_renewable)
        # Without a canceller of its own: Twisted then drops the outcome that comes after the cancel.
        done: Deferred[Outcome] = Deferred()
        asked.outcome.chainDeferred(done)
        done.addErrback(_cancel, asked)
        if wait is not None:
            error = not_in_time(call.function, wait, "it was asked to be cancelled")
            done.addTimeout(wait, self._reactor, lambda _result, _seconds: Failure(error))
        return done

    async def outcome(self, call: Call) -> Outcome:
        """Send a call and wait for its outcome."""
        return await self.ask(call)

    @asynccontextmanager
    async def watching(self, following: Following) -> AsyncIterator[Watch]:
        """Watch the events of a task or a batch. Raises the server's refusal."""
        if self._events is None:
            self._events = self._make_connection(self._watches.pushed, self._lost)
        watch = Watch(DeferredSignal(), following)
        after = self._watches.add(watch)
        try:
            attach = named_call(ATTACH, {following.kind: following.id, "after": after})
            attached = self._events.send(attach)
            attached.addCallback(_begin, watch)
            outcome = await attached
            if self._is_renewable and has_expired(outcome):
                watch.lose(lost(self._server, "its token had expired", sent=False))
                await watch.next()
            following.attached(outcome)
            yield watch
        finally:
            if self._watches.remove(watch) and self._events is not None and not watch.is_lost:
                detach = named_call(DETACH, {following.kind: following.id})
                self._events.send(detach).addErrback(lambda _: None)

    def _lost(self) -> None:
        self._watches.lost(lost(self._server, "the connection for events ended", sent=True))

    def close(self) -> None:
        """Close the connection for events."""
        if self._events is not None:
            self._events.close()
            self._events = None
            self._lost()


def _begin(outcome: Outcome, watch: Watch) -> Outcome:
    watch.begin()
    return outcome


def _cancel(reason: Failure, asked: _Asked) -> Failure:
    """Have the task cancelled if that is why the wait has ended."""
    if reason.check(CancelledError):
        asked.cancel()
    return reason
