"""Connections that are kept, each with many calls in flight."""

from __future__ import annotations

from contextlib import suppress

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.link import MAX_REPLY, Connection, OnProgress, lost
from taskd.client.pending import PendingCalls
from taskd.client.per_call import PerCallLink
from taskd.errors import ParseError
from taskd.model import Call, Outcome
from taskd.net.client_transport import Connecting, connector
from taskd.net.reactor import Reactor
from taskd.net.timers import TurnEnd
from taskd.protocol.framing import MAX_MESSAGE

__all__ = ["PooledLink"]

MAX_CALLS_PER_CONNECTION = 500
"""Calls on one connection: half of what the server lets one have in flight,
so that it never stops reading from us."""

ALONE = MAX_MESSAGE // 10
"""Bytes of a call that gets a connection of its own: on a shared one, others would wait behind it."""


class _Kept(Connection):
    """A connection with many calls in flight."""

    def __init__(self, link: PooledLink) -> None:
        self._link = link
        self.waiters = PendingCalls(self._send_line, MAX_CALLS_PER_CONNECTION)
        self.connecting: Connecting | None = None
        self._unsent: list[bytes] = []

    def opened(self) -> None:
        with suppress(OSError):  # a unix socket, which knows no delay
            self.transport.setTcpNoDelay(True)
        self.waiters.opened()

    def _send_line(self, line: bytes) -> None:
        # What many callers ask in one turn of the reactor is sent in one piece.
        if not self._unsent:
            self._link.turn_end.call(self._send)
        self._unsent.append(line)

    def _send(self) -> None:
        if self._unsent:
            lines, self._unsent = self._unsent, []
            lines.append(b"")
            self.transport.write(b"\n".join(lines))

    def close(self) -> None:
        """Close behind what has been said: that a call is to be cancelled, say."""
        if self.transport is not None:
            self._send()
            self.transport.loseConnection()
        elif self.connecting is not None:
            self.connecting.cancel()

    def lines_received(self, lines: list[bytes]) -> None:
        for line in lines:
            try:
                self.waiters.received(line)
            except ParseError:
                self.transport.abortConnection()
                return

    def failed(self, reason: TwistedFailure) -> None:
        """The connection could not be made, or is lost: so are its calls."""
        self._link.forget(self)
        self.waiters.fail(lost(self._link.server, self.why(reason), sent=self.is_open))


class PooledLink:
    """Keeps connections, each with up to `MAX_CALLS_PER_CONNECTION` calls in flight.

    Calls are always sent as JSON-RPC, under ids of our own; one of more than
    `alone` bytes gets a connection of its own, and goes as it is. `server` is
    a client endpoint string; raises `ValueError` where it is none.
    `max_reply` is in bytes. Is a `taskd.client.link.Link`.
    """

    def __init__(self, reactor: Reactor, server: str, max_reply: int = MAX_REPLY, alone: int = ALONE) -> None:
        self.server = server
        self.turn_end = TurnEnd(reactor)
        self._connector = connector(reactor, server)
        self._per_call = PerCallLink(reactor, server, max_reply)
        self._alone = alone
        self._max_reply = max_reply
        self._connections: list[_Kept] = []

    def call(self, call: Call, on_progress: OnProgress | None = None) -> Deferred[Outcome]:
        """Send over a kept connection, or a new one where all are full. As `Link.call`."""
        if call.size > self._alone:
            return self._per_call.call(call, on_progress)
        return self._with_room().waiters.add(call, on_progress)

    def _with_room(self) -> _Kept:
        """The first that is not full: few connections, with many calls each, are read and written at once."""
        for kept in self._connections:
            if len(kept.waiters) < MAX_CALLS_PER_CONNECTION:
                return kept
        kept = _Kept(self)
        kept.MAX_LENGTH = self._max_reply
        self._connections.append(kept)
        kept.connecting = self._connector.connect(kept)
        return kept

    def ask_to_cancel(self, done: Deferred[Outcome]) -> bool:
        """Ask on its connection. As `Link.ask_to_cancel`."""
        kept = any(kept.waiters.ask_to_cancel(done) for kept in self._connections)
        return kept or self._per_call.ask_to_cancel(done)

    def let_go(self, done: Deferred[Outcome]) -> bool:
        """Forget who waits. As `Link.let_go`."""
        kept = any(kept.waiters.let_go(done) for kept in self._connections)
        return kept or self._per_call.let_go(done)

    def forget(self, connection: _Kept) -> None:
        """Use this connection no more: it is gone."""
        if connection in self._connections:
            self._connections.remove(connection)

    def close(self) -> None:
        """Drop every connection; what waits on them fails."""
        self._per_call.close()
        for connection in list(self._connections):
            connection.close()
