"""The gateway's HTTP connections: request heads are checked first, and nothing lasts for ever."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from twisted.internet.interfaces import IDelayedCall
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from twisted.web.resource import IResource
from twisted.web.server import Site

from taskd.net.buffered_socket import (
    HIGH_WATER,
    READ_SIZE,
    SMALL_READ_SIZE,
    StreamTransport,
    socket_under,
)
from taskd.net.party_keys import party_key
from taskd.net.reactor import Reactor
from taskd.net.time_limits import CLOSING_SECONDS, OPENING_SECONDS
from taskd.net.turns import Turns
from taskd.web.heads import HeadReader, Refusal, check_request
from taskd.web.routes import route_of

__all__ = ["IDLE_SECONDS", "UNREAD_SECONDS", "GatewayChannel", "GatewaySite"]

IDLE_SECONDS = 15.0
"""Seconds for which a connection is kept for the next request: a browser that wants something
else from this port wants it at once, and an idle connection costs a descriptor."""

UNREAD = 4096
"""Bytes of responses that the transport may hold before the next request is served: few, since there may be
thousands of connections, and what they hold counts for no client's share."""

UNREAD_SECONDS = 30.0
"""Seconds in which a client has to read the responses that the transport still holds: at most `UNREAD`
bytes, what TLS keeps, and a page or the JavaScript client."""


class _Phase(Enum):
    """What the connection waits for."""

    HEAD = "the rest of a head"
    NEXT = "the next request"
    READER = "the client to read responses"
    CLOSE = "the end"
    SERVING = "this program"


_SECONDS = {
    _Phase.HEAD: OPENING_SECONDS,
    _Phase.NEXT: IDLE_SECONDS,
    _Phase.READER: UNREAD_SECONDS,
    _Phase.CLOSE: CLOSING_SECONDS,
}


