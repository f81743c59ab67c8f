"""The gateway's HTTP connections: request heads are checked first, and nothing lasts for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from io import BytesIO

from twisted.internet.interfaces import IDelayedCall
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from twisted.web.resource import IResource
from twisted.web.server import Request as SiteRequest
from twisted.web.server import Site

from taskd.auth.caller import Caller
from taskd.listeners.message_rate import Allowance
from taskd.listeners.no_room import MESSAGE_RETRY_AFTER, REST_OF_MESSAGE
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
from taskd.protocol.framing import MAX_MESSAGE
from taskd.scheduler.budget import Budget
from taskd.scheduler.parties import Lane
from taskd.web.bodies import ArrivingBody, HeldBody
from taskd.web.heads import Head, HeadReader, Refusal, check_request
from taskd.web.problems import Problem
from taskd.web.routes import Route, route_of

__all__ = ["BODY_RATE", "BODY_SECONDS", "IDLE_SECONDS", "UNREAD_SECONDS", "GatewayChannel", "GatewaySite"]

IDLE_SECONDS = 15.0
"""Seconds for which a connection is kept for the next request: a browser that wants something
else from this port wants it at once, and an idle connection costs a descriptor."""

BODY_SECONDS = 20.0
"""Seconds that any body may take to arrive: twice as many as a head, since it may be many times as long."""

BODY_RATE = 65536
"""Bytes in a second at which the rest of a body must come, on the average: half a megabit, as a bad mobile
connection has. So the longest takes three minutes at most."""

UNREAD = 4096
"""Bytes of responses that the transport may hold before the next request is served: few, since there may be
thousands of connections, and what they hold counts for no client's share."""

UNREAD_SECONDS = 30.0
"""Seconds in which a client has to read the responses that the transport still holds: at most `UNREAD`
bytes, what TLS keeps, and a page or the JavaScript client."""


Admit = Callable[[Head, str], Caller | None]
"""Returns whoever has shown a token with a head, which the party has sent. Raises `Problem`."""


