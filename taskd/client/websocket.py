"""The link to a task server through a gateway's websocket."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    connectWS,
)
from autobahn.websocket.types import ConnectionResponse
from OpenSSL import SSL
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConnector
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.conversation import MAX_REPLY, PING_LINE
from taskd.client.heartbeat import Heartbeat
from taskd.client.link import CLOSED, Meter, OnProgress, PendingCall, explain
from taskd.client.pending import OnEvent, PendingCalls
from taskd.client.shared_call import SharedCall
from taskd.errors import ParseError, Unreachable
from taskd.model import Call, Outcome
from taskd.net.endpoints import CONNECT_TIMEOUT
from taskd.net.reactor import Reactor
from taskd.net.strangers import not_a_task_server
from taskd.protocol.dialects import JSON_RPC, Dialect
from taskd.protocol.websocket_frames import PING_INTERVAL

__all__ = ["WebSocketLink"]

MAX_CALLS_PER_WEBSOCKET = 80
"""Calls that are sent and not answered: less than the 100 that a gateway takes,
so that it reads on, and what cancels them is not kept waiting."""

FIRST_BYTES = 64
"""Bytes from the other end that are kept: enough to recognise TLS or HTTP."""


class _Protocol(WebSocketClientProtocol):
    """Autobahn's side: passes everything to the link."""

    _first = b""
    _cause = ""

    def dataReceived(self, data: bytes) -> None:
        """Keep how the other end began, to recognise one that is no gateway."""
        if not self._first:
            self._first = data[:FIRST_BYTES]
        super().dataReceived(data)

    def connectionLost(self, reason: TwistedFailure) -> None:  # type: ignore[override]
        if isinstance(reason.value, SSL.Error):
            self._cause = explain(reason)
        elif self.state == self.STATE_CONNECTING:
            self._cause = _not_a_gateway(self._first)
        super().connectionLost(reason)

    def give_up(self, why: str) -> None:
        """Drop the connection, whose other end does not answer."""
        self._cause = why
        self.dropConnection(abort=True)

    def onOpen(self) -> None:
        self.factory.link.opened(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: FBT001, N803
        if not isBinary:
            self.factory.link.received(payload)

    def onConnect(self, response: ConnectionResponse) -> None:
        pass

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: FBT001, N803
        self.factory.link.lost(self._cause or f"{reason or 'it closed the connection'} (code {code})")


def _not_a_gateway(first: bytes) -> str:
    """Return what the other end is if its first bytes show that it is no gateway, else an empty text."""
    if first.startswith(b"{"):
        return "that port is a task server's: its address is tcp:HOST:PORT (--server)"
    if first.startswith(b"HTTP/"):
        return ""  # Autobahn reports what it says
    return "that port speaks TLS: write wss://HOST:PORT" if not_a_task_server(first) else ""


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
    """Keeps one websocket, with many calls in flight.

    `url` is ``ws://HOST:PORT[/PATH]`` or ``wss://…``; raises `ValueError`
    if it is not. `on_event` gets the events that are pushed on it, and
    `on_lost` is called when it is lost. Is a `taskd.client.link.Link`.
    """

    def __init__(
        self,
        reactor: Reactor,
        url: str,
        on_event: OnEvent | None = None,
        on_lost: Callable[[], object] = bool,  # which does nothing
    ) -> None:
        self._url = url
        self._on_lost = on_lost
        try:
            self._factory = _Factory(url, self, reactor)
        except Exception as error:
            raise ValueError(
                f"{url!r} is no websocket address ({error}); write ws://HOST:PORT or wss://…"
            ) from error
        self._protocol: _Protocol | None = None
        self._connector: Any = None
        self._calls = PendingCalls(self._send, MAX_CALLS_PER_WEBSOCKET, on_event)
        self._heartbeat = Heartbeat(
            reactor, lambda: len(self._calls) or on_event, lambda: self._send(PING_LINE), self._give_up
        )

    def call(
        self,
        call: Call,
        on_progress: OnProgress | None = None,
        dialect: Dialect = JSON_RPC,
        meter: Meter | None = None,
    ) -> PendingCall:
        """Send over the websocket, which is opened if there is none. As `Link.call`."""
        pending = SharedCall(self._calls, call, on_progress)
        if self._protocol is None and self._connector is None:
            context = ssl.optionsForClientTLS(self._factory.host) if self._factory.isSecure else None
            self._connector = connectWS(self._factory, context, timeout=CONNECT_TIMEOUT)
        return pending

    def send(self, call: Call) -> Deferred[Outcome]:
        """Send a call; fails with `Unreachable` if the websocket cannot be opened, or is lost."""
        return self.call(call).outcome

    def _send(self, message: bytes) -> None:
        # One that is closing takes nothing more: `lost` fails its calls.
        if self._protocol is not None and self._protocol.state == _Protocol.STATE_OPEN:
            self._protocol.sendMessage(message)
            self._heartbeat.sent()

    def _give_up(self, why: str) -> None:
        if self._protocol is not None:
            self._protocol.give_up(why)

    def opened(self, protocol: _Protocol) -> None:
        """Send the calls that waited for the websocket."""
        self._protocol = protocol
        self._calls.opened()

    def received(self, payload: bytes) -> None:
        """Take in a message from the gateway."""
        self._heartbeat.received()
        with suppress(ParseError):  # a text for people
            self._calls.received(payload)

    def lost(self, why: str) -> None:
        """Fail the calls: the websocket could not be opened, or is lost."""
        self._protocol = self._connector = None
        self._heartbeat.stop()
        self._calls.fail(lambda sent: self._lost(why, sent=sent))
        self._on_lost()

    def _lost(self, why: str, *, sent: bool) -> Unreachable:
        what = "was lost before it answered; tasks may have run" if sent else "cannot be reached"
        return Unreachable(f"the gateway {self._url} {what}: {why}", server=self._url, sent=sent)

    def close(self) -> None:
        """Close the websocket. As `Link.close`."""
        if self._protocol is not None:
            self._protocol.sendClose()
        elif self._connector is not None:
            self._connector.disconnect()
        self._calls.fail(lambda sent: self._lost(CLOSED, sent=sent))