class GatewayChannel(HTTPChannel):
    """An HTTP connection, which passes only whole and wanted heads to twisted.web.

    Whatever the client does, one timer runs, except while a request is being
    served. Of requests that are sent together at most one is served in a turn
    of the reactor, and only while their responses are read.
    """

    transport: StreamTransport  # type: ignore[assignment]  # Twisted's type is too narrow for any use
    factory: GatewaySite
    callLater: Callable[..., IDelayedCall]  # the factory sets it  # noqa: N815

    def __init__(self) -> None:
        super().__init__()
        self._heads = HeadReader()
        self._phase = _Phase.SERVING
        self._timer: IDelayedCall | None = None
        self._awaits_turn = False
        self._is_serving = False
        self.party = ""
        """The party that the connection belongs to. It cannot be found out once the connection is closed."""

    def connectionMade(self) -> None:
        """Wait for the first request."""
        super().connectionMade()
        self.party = party_key(self.transport)
        self._keep_little()
        self._enter(_Phase.HEAD)

    def _keep_little(self, *, is_over: bool = False) -> None:
        """Have the transport read and keep little; or no longer, if it may become that of a websocket."""
        below = socket_under(self.transport)
        if below is not None:
            below.high_water = HIGH_WATER if is_over else UNREAD
            below.read_size = READ_SIZE if is_over else SMALL_READ_SIZE

    # --- what comes in ---

    def dataReceived(self, data: bytes) -> None:
        """Cut requests out of `data`, and serve the first of them."""
        if self._phase is _Phase.CLOSE:
            return
        self._heads.receive(data)
        turns = self.factory.turns
        if self._is_serving or self._phase is _Phase.READER or self._awaits_turn:
            self.transport.pauseProducing()
        elif turns.is_spent:
            self._awaits_turn = True
            turns.ask(self)
            self.transport.pauseProducing()
        else:
            turns.measured(self._read_next)

    def _read_next(self) -> None:
        """Serve the next request if its head is complete."""
        try:
            head = self._heads.next()
            if head is not None:
                check_request(head, route_of(head.target))
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if head is None:
            if len(self._heads):
                self._enter(_Phase.HEAD)
            return
        self._enter(_Phase.SERVING)
        self._is_serving = True
        transport = self.transport
        self._keep_little(is_over=True)  # a websocket may take the transport over
        super().dataReceived(head.data)
        if self.transport is not None:
            self._keep_little()
        else:
            _pass_on(self._heads.take_rest(), transport)

    def requestDone(self, request: Request) -> None:  # noqa: N802  # Twisted's name
        """Wait for the next request, or serve it if it has been sent already."""
        super().requestDone(request)
        self._is_serving = False
        self._go_on()

    def _go_on(self) -> None:
        if self._phase in (_Phase.CLOSE, _Phase.READER) or self._is_serving:
            return
        if not len(self._heads):
            self._enter(_Phase.NEXT)
        elif not self._awaits_turn:
            self._enter(_Phase.SERVING)
            self._awaits_turn = True
            # Not in this turn of the reactor: pages that nobody waits for must not fill its time.
            self.callLater(0, self.factory.turns.ask, self)
            self.transport.pauseProducing()

    # --- `taskd.net.turns.TurnTaker` ---

    def take_step(self) -> bool:
        """Serve one of the requests that were sent together; read on when none is complete."""
        self._awaits_turn = False
        if self._phase in (_Phase.READER, _Phase.CLOSE):
            return False
        self._read_next()
        if not self._awaits_turn and self._phase in (_Phase.HEAD, _Phase.NEXT):
            self.transport.resumeProducing()
        return False  # it has asked for the next turn, if there is more

    def hold(self) -> None:
        """Do nothing: nothing is read while requests wait."""

    def abort(self) -> None:
        """Reset the connection."""
        self.transport.abortConnection()

    def _refuse(self, refusal: Refusal) -> None:
        self.transport.write(refusal.response)
        self.loseConnection()

    # --- the transport has enough to send, or has sent it ---

    def pauseProducing(self) -> None:
        """Serve nothing more until the client has read the responses."""
        super().pauseProducing()
        if self._phase is not _Phase.CLOSE:
            self._enter(_Phase.READER)

    def resumeProducing(self) -> None:
        """Go on: the client has read the responses."""
        super().resumeProducing()
        if self._phase is _Phase.READER:
            self._enter(_Phase.SERVING)
            self._go_on()

    # --- the end ---

    def _enter(self, phase: _Phase) -> None:
        """Wait for something else than before; the time for it begins now."""
        if phase is self._phase:
            return
        self._phase = phase
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if phase in _SECONDS:
            self._timer = self.callLater(_SECONDS[phase], self._time_is_over)

    def _time_is_over(self) -> None:
        self._timer = None
        if self._phase is _Phase.HEAD and len(self._heads):
            self._refuse(Refusal(408, f"the head of the request was not complete in {OPENING_SECONDS:g} s"))
        elif self._phase in (_Phase.HEAD, _Phase.NEXT):
            self.loseConnection()
        else:
            self.transport.abortConnection()

    def loseConnection(self) -> None:  # noqa: N802  # Twisted's name
        """Close once everything is sent; but not later than in `CLOSING_SECONDS`."""
        self._enter(_Phase.CLOSE)
        super().loseConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Forget the connection."""
        self._phase = _Phase.CLOSE
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().connectionLost(reason)


def _pass_on(rest: bytes, transport: StreamTransport) -> None:
    """Pass what a client has sent behind a websocket's handshake to the websocket."""
    if rest:
        wrapped = isinstance(transport, ProtocolWrapper)  # TLS
        protocol = transport.wrappedProtocol if wrapped else transport.protocol  # type: ignore[attr-defined]
        protocol.dataReceived(rest)


class GatewaySite(Site):
    """The factory of the gateway's HTTP connections, whose requests go to `root`."""

    noisy = False
    protocol = GatewayChannel  # type: ignore[assignment]  # as Twisted allows

    def __init__(self, reactor: Reactor, root: IResource) -> None:
        super().__init__(root, reactor=reactor)
        self.timeOut = None  # the channel has timers of its own
        self.turns = Turns(reactor)

    def log(self, request: Request) -> None:
        """Log no requests: twisted.web would log each, and health checks come every second."""

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802  # Twisted's name
        """Return HTTP/1.1 alone: twisted.web would add HTTP/2, which this channel does not speak."""
        return [b"http/1.1"]
