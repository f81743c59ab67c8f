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

from taskd.client.conversation import GATEWAY_PING_LINE, MAX_REPLY
from taskd.client.heartbeat import Heartbeat
from taskd.client.link import CLOSED, Meter, OnProgress, PendingCall, explain
from taskd.client.pending import OnEvent, PendingCalls
from taskd.client.shared_call import SharedCall
from taskd.client.tokens import Credentials, denial_of
from taskd.client.twisted_tokens import TokenKeeper
from taskd.errors import ParseError, Unreachable
from taskd.model import Call, Failure, Outcome
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
        if self._cause:
            self.factory.link.lost(self._cause)
        else:
            self.factory.link.closed(code, reason or "")


def _not_a_gateway(first: bytes) -> str:
    """Return what the other end is if its first bytes show that it is no gateway, else an empty text."""
    if first.startswith(b"{"):
        return "that port is a task server's: its address is tcp:HOST:PORT (--server)"
    if first.startswith(b"HTTP/"):
        return ""  # Autobahn reports what it says
    return "that port speaks TLS: write wss://HOST:PORT" if not_a_task_server(first) else ""


class _Factory(WebSocketClientFactory):
    """Makes the one connection of a websocket."""

    noisy = False
    protocol = _Protocol

    def __init__(self, url: str, reactor: Reactor) -> None:
        super().__init__(url, reactor=reactor)
        self.link: _WebSocket
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


class _WebSocket:
    """One websocket of a link, from before it is opened until it is lost."""

    def __init__(
        self,
        reactor: Reactor,
        factory: _Factory,
        on_event: OnEvent | None,
        forget: Callable[[_WebSocket], bool],
        on_lost: Callable[[], object],
        credentials: Credentials | None,
    ) -> None:
        self._factory = factory
        factory.link = self
        self._forget = forget
        self._on_lost = on_lost
        self._protocol: _Protocol | None = None
        self._connector: Any = None
        self._token: str | None = None
        self._keeper = None if credentials is None else TokenKeeper(reactor, credentials, self._show)
        shown = None if self._keeper is None else self._keeper.shown
        self.calls = PendingCalls(self._send, MAX_CALLS_PER_WEBSOCKET, on_event, shown)
        self._heartbeat = Heartbeat(
            reactor,
            lambda: len(self.calls) or on_event,
            lambda: self._send(GATEWAY_PING_LINE),
            self._give_up,
        )

    def open(self) -> None:
        """Open the websocket, once there is a token if one is needed."""
        if self._keeper is None:
            self._connect()
        else:
            self._keeper.first(self._connect, self._denied)

    def _connect(self, token: str | None = None) -> None:
        self._token = token
        context = ssl.optionsForClientTLS(self._factory.host) if self._factory.isSecure else None
        self._connector = connectWS(self._factory, context, timeout=CONNECT_TIMEOUT)

    def _denied(self, failure: Failure) -> None:
        self.calls.deny(failure)
        self._end("there is no token")

    def _show(self, token: str) -> None:
        self.calls.show(token)

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
        self.calls.opened(self._token)

    def received(self, payload: bytes) -> None:
        """Take in a message from the gateway."""
        self._heartbeat.received()
        with suppress(ParseError):  # a text for people
            self.calls.received(payload)
        if self.calls.denial is not None and not len(self.calls):
            self.drop()  # the gateway lets nobody in over it

    def closed(self, code: int | None, why: str) -> None:
        """Fail the calls: the gateway has closed the websocket, maybe because of its token."""
        denial = denial_of(code or 0, why)
        if denial is not None and not (self._keeper is not None and self._keeper.shown.was_accepted):
            self.calls.deny(denial)
        self.lost(f"{why or 'it closed the connection'} (code {code})")

    def lost(self, why: str) -> None:
        """Fail the calls: the websocket could not be opened, or is lost."""
        self._protocol = None
        self._end(why)

    def _end(self, why: str) -> None:
        self._heartbeat.stop()
        if self._keeper is not None:
            self._keeper.stop()
        was_in_use = self._forget(self)  # so that calls made in the meantime have another websocket
        self.calls.fail(lambda sent: unreachable(self._factory.url, why, sent=sent))
        if was_in_use:
            self._on_lost()

    def drop(self) -> None:
        """Close the websocket."""
        if self._keeper is not None:
            self._keeper.stop()
        if self._protocol is not None:
            self._protocol.sendClose()
        elif self._connector is not None:
            self._connector.disconnect()


def unreachable(url: str, why: str, *, sent: bool) -> Unreachable:
    """Return the error of a call that was lost with its websocket."""
    what = "was lost before it answered; tasks may have run" if sent else "cannot be reached"
    return Unreachable(f"the gateway {url} {what}: {why}", server=url, sent=sent)


class WebSocketLink:
    """Keeps one websocket, with many calls in flight.

    `url` is ``ws://HOST:PORT[/PATH]`` or ``wss://…``; raises `ValueError`
    if it is not. `on_event` gets the events that are pushed on it, and
    `on_lost` is called when it is lost. With `credentials`, it shows a token ahead of all
    calls. Is a `taskd.client.link.Link`.
    """

    def __init__(
        self,
        reactor: Reactor,
        url: str,
        on_event: OnEvent | None = None,
        on_lost: Callable[[], object] = bool,  # which does nothing
        *,
        credentials: Credentials | None = None,
    ) -> None:
        self._url = url
        self._reactor = reactor
        self._on_event = on_event
        self._on_lost = on_lost
        self._credentials = credentials
        try:
            self._factory()
        except Exception as error:
            raise ValueError(
                f"{url!r} is no websocket address ({error}); write ws://HOST:PORT or wss://…"
            ) from error
        self._websocket: _WebSocket | None = None

    def _factory(self) -> _Factory:
        return _Factory(self._url, self._reactor)

    def call(
        self,
        call: Call,
        on_progress: OnProgress | None = None,
        dialect: Dialect = JSON_RPC,
        meter: Meter | None = None,
    ) -> PendingCall:
        """Send over the websocket, which is opened if there is none. As `Link.call`."""
        websocket = self._websocket
        if websocket is not None:
            if websocket.calls.denial is None:
                return SharedCall(websocket.calls, call, on_progress)
            self._websocket = None
            self._on_lost()
        websocket = self._websocket = _WebSocket(
            *(self._reactor, self._factory(), self._on_event, self._forget, self._on_lost),
            self._credentials,
        )
        pending = SharedCall(websocket.calls, call, on_progress)
        websocket.open()
        return pending

    def send(self, call: Call) -> Deferred[Outcome]:
        """Send a call; fails with `Unreachable` if the websocket cannot be opened, or is lost."""
        return self.call(call).outcome

    def _forget(self, websocket: _WebSocket) -> bool:
        """Use a websocket no more; return whether it was in use."""
        if self._websocket is not websocket:
            return False
        self._websocket = None
        return True

    def close(self) -> None:
        """Close the websocket. As `Link.close`."""
        websocket = self._websocket
        if websocket is not None:
            websocket.drop()
            websocket.calls.fail(lambda sent: unreachable(self._url, CLOSED, sent=sent))
