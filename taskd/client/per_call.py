"""A connection for each call, as the page has it that taskd comes from."""

from __future__ import annotations

from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.link import MAX_REPLY, Connection, OnProgress, lost, report
from taskd.errors import ParseError, Unreachable
from taskd.model import Call, Dialect, Outcome, Progress, Result
from taskd.net.client_transport import Connecting, connector
from taskd.net.reactor import Reactor
from taskd.protocol.methods import cancel_line
from taskd.protocol.requests import call_line, parse_bare_reply, parse_reply

__all__ = ["PerCallLink"]

_NO_REPLY = Result(Raw(b"null"))
"""The outcome of a call for whose reply nobody waits: it was sent."""


class _Exchange(Connection):
    """A connection for one call."""

    def __init__(self, link: PerCallLink, call: Call, on_progress: OnProgress | None) -> None:
        self._link = link
        self._call = call
        self._on_progress = on_progress
        self._waiting = True
        self._wants_reply = not call.is_notification
        # A bare call has no id to be cancelled by, and null names no request.
        self._id = None if call.id is None or bytes(call.id) == b"null" else bytes(call.id)
        self.connecting: Connecting | None = None
        # By way of the link, which forgets us: we are not to refer to ourselves.
        self.done: Deferred[Outcome] = Deferred(link.cancelled)

    def opened(self) -> None:
        if self._waiting:
            self._send(call_line(self._call))
            if not self._wants_reply:
                self._finish(_NO_REPLY)

    def _send(self, line: bytes) -> None:
        self.transport.write(line + b"\n")

    # --- when it is not to go on ---

    def cancelled(self) -> None:
        """Nobody waits any more, and the task is not to be run."""
        if self.is_open and self._id is not None and self._waiting:
            self._over()
            self._send(cancel_line(self._id))
            self.transport.loseConnection()
        else:
            # That is all there is to say: the call's own options tell the
            # server what it means.
            self.drop()

    def ask_to_cancel(self) -> None:
        """As `Link.ask_to_cancel`."""
        if not self.is_open:
            self.done.cancel()
        elif self._id is not None:
            self._send(cancel_line(self._id))

    def let_go(self) -> None:
        """As `Link.let_go`."""
        self._wants_reply = False
        if self.is_open:
            self._finish(_NO_REPLY)

    def drop(self) -> None:
        """Close at once; the Deferred is the caller's to end."""
        self._over()
        if self.transport is not None:
            self.transport.abortConnection()
        elif self.connecting is not None:
            self.connecting.cancel()

    def _over(self) -> None:
        self._waiting = False
        self._link.forget(self)

    # --- what comes back ---

    def lines_received(self, lines: list[bytes]) -> None:
        for line in lines:
            if not self._waiting:
                return
            try:
                body = self._body(line)
            except ParseError as error:
                server = self._link.server
                self._fail(Unreachable(f"{server} is no task server: {error}", server=server, sent=True))
                return
            if isinstance(body, Progress):
                report(self._on_progress, body)
            else:
                self._finish(body)

    def _body(self, line: bytes) -> Outcome | Progress:
        return parse_bare_reply(line) if self._call.dialect is Dialect.BARE else parse_reply(line).body

    def _finish(self, outcome: Outcome) -> None:
        self._over()
        self.transport.loseConnection()
        self.done.callback(outcome)

    def _fail(self, error: Unreachable) -> None:
        self._over()
        self.transport.abortConnection()
        self.done.errback(error)

    def failed(self, reason: TwistedFailure) -> None:
        """The connection could not be made, or is lost."""
        if self._waiting:
            self._over()
            self.done.errback(lost(self._link.server, self.why(reason), sent=self.is_open))


class PerCallLink:
    """Opens a connection for each call, and closes it when the result is there.

    `server` is a client endpoint string; raises `ValueError` where it is
    none. `max_reply` is in bytes. Is a `taskd.client.link.Link`.
    """

    def __init__(self, reactor: Reactor, server: str, max_reply: int = MAX_REPLY) -> None:
        self.server = server
        self._connector = connector(reactor, server)
        self._max_reply = max_reply
        self._exchanges: dict[Deferred[Outcome], _Exchange] = {}

    def call(self, call: Call, on_progress: OnProgress | None = None) -> Deferred[Outcome]:
        """Connect, send, and wait. As `Link.call`."""
        exchange = _Exchange(self, call, on_progress)
        exchange.MAX_LENGTH = self._max_reply
        self._exchanges[exchange.done] = exchange
        exchange.connecting = self._connector.connect(exchange)
        return exchange.done

    def ask_to_cancel(self, done: Deferred[Outcome]) -> bool:
        """Ask on the call's connection, where the call has an id to be named by. As `Link.ask_to_cancel`."""
        exchange = self._exchanges.get(done)
        if exchange is not None:
            exchange.ask_to_cancel()
        return exchange is not None

    def let_go(self, done: Deferred[Outcome]) -> bool:
        """Close the connection once the call is sent. As `Link.let_go`."""
        exchange = self._exchanges.get(done)
        if exchange is not None:
            exchange.let_go()
        return exchange is not None

    def cancelled(self, done: Deferred[Outcome]) -> None:
        """Nobody waits any more for this one."""
        exchange = self._exchanges.get(done)
        if exchange is not None:
            exchange.cancelled()

    def forget(self, exchange: _Exchange) -> None:
        """Know nothing more of this one: it is over."""
        self._exchanges.pop(exchange.done, None)

    def close(self) -> None:
        """Drop every connection; what waits on them fails with `CancelledError`."""
        for done, exchange in list(self._exchanges.items()):
            exchange.drop()
            done.cancel()