class _Phase(Enum):
    """What the connection waits for."""

    HEAD = "the rest of a head"
    BODY = "the rest of a body"
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
        self._next: tuple[Head, Route] | None = None
        self._body: ArrivingBody | None = None
        self._held: HeldBody | None = None
        self.lane: Lane | None = None
        """Where the tasks of this connection's requests wait; None before the first of them."""
        self.caller: Caller | None = None
        """Whoever has shown a token with the head of a request whose body was read after that."""
        self.refused = 0
        """How many tokens were refused here, by answers after which the connection goes on."""
        self.allowance: Allowance | None = None
        """The requests that may come now by the rate; None before the first that counts."""
        self.when_paused: Callable[[], object] | None = None
        """Called when nothing more is read while a request is being served, so that no end shows."""
        self.party = ""
        """The party that the connection belongs to. It cannot be found out once the connection is closed."""

    def connectionMade(self) -> None:
        """Wait for the first request."""
        super().connectionMade()
        self.party = party_key(self.transport)
        self.factory.channels.add(self)
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
        if self._body is not None:
            self._receive_body(self._body)
        elif self._is_serving:
            self._pause_while_serving()
        elif self._phase is _Phase.READER or self._awaits_turn:
            self.transport.pauseProducing()
        elif turns.is_spent:
            self._await_turn()
        else:
            turns.measured(self._read_next)

    def _await_turn(self) -> None:
        self._awaits_turn = True
        self.factory.turns.ask(self)
        self.transport.pauseProducing()

    def _read_next(self) -> None:
        """Serve the next request if it is complete."""
        if self._next is not None:
            self._serve(*self._next)
            return
        try:
            head = self._heads.next()
            if head is not None:
                route = route_of(head.target)
                self._admit(head, route)
                check_request(head, route, self.factory.max_body)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if head is None:
            if len(self._heads):
                self._enter(_Phase.HEAD)
        elif head.length:
            self._next = head, route
            self._begin_body(head, head.length)
        else:
            self._serve(head, route)

    def _admit(self, head: Head, route: Route) -> None:
        """Refuse a body of whoever has no valid token, before any of it is read. Raises `Refusal`."""
        self.caller = None
        if head.length == 0 or head.method not in route.with_body or self.factory.admit is None:
            return
        try:
            self.caller = self.factory.admit(head, self.party)
        except Problem as problem:
            raise Refusal.of(problem) from None

    def _begin_body(self, head: Head, length: int) -> None:
        self._body = body = ArrivingBody(
            length, self.factory.budget, self.party, self.transport.resumeProducing, self._refuse_body
        )
        self._enter(_Phase.BODY, BODY_SECONDS + length / BODY_RATE)
        if head.awaits_continue and not len(self._heads):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        below = socket_under(self.transport)
        if below is not None and not self.factory.budget.is_scarce:
            below.read_size = READ_SIZE
        self._receive_body(body)

    def _receive_body(self, body: ArrivingBody) -> None:
        body.add(self._heads.take(body.missing))
        if body.missing:
            if not body.has_room:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()
            return
        self._body = None
        self._held = body.complete()
        self._enter(_Phase.SERVING)
        if self.factory.turns.is_spent:
            self._await_turn()
        else:
            self.factory.turns.measured(self._read_next)

    def _refuse_body(self) -> None:
        assert self._next is not None
        self._refuse(
            Refusal(429, REST_OF_MESSAGE, Retry_After=f"{MESSAGE_RETRY_AFTER:.0f}"), route=self._next[1]
        )

    def _serve(self, head: Head, route: Route) -> None:
        self._next = None
        self._enter(_Phase.SERVING)
        self._is_serving = True
        transport = self.transport
        self._keep_little(is_over=True)  # a websocket may take the transport over
        super().dataReceived(head.data)
        if self.transport is None:
            self.factory.channels.discard(self)
            _pass_on(self._heads.take_rest(), transport)
            return
        self._keep_little()
        if self._is_serving and self._phase is not _Phase.CLOSE:
            if len(self._heads):
                self._pause_while_serving()
            else:
                transport.resumeProducing()  # so that the end of the client shows

    def _pause_while_serving(self) -> None:
        self.transport.pauseProducing()
        if self.when_paused is not None:
            self.when_paused()

    def take_body(self) -> BytesIO:
        """Return the body of the request that is being served, as a file. Call this once."""
        held, self._held = self._held, None
        return held or BytesIO()

    def checkPersistence(self, request: Request, version: bytes) -> bool:  # noqa: N802  # Twisted's name
        """Return whether the connection stays open after a response.

        If a stop is near it does not, as the response announces: the client then asks over another
        connection, which may lead to another gateway.
        """
        stays = bool(super().checkPersistence(request, version))
        if stays and self.factory.is_draining and not request.requestHeaders.hasHeader(b"upgrade"):
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            return False
        return stays

    def requestDone(self, request: Request) -> None:  # noqa: N802  # Twisted's name
        """Wait for the next request, or serve it if it has been sent already."""
        super().requestDone(request)
        self._is_serving = False
        self.when_paused = None
        self._go_on()

    def _go_on(self) -> None:
        if self._phase in (_Phase.CLOSE, _Phase.READER) or self._is_serving:
            return
        if not len(self._heads) and self.factory.is_stopping:
            self.loseConnection()
        elif not len(self._heads):
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

    def _refuse(self, refusal: Refusal, *, route: Route | None = None) -> None:
        if route is not None:
            refusal.is_problem = route.has_problems
        self._drop_body()
        self.factory.responses[refusal.status] += 1
        self.transport.write(refusal.response)
        self.loseConnection()

    def _drop_body(self) -> None:
        self._next = None
        if self._body is not None:
            self._body.drop()
            self._body = None
        if self._held is not None:
            self._held.close()
            self._held = None

    # --- the transport has enough to send, or has sent it ---

    def pauseProducing(self) -> None:
        """Serve nothing more until the client has read the responses."""
        super().pauseProducing()
        if self._phase not in (_Phase.CLOSE, _Phase.BODY):
            self._enter(_Phase.READER)

    def resumeProducing(self) -> None:
        """Go on: the client has read the responses."""
        super().resumeProducing()
        if self._phase is _Phase.READER:
            self._enter(_Phase.SERVING)
            self._go_on()

    # --- the end ---

    def _enter(self, phase: _Phase, seconds: float | None = None) -> None:
        """Wait for something else than before; the time for it begins now."""
        if phase is self._phase:
            return
        self._phase = phase
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        seconds = _SECONDS.get(phase, seconds)
        if seconds is not None:
            self._timer = self.callLater(seconds, self._time_is_over)

    def _time_is_over(self) -> None:
        self._timer = None
        if self._phase is _Phase.HEAD and len(self._heads):
            self._refuse(Refusal(408, f"the head of the request was not complete in {OPENING_SECONDS:g} s"))
        elif self._phase in (_Phase.HEAD, _Phase.NEXT):
            self.loseConnection()
        elif self._phase is _Phase.BODY and self._body is not None and self._next is not None:
            missing = self._body.missing
            self._refuse(
                Refusal(408, f"the body of the request came too slowly: {missing} bytes are missing"),
                route=self._next[1],
            )
        else:
            self.transport.abortConnection()

    def close_if_idle(self) -> None:
        """Close if nothing has been asked that is not answered, since the gateway stops."""
        if self._phase is _Phase.NEXT or (self._phase is _Phase.HEAD and not len(self._heads)):
            self.loseConnection()

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
        self._drop_body()
        self.when_paused = None
        self.factory.channels.discard(self)
        super().connectionLost(reason)


