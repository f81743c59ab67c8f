"""The gateway: a websocket message in, a call to a task server, the outcome out."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.balanced import BalancedLink
from taskd.client.link import ENVELOPE, Link
from taskd.client.per_call import PerCallLink
from taskd.client.pooled import PooledLink
from taskd.errors import Cancelled, InternalError, InvalidParams, ShuttingDown
from taskd.model import Failure, Outcome, Progress
from taskd.net.backpressure import ReplySender
from taskd.net.reactor import Reactor
from taskd.net.timers import TurnEnd
from taskd.net.websocket_fastpath import TextServerProtocol
from taskd.protocol.framing import MAX_MESSAGE
from taskd.protocol.methods import CANCEL, WAS_DONE, how_cancelled, id_to_cancel, names_task
from taskd.protocol.session import Request, Session, task_complete
from taskd.protocol.websocket_frames import PING_INTERVAL

__all__ = ["Gateway", "GatewayConfig", "LinkKind", "is_allowed_origin", "link_kind"]

_log = Logger(namespace="taskd.gateway")

MAX_MESSAGES_IN_FLIGHT = 100
"""Messages of one websocket in flight at once: more than a page ever has, and
few enough that one user cannot take all of a pool's queue."""

UNSUPPORTED_DATA, GOING_AWAY = 1003, 1001  # RFC 6455, 7.4.1


_GIVEN_UP = Failure.of(ShuttingDown("the gateway shut down before the task had ended"))

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


LinkKind = Literal["per-message", "pooled", "local"]
"""How a gateway calls task servers: by a connection for each message, by connections
that are kept, or the task server of its own process without any."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Where a gateway sends its calls, and what it lets in.

    `task_servers` are client endpoint strings; `max_message` is in bytes.
    """

    task_servers: Sequence[str]
    link: LinkKind = "per-message"
    allow_origins: Sequence[str] = ()
    max_message: int = MAX_MESSAGE
    max_in_flight: int = MAX_MESSAGES_IN_FLIGHT

    def start(self, reactor: Reactor) -> Gateway:
        """Make a gateway. Raises `ValueError` for a task server that is no endpoint."""
        return Gateway(reactor, self)


def link_kind(text: str) -> LinkKind:
    """Return the kind of link that `text` names. Raises `ValueError`."""
    if text == "per-message":
        return "per-message"
    if text == "pooled":
        return "pooled"
    if text == "local":
        return "local"
    raise ValueError(f"a gateway's link is per-message, pooled or local, not {text!r}")


