"""The connections of one listener together, and their end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from taskd.listeners.peer import Peer
from taskd.model import Failure
from taskd.net.buffered_socket import READ_SIZE, SMALL_READ_SIZE
from taskd.net.paused import PausedConnections
from taskd.net.turns import Turns
from taskd.scheduler.budget import Budget

__all__ = ["Peers"]


class Peers:
    """The connections of one listener, and their end. While one is not read, `paused` reports its end."""

    def __init__(self, clock: IReactorTime, budget: Budget, paused: PausedConnections | None = None) -> None:
        self.turns = Turns(clock)
        """The turns of these connections, for what they have sent and was not read yet."""
        self.paused = paused
        self._peers: set[Peer[Any]] = set()
        self._budget = budget
        budget.on_scarcity.append(self._set_read_sizes)
        self._closed: Deferred[None] = Deferred()
        self.is_closing = False
        self.is_stopping = False
        """Whether no new connections are accepted."""
        self.on_stopping: list[Callable[[], object]] = []
        """Called when no new connections are accepted any more."""

    def __iter__(self) -> Iterator[Peer[Any]]:
        """Iterate over the connections that are open."""
        return iter(self._peers)

    def add(self, peer: Peer[Any]) -> None:
        """Add a new connection."""
        self._peers.add(peer)
        if self._budget.is_scarce:
            peer.sender.read_at_once(SMALL_READ_SIZE)

    def _set_read_sizes(self) -> None:
        size = SMALL_READ_SIZE if self._budget.is_scarce else READ_SIZE
        for peer in self._peers:
            peer.sender.read_at_once(size)

    def discard(self, peer: Peer[Any]) -> None:
        """Remove a connection that is gone."""
        self._peers.discard(peer)
        self._check_closed()

    def stop_accepting(self) -> None:
        """Have new connections refused."""
        self.is_stopping = True
        for call in self.on_stopping:
            call()

    def drain(self) -> Deferred[None]:
        """Return a Deferred that fires when no request of any connection is in flight."""
        drained: Deferred[None] = Deferred()
        waiting = set(self._peers)

        def one_drained(peer: Peer[Any]) -> None:
            waiting.discard(peer)
            if not waiting and not drained.called:
                drained.callback(None)

        for peer in list(waiting):
            peer.drain(lambda peer=peer: one_drained(peer))  # type: ignore[misc]
        if not waiting and not drained.called:
            drained.callback(None)
        return drained

    def in_flight(self) -> Counter[str]:
        """Count the requests in flight, by function."""
        return Counter(request.function for peer in self._peers for request in peer.session.in_flight)

    def give_up(self, failure: Failure) -> None:
        """Answer every request that is still in flight with `failure`."""
        for peer in list(self._peers):
            peer.give_up(failure)

    def abort(self) -> None:
        """Drop every connection at once."""
        for peer in list(self._peers):
            peer.abort()

    def close(self) -> Deferred[None]:
        """Close every connection after what it is owed; fires when all are closed."""
        self.is_closing = True
        for peer in list(self._peers):
            peer.close()
        self._check_closed()
        return self._closed

    def _check_closed(self) -> None:
        if self.is_closing and not self._peers and not self._closed.called:
            self._closed.callback(None)
