"""Ways to a task server: a connection for each call, or a few that are kept.

A `Link` takes a `Call` and gives a Deferred of its `Outcome`. The Deferred
fails with nothing but `Unreachable` (and `CancelledError` where it was
cancelled); whatever else goes wrong is an outcome too.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Raw, structs
from OpenSSL import SSL
from twisted.internet import interfaces
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure as TwistedFailure
from zope.interface import implementer

from taskd.endpoints import client_endpoint
from taskd.errors import ParseError, Unreachable
from taskd.lines import LinearLineReceiver
from taskd.messages import Call, Dialect, Outcome, Progress, Result
from taskd.wire.dialects import ParsedReply, call_line, parse_bare_reply, parse_reply

__all__ = ["Link", "OnProgress", "PerCallLink", "PooledLink", "explain"]

OnProgress = Callable[[Progress], object]

MAX_REPLY = 16 * 1024 * 1024
"""Bytes: the longest message of the protocol, and what an envelope may add to it."""

MAX_IN_FLIGHT = 500
"""Calls on one kept connection: half of what the server lets a connection
have under way, so that it never stops reading from us."""

KEEPALIVE = 20
"""Seconds after which the kernel asks a silent peer whether it is there, and between its questions."""

_NO_REPLY = Result(Raw(b"null"))
"""The outcome of a notification that was sent: it has none."""


class Link(Protocol):
    """One way to one task server."""

    def call(self, call: Call, on_progress: OnProgress | None = None) -> Deferred[Outcome]:
        """Send the call; the Deferred fires with how it ended.

        Fails with `Unreachable`, which tells whether the call had been sent.
        Cancelling ends the wait.
        """

    def close(self) -> None:
        """Drop the connections; what waits on them fails."""


def explain(reason: TwistedFailure) -> str:
    """Why a connection could not be made or was lost, in words."""
    error = reason.value
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        parts = [part[-1] for part in error.args[0] if part and part[-1]]
        return f"TLS: {', '.join(parts) or 'the connection was cut off'}"
    if isinstance(error, ConnectError) and error.osError:
        return str(error.args[0] if error.args and isinstance(error.args[0], str) else error)
    if isinstance(error, ConnectionDone):
        return "it closed the connection"
    if isinstance(error, ConnectionLost):
        return "the connection broke"
    return str(error).rstrip(".") or type(error).__name__


def keep_alive(transport: Any) -> None:
    """Have the kernel notice a peer that has vanished; nothing on transports without TCP."""
    handle = transport.getHandle() if hasattr(transport, "getHandle") else None
    if isinstance(handle, socket.socket) and handle.family != socket.AF_UNIX:
        transport.setTcpKeepAlive(True)
        if hasattr(socket, "TCP_KEEPIDLE"):
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE)
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE)
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _lost(server: str, reason: TwistedFailure, *, sent: bool) -> Unreachable:
    what = "was lost before it answered; the task may have run" if sent else "cannot be reached"
    return Unreachable(f"the task server {server} {what}: {explain(reason)}", server=server, sent=sent)


@implementer(interfaces.IHandshakeListener)
class _Connection(LinearLineReceiver):
    """What both kinds of connection share: it is open once a TLS handshake, if any, is done."""

    MAX_LENGTH = MAX_REPLY
    is_open = False

    def connectionMade(self) -> None:
        super().connectionMade()
        keep_alive(self.transport)
        if not isinstance(self.transport, TLSMemoryBIOProtocol):
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        """The peer is who it should be: begin."""
        self.is_open = True
        self.opened()

    def opened(self) -> None:
        raise NotImplementedError

    def send_call(self, call: Call) -> None:
        self.transport.write(call_line(call) + b"\n")


def _for(connection: _Connection) -> Factory[_Connection]:
    """A factory for this one connection, which does not log its coming and going."""
    factory = Factory.forProtocol(lambda: connection)
    factory.noisy = False
    return factory


class _Exchange(_Connection):
    """A connection for one call."""

    def __init__(self, server: str, call: Call, on_progress: OnProgress | None) -> None:
        self._server = server
        self._call = call
        self._on_progress = on_progress
        self._waiting = True
        self.connecting: Deferred[Any] | None = None
        self.done: Deferred[Outcome] = Deferred(lambda _: self._abandon())

    def opened(self) -> None:
        if self._waiting:
            self.send_call(self._call)
            if self._call.is_notification:
                self._finish(_NO_REPLY)

    def _abandon(self) -> None:
        """Nobody waits any more."""
        self._waiting = False
        if self.transport is not None:
            self.transport.abortConnection()
        elif self.connecting is not None:
            self.connecting.cancel()

    def lines_received(self, lines: list[bytes]) -> None:
        for line in lines:
            if not self._waiting:
                return
            try:
                body = self._body(line)
            except ParseError as error:
                self._fail(
                    Unreachable(f"{self._server} is no task server: {error}", server=self._server, sent=True)
                )
                return
            if not isinstance(body, Progress):
                self._finish(body)
            elif self._on_progress is not None:
                self._on_progress(body)

    def _body(self, line: bytes) -> Outcome | Progress:
        return parse_bare_reply(line) if self._call.dialect is Dialect.BARE else parse_reply(line).body

    def _finish(self, outcome: Outcome) -> None:
        self._waiting = False
        self.transport.loseConnection()
        self.done.callback(outcome)

    def _fail(self, error: Unreachable) -> None:
        self._waiting = False
        self.transport.abortConnection()
        self.done.errback(error)

    def failed(self, reason: TwistedFailure) -> None:
        """The connection could not be made, or is lost."""
        if self._waiting:
            self._waiting = False
            self.done.errback(_lost(self._server, reason, sent=self.is_open))

    def connectionLost(self, reason: TwistedFailure) -> None:  # type: ignore[override]
        self.failed(reason)


class PerCallLink:
    """Opens a connection for each call, and closes it when the result is there."""

    def __init__(self, reactor: Any, server: str) -> None:
        self._server = server
        self._endpoint = client_endpoint(reactor, server)
        self._exchanges: set[_Exchange] = set()

    def call(self, call: Call, on_progress: OnProgress | None = None) -> Deferred[Outcome]:
        """Connect, send, and wait. As `Link.call`."""
        exchange = _Exchange(self._server, call, on_progress)
        self._exchanges.add(exchange)
        exchange.connecting = self._endpoint.connect(_for(exchange))
        exchange.connecting.addErrback(exchange.failed)
        return exchange.done.addBoth(self._over, exchange)

    def _over(self, outcome: Outcome, exchange: _Exchange) -> Outcome:
        self._exchanges.discard(exchange)
        return outcome

    def close(self) -> None:
        """Drop every connection."""
        for exchange in list(self._exchanges):
            exchange.done.cancel()


class _Waiter:
    """One call on a kept connection."""

    __slots__ = ("call", "done", "on_progress")

    def __init__(self, call: Call, on_progress: OnProgress | None, canceller: Callable[[Any], None]) -> None:
        self.call = call
        self.on_progress = on_progress
        self.done: Deferred[Outcome] = Deferred(canceller)


class _Kept(_Connection):
    """A connection with many calls under way, told apart by their ids."""

    def __init__(self, link: PooledLink) -> None:
        self._link = link
        self.waiters: dict[int, _Waiter] = {}
        self.connecting: Deferred[Any] | None = None

    def opened(self) -> None:
        for number, waiter in self.waiters.items():
            self.send_call(_numbered(waiter.call, number))

    def start(self, number: int, waiter: _Waiter) -> None:
        """Send a call, now or when the connection is there."""
        self.waiters[number] = waiter
        if self.is_open:
            self.send_call(_numbered(waiter.call, number))

    def forget_call(self, number: int) -> None:
        """Nobody waits for this call any more."""
        self.waiters.pop(number, None)

    def lines_received(self, lines: list[bytes]) -> None:
        for line in lines:
            try:
                reply = parse_reply(line)
            except ParseError:
                self.transport.abortConnection()
                return
            self._reply(reply)

    def _reply(self, reply: ParsedReply) -> None:
        number = int(bytes(reply.id)) if reply.id is not None and bytes(reply.id).isdigit() else -1
        waiter = self.waiters.get(number)
        if waiter is None:
            return  # nobody waits for it any more
        if isinstance(reply.body, Progress):
            if waiter.on_progress is not None:
                waiter.on_progress(reply.body)
            return
        del self.waiters[number]
        waiter.done.callback(reply.body)

    def failed(self, reason: TwistedFailure) -> None:
        """The connection could not be made, or is lost: so are its calls."""
        self._link.forget(self)
        waiters, self.waiters = self.waiters, {}
        for waiter in waiters.values():
            waiter.done.errback(_lost(self._link.server, reason, sent=self.is_open))

    def connectionLost(self, reason: TwistedFailure) -> None:  # type: ignore[override]
        self.failed(reason)


def _numbered(call: Call, number: int) -> Call:
    return structs.replace(call, dialect=Dialect.JSON_RPC, id=Raw(b"%d" % number))


class PooledLink:
    """Keeps connections, each with up to `MAX_IN_FLIGHT` calls under way.

    Calls are always sent as JSON-RPC, under ids of our own. A notification
    is sent as a request, so that a full queue shows.
    """

    def __init__(self, reactor: Any, server: str) -> None:
        self.server = server
        self._endpoint = client_endpoint(reactor, server)
        self._connections: list[_Kept] = []
        self._last_number = 0

    def call(self, call: Call, on_progress: OnProgress | None = None) -> Deferred[Outcome]:
        """Send over a kept connection, or a new one where all are full. As `Link.call`."""
        self._last_number += 1
        number = self._last_number
        connection = self._least_busy()
        waiter = _Waiter(call, on_progress, lambda _: connection.forget_call(number))
        connection.start(number, waiter)
        return waiter.done

    def _least_busy(self) -> _Kept:
        best = min(self._connections, key=lambda kept: len(kept.waiters), default=None)
        if best is not None and len(best.waiters) < MAX_IN_FLIGHT:
            return best
        kept = _Kept(self)
        self._connections.append(kept)
        kept.connecting = self._endpoint.connect(_for(kept))
        kept.connecting.addErrback(kept.failed)
        return kept

    def forget(self, connection: _Kept) -> None:
        """Use this connection no more: it is gone."""
        if connection in self._connections:
            self._connections.remove(connection)

    def close(self) -> None:
        """Drop every connection."""
        for connection in list(self._connections):
            if connection.transport is not None:
                connection.transport.abortConnection()
            elif connection.connecting is not None:
                connection.connecting.cancel()