def is_allowed_origin(origin: str | None, host: str, allowed: Sequence[str]) -> bool:
    """Whether a page from `origin` may connect to us, whom it called `host` (the Host header).

    No origin means no browser, and no user whose rights a foreign page could
    borrow. Otherwise it must be our own, or a page of this machine, or match
    one of `allowed` (``*`` matches any text).
    """
    if origin is None:
        return True
    if any(fnmatch.fnmatchcase(origin, pattern) for pattern in allowed):
        return True
    try:
        page = urlsplit(origin)
        if page.hostname is None or page.scheme not in _DEFAULT_PORTS:
            return False
        if _is_loopback(page.hostname):
            return True
        # A proxy before us may speak TLS where we do not: the scheme says
        # only which port is meant by none.
        ours = urlsplit(f"//{host}")
        default = _DEFAULT_PORTS[page.scheme]
        return page.hostname == ours.hostname and (page.port or default) == (ours.port or default)
    except ValueError:
        return False  # no address, or a port that is no number


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class GatewayProtocol(TextServerProtocol):
    """One websocket. The rules of replies are `Session`'s, as on TCP."""

    factory: GatewayFactory
    _session: Session[Request] | None = None

    def onConnect(self, request: ConnectionRequest) -> None:
        """Let the page in, or not."""
        gateway = self.factory.gateway
        if gateway.stopping:
            raise ConnectionDeny(503, "shutting down")
        host = request.headers.get("host", "")
        if not is_allowed_origin(request.origin or None, host, gateway.config.allow_origins):
            _log.warn("refused a websocket from a page of {origin!r}", origin=request.origin)
            raise ConnectionDeny(403, f"pages of {request.origin} are not allowed here: see --allow-origin")

    def onOpen(self) -> None:
        """The websocket is there: begin."""
        gateway = self.factory.gateway
        self._session = Session(gateway.config.max_in_flight, task_complete)
        # What is in flight at the task servers, the longest first, and who
        # wants to know how it was cancelled.
        self._calls: dict[Request, Deferred[Outcome]] = {}
        self._cancelling: dict[Request, list[Request]] = {}
        self._reading = True
        self._starting = False
        self._will_send = False
        self.transport.unregisterProducer()  # the HTTP channel's, which has handed the transport over
        self._sender = ReplySender(
            gateway.reactor,
            self.transport,
            self.write_frames,
            self._sender_changed,
            self._stalled,
            whole=True,
        )
        self.gone: Deferred[None] = Deferred()
        gateway.opened(self)

    # --- what comes in ---

    def texts_received(self, texts: list[bytes]) -> None:
        """Messages, or batches of them."""
        if self._session is not None and not self._session.closing:
            self._session.receive(texts)
            self._start()
            self._send()

    def binary_received(self) -> None:
        """Nothing of ours."""
        if self._session is not None and not self._session.closing:
            self._session.end()
            self.close(UNSUPPORTED_DATA, b"messages are text")

    def _start(self) -> None:
        """Start what may be started."""
        if self._session is None or self._starting:
            return
        # Outcomes that are there at once come back here: they are not to
        # nest, or a long backlog would exhaust the stack.
        self._starting = True
        try:
            while requests := self._session.requests():
                for request in requests:
                    self._call(request)
        finally:
            self._starting = False

    def _call(self, request: Request) -> None:
        assert self._session is not None
        call = request.call
        gateway = self.factory.gateway
        if call.function == CANCEL and not names_task(call.args):
            self._cancel(request)
            return
        if gateway.stopping:
            self._session.answer(request, Failure.of(ShuttingDown("the gateway is shutting down")))
            return
        wants_progress = call.options.progress and not call.is_notification
        try:
            done = gateway.link.call(
                call, (lambda progress: self._report(request, progress)) if wants_progress else None
            )
        except Exception:
            done = fail()
        self._calls[request] = done
        done.addCallbacks(self._ended, self._broke, callbackArgs=(request,), errbackArgs=(request,))

    def _ended(self, outcome: Outcome, request: Request) -> None:
        if self._calls.pop(request, None) is None:
            return  # the websocket is gone, or has been told that we stop
        assert self._session is not None
        self._answer(request, outcome)
        self._start()
        self._send_soon()
        self.factory.gateway.one_ended()

    def _broke(self, reason: TwistedFailure, request: Request) -> None:
        if reason.check(CancelledError):
            # As the task server would have it: the call had not been sent there.
            outcome = Failure.of(Cancelled("the task was cancelled before it was started", was="waiting"))
        else:
            _log.failure("a bug in taskd", reason)
            outcome = Failure.of(InternalError("a bug in taskd; see the gateway's log"))
        self._ended(outcome, request)

    def _answer(self, request: Request, outcome: Outcome) -> None:
        """Answer a request, and then whoever asked for it to be cancelled."""
        assert self._session is not None
        self._session.answer(request, outcome)
        if self._cancelling:
            answer = outcome if outcome is _GIVEN_UP else how_cancelled(outcome)
            for asking in self._cancelling.pop(request, ()):
                self._session.answer(asking, answer)

    # --- what is not to go on ---

    def _cancel(self, asking: Request) -> None:
        """Have the task server cancel a request of this websocket; the answer comes when that has ended."""
        assert self._session is not None
        try:
            request_id = id_to_cancel(asking.call.args)
        except InvalidParams as error:
            self._session.answer(asking, Failure.of(error))
            return
        request = self._named(request_id)
        if request is None:
            self._session.answer(asking, WAS_DONE)
        elif request in self._cancelling:
            self._cancelling[request].append(asking)
        else:
            self._cancelling[request] = [asking]
            self.factory.gateway.link.ask_to_cancel(self._calls[request])

    def _named(self, request_id: bytes) -> Request | None:
        """The longest in flight of those with that id."""
        for request in self._calls:
            if request.call.id is not None and bytes(request.call.id) == request_id:
                return request
        return None

    def give_up(self) -> None:
        """Answer every call that is in flight; its task goes on."""
        calls, self._calls = self._calls, {}
        for request, done in calls.items():
            self._answer(request, _GIVEN_UP)
            self.factory.gateway.link.let_go(done)
        self._start()
        self._send()
        self.factory.gateway.one_ended()

    def _leave(self) -> None:
        """Nobody is there any more to be answered: cancel what is to be cancelled then."""
        calls, self._calls = self._calls, {}
        self._cancelling.clear()
        for request, done in calls.items():
            if request.call.options.on_disconnect == "cancel":
                done.cancel()
            else:
                self.factory.gateway.link.let_go(done)

    def _report(self, request: Request, progress: Progress) -> None:
        if self._session is not None:
            self._session.report(request, progress, congested=self._sender.congested)
            self._send_soon()

    # --- what goes out ---

    def _send_soon(self) -> None:
        """Send at the end of this turn, along with what is still to come in it."""
        if not self._will_send:
            self._will_send = True
            self.factory.gateway.turn_end.call(self._send)

    def _send(self, *, resumed: bool = False) -> None:
        self._will_send = False
        session = self._session
        if session is None:
            return
        if messages := session.take(resumed=resumed):
            for frames in self.frames(messages):
                self._sender.send(frames)
        wants_data = session.wants_data and not self._sender.full
        if wants_data is not self._reading and not session.closing:
            self._reading = wants_data
            if wants_data:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def _sender_changed(self) -> None:
        self._send(resumed=True)

    def _stalled(self) -> None:
        _log.warn("{peer} does not read its replies: disconnected", peer=self.peer)
        self.dropConnection(abort=True)

    def onAutoPingTimeout(self) -> None:
        """The peer has not answered a ping, unless its answer is among what we have not read."""
        if self._session is None or self._reading:
            super().onAutoPingTimeout()
        else:
            self.autoPingTimeoutCall = None

    @property
    def in_flight(self) -> int:
        """How many calls of this websocket have not ended."""
        return self._session.outstanding if self._session is not None else 0

    def close(self, code: int, reason: bytes) -> None:
        """Close behind what has been answered, with a code that Autobahn's `sendClose` keeps for itself."""
        self._send()
        self.sendCloseFrame(code=code, reasonUtf8=reason, isReply=False)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: FBT001, N803
        """The websocket is gone: so are its requests, but not all of their tasks."""
        if self._session is None:
            return
        self._session = None
        self._sender.close()
        self._leave()
        self.factory.gateway.closed(self)
        self.gone.callback(None)


