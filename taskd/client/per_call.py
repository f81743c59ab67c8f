"""A connection for each call, as the page has it that taskd comes from."""

from __future__ import annotations

from typing import Any

from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.links import MAX_REPLY, Connection, OnProgress, factory_for, lost, report
from taskd.endpoints import client_endpoint
from taskd.errors import ParseError, Unreachable
from taskd.messages import Call, Dialect, Outcome, Progress, Result
from taskd.wire.dialects import call_line, parse_bare_reply, parse_reply

__all__ = ["PerCallLink"]

_NO_REPLY = Result(Raw(b"null"))
"""The outcome of a notification that was sent: it has none."""


class _Exchange(Connection):
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
            self.transport.write(call_line(self._call) + b"\n")
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
            if isinstance(body, Progress):
                report(self._on_progress, body)
            else:
                self._finish(body)

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
            self.done.errback(lost(self._server, self.why(reason), sent=self.is_open))

    def connectionLost(self, reason: TwistedFailure) -> None:  # type: ignore[override]
        self.failed(reason)


class PerCallLink:
    """Opens a connection for each call, and closes it when the result is there.

    `server` is a client endpoint string; raises `ValueError` where it is
    none. `max_reply` is in bytes. Is a `taskd.client.links.Link`.
    """

    def __init__(self, reactor: Any, server: str, max_reply: int = MAX_REPLY) -> None:
        self._server = server
        self._endpoint = client_endpoint(reactor, server)
        self._max_reply = max_reply
        self._exchanges: set[_Exchange] = set()

    def call(self, call: Call, on_progress: OnProgress | None = None) -> Deferred[Outcome]:
        """Connect, send, and wait. As `Link.call`."""
        exchange = _Exchange(self._server, call, on_progress)
        exchange.MAX_LENGTH = self._max_reply
        self._exchanges.add(exchange)
        exchange.connecting = self._endpoint.connect(factory_for(exchange))
        exchange.connecting.addErrback(exchange.failed)
        return exchange.done.addBoth(self._over, exchange)

    def _over(self, outcome: Outcome, exchange: _Exchange) -> Outcome:
        self._exchanges.discard(exchange)
        return outcome

    def close(self) -> None:
        """Drop every connection; what waits on them is cancelled."""
        for exchange in list(self._exchanges):
            exchange.done.cancel()
