"""A way to a task server through a gateway's websocket."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    connectWS,
)
from autobahn.websocket.types import ConnectionResponse
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConnector
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.link import MAX_REPLY, OnProgress, explain
from taskd.client.pending import PendingCalls
from taskd.errors import ParseError, Unreachable
from taskd.model import Call, Outcome
from taskd.net.endpoints import CONNECT_TIMEOUT
from taskd.net.reactor import Reactor
from taskd.protocol.websocket_frames import PING_INTERVAL

__all__ = ["WebSocketLink"]

MAX_CALLS_PER_WEBSOCKET = 80
"""Calls that are sent and not answered: of the 100 that a gateway takes, so
that it does not hold back what asks to cancel them."""


class _Protocol(WebSocketClientProtocol):
    """Autobahn's side: hands everything to the link."""

    def onOpen(self) -> None:
        self.factory.link.opened(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: FBT001, N803
        if not isBinary:
            self.factory.link.received(payload)

    def onConnect(self, response: ConnectionResponse) -> None:
        pass

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: FBT001, N803
        self.factory.link.lost(f"{reason or 'it closed the connection'} (code {code})")


class _Factory(WebSocketClientFactory):
    """Makes the one connection of a link."""

    noisy = False
    protocol = _Protocol

    def __init__(self, url: str, link: WebSocketLink, reactor: Reactor) -> None:
        super().__init__(url, reactor=reactor)
        self.link = link
        self.setProtocolOptions(
            autoPingInterval=PING_INTERVAL,
            autoPingTimeout=PING_INTERVAL,
            openHandshakeTimeout=CONNECT_TIMEOUT,
            maxFramePayloadSize=MAX_REPLY,
            maxMessagePayloadSize=MAX_REPLY,
            failByDrop=False,
        )

    def clientConnectionFailed(self, connector: IConnector, reason: TwistedFailure) -> None:
        self.link.lost(explain(reason))


class WebSocketLink:
    """Keeps one websocket, and tells the calls on it apart by ids of its own.

    `url` is ``ws://HOST:PORT[/PATH]`` or ``wss://…``; raises `ValueError`
    where it is not. Is a `taskd.client.link.Link`.
    """

    def __init__(self, reactor: Reactor, url: str) -> None:
        self._reactor = reactor
        self._url = url
        try:
            self._factory = _Factory(url, self, reactor)
        except Exception as error:
            raise ValueError(
                f"{url!r} is no websocket address ({error}); write ws://HOST:PORT or wss://…"
            ) from error
        self._protocol: _Protocol | None = None
        self._connector: Any = None
        self._waiters = PendingCalls(self._send, MAX_CALLS_PER_WEBSOCKET)

    def call(self, call: Call, on_progress: OnProgress | None = None) -> Deferred[Outcome]:
        """Send over the websocket, which is opened where there is none. As `Link.call`."""
        done = self._waiters.add(call, on_progress)
        if self._protocol is None and self._connector is None:
            context = ssl.optionsForClientTLS(self._factory.host) if self._factory.isSecure else None
            self._connector = connectWS(self._factory, context, timeout=CONNECT_TIMEOUT)
        return done

    def _send(self, message: bytes) -> None:
        # One that is closing takes nothing more; `lost` will tell those who wait.
        if self._protocol is not None and self._protocol.state == _Protocol.STATE_OPEN:
            self._protocol.sendMessage(message)

    def ask_to_cancel(self, done: Deferred[Outcome]) -> bool:
        """As `Link.ask_to_cancel`."""
        return self._waiters.ask_to_cancel(done)

    def let_go(self, done: Deferred[Outcome]) -> bool:
        """As `Link.let_go`."""
        return self._waiters.let_go(done)

    def opened(self, protocol: _Protocol) -> None:
        """The websocket is there: send what waited for it."""
        self._protocol = protocol
        self._waiters.opened()

    def received(self, payload: bytes) -> None:
        """A message from the gateway."""
        with suppress(ParseError):  # a text for people is none of ours
            self._waiters.received(payload)

    def lost(self, why: str) -> None:
        """The websocket could not be opened, or is lost: so are its calls."""
        sent = self._protocol is not None
        self._protocol = self._connector = None
        what = "was lost before it answered; tasks may have run" if sent else "cannot be reached"
        error = Unreachable(f"the gateway {self._url} {what}: {why}", server=self._url, sent=sent)
        self._waiters.fail(error)

    def close(self) -> None:
        """Close the websocket."""
        if self._protocol is not None:
            self._protocol.sendClose()
        elif self._connector is not None:
            self._connector.disconnect()