def _pass_on(rest: bytes, transport: StreamTransport) -> None:
    """Pass what a client has sent behind a websocket's handshake to the websocket."""
    if rest:
        wrapped = isinstance(transport, ProtocolWrapper)  # TLS
        protocol = transport.wrappedProtocol if wrapped else transport.protocol  # type: ignore[attr-defined]
        protocol.dataReceived(rest)


class GatewayRequest(SiteRequest):
    """A request whose body was read by its channel."""

    channel: GatewayChannel

    def gotLength(self, length: int) -> None:  # noqa: N802  # Twisted's name
        """Take the body, where twisted.web would write a long one into a file."""
        self.content = self.channel.take_body()


class GatewaySite(Site):
    """The factory of the gateway's HTTP connections, whose requests go to `root`.

    Their bodies have at most `max_body` bytes, and are counted in `budget`. Before one is read, `admit` is
    called with the head of its request.
    """

    noisy = False
    protocol = GatewayChannel  # type: ignore[assignment]  # as Twisted allows

    def __init__(
        self,
        reactor: Reactor,
        root: IResource,
        budget: Budget | None = None,
        max_body: int = MAX_MESSAGE - 1,
        admit: Admit | None = None,
    ) -> None:
        super().__init__(root, requestFactory=GatewayRequest, reactor=reactor)
        self.timeOut = None  # the channel has timers of its own
        self.turns = Turns(reactor)
        self.budget = budget or Budget()
        self.max_body = max_body
        self.admit = admit
        self.channels: set[GatewayChannel] = set()
        """The connections that are no websockets."""
        self.responses: Counter[int] = Counter()
        """The responses so far, by their status."""
        self.is_stopping = False
        self.is_draining = False

    def announce_stop(self) -> None:
        """Have every connection end with its next response, since a stop is near."""
        self.is_draining = True

    def stop_accepting(self) -> None:
        """Close the connections of which nothing is asked; the others close with their next response."""
        self.is_stopping = True
        for channel in list(self.channels):
            channel.close_if_idle()

    def log(self, request: Request) -> None:
        """Count a response. A line for each would fill the log, and the proxy in front writes one."""
        self.responses[request.code] += 1

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802  # Twisted's name
        """Return HTTP/1.1 alone: twisted.web would add HTTP/2, which this channel does not speak."""
        return [b"http/1.1"]