class GatewayFactory(WebSocketServerFactory):
    """Makes a `GatewayProtocol` for each websocket of `gateway`."""

    noisy = False
    protocol = GatewayProtocol  # type: ignore[assignment]  # Twisted types it by the instance

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(reactor=gateway.reactor)
        self.gateway = gateway
        limit = gateway.config.max_message - 1  # to the task server it goes with an LF
        self.setProtocolOptions(
            # Autobahn's default lets every origin in; so does this, because
            # `onConnect` checks it, and says what would be right.
            allowedOrigins=["*"],
            allowNullOrigin=True,
            maxFramePayloadSize=limit,
            maxMessagePayloadSize=limit,
            autoPingInterval=PING_INTERVAL,
            autoPingTimeout=PING_INTERVAL,
            # Close with a code that says why, and not by hanging up.
            failByDrop=False,
        )


class Gateway:
    """All websockets, and the link to the task servers that they share."""

    def __init__(self, reactor: Reactor, config: GatewayConfig) -> None:
        self.reactor = reactor
        self.config = config
        self.link = BalancedLink(reactor, config.task_servers, self._link_to)
        self.factory = GatewayFactory(self)
        self.turn_end = TurnEnd(reactor)
        self._open: set[GatewayProtocol] = set()
        self._drained: Deferred[None] | None = None

    def _link_to(self, server: str) -> Link:
        max_message = self.config.max_message
        max_reply = max_message + ENVELOPE
        if self.config.link == "per-message":
            return PerCallLink(self.reactor, server, max_reply)
        return PooledLink(self.reactor, server, max_reply, alone=max_message // 10)

    @property
    def stopping(self) -> bool:
        """Whether no more messages are taken."""
        return self._drained is not None

    def opened(self, protocol: GatewayProtocol) -> None:
        """A websocket has been opened."""
        self._open.add(protocol)

    def closed(self, protocol: GatewayProtocol) -> None:
        """A websocket has been closed."""
        self._open.discard(protocol)
        self.one_ended()

    def one_ended(self) -> None:
        """A call may have been the last one that `drain` waits for."""
        drained = self._drained
        if drained is not None and not drained.called and not any(one.in_flight for one in self._open):
            drained.callback(None)

    def drain(self) -> Deferred[None]:
        """Take no more messages; fires when those in flight are answered. To be called once."""
        self._drained = Deferred()
        drained = self._drained
        self.one_ended()
        return drained

    def give_up(self) -> None:
        """Answer every message that is still in flight: the gateway is shutting down."""
        for protocol in list(self._open):
            protocol.give_up()

    def close(self) -> Deferred[None]:
        """Close every websocket, behind what is being sent on it; fires when all are closed.

        One that does not answer is dropped after Autobahn's `closeHandshakeTimeout`.
        """
        self.link.close()
        protocols = list(self._open)
        for protocol in protocols:
            protocol.close(GOING_AWAY, b"shutting down")
        return DeferredList([protocol.gone for protocol in protocols]).addCallback(lambda _: None)
