"""The exchange between one HTTP request and the backend: what it asks, and the response that it gets.

An `Exchange` is the wire (`taskd.listeners.wire`) of a peer that lives as long as
the HTTP request. So a request counts as a websocket does: in the byte budget, in the
turns between parties, at a stop, and if its client goes away. The response is sent by the
peer's sender: a long one is cut, and a client that does not take it is disconnected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure as TwistedFailure
from twisted.web.server import Request as HttpRequest

from taskd.errors import Busy, NotAllowed
from taskd.listeners.peer import Peer
from taskd.listeners.websocket import WebSocketFactory
from taskd.listeners.wire import Backend, UnsentLimits
from taskd.model import NO_OPTIONS, Failure, Options, Outcome
from taskd.net.backpressure import STALL_GRACE
from taskd.net.buffered_socket import StreamTransport
from taskd.net.party_keys import party_key
from taskd.net.turns import Turns
from taskd.protocol.dialects import BARE
from taskd.protocol.method_names import ATTACH, DETACH
from taskd.protocol.replies import result_or_error
from taskd.protocol.requests import Request
from taskd.protocol.session import Session
from taskd.scheduler.budget import Account, Budget
from taskd.scheduler.parties import Lane, Parties
from taskd.server.methods import Requester
from taskd.server.unanswered import Unanswered
from taskd.web.channel import GatewayChannel
from taskd.web.problems import PHRASES

__all__ = ["Exchange"]

SILENT_PARTS = 3
"""Parts like comments that find that the client has taken nothing since the last one, then it is dropped."""

LITTLE = 16384
"""Bytes of a body that are sent together with the head: to copy them costs less than to send twice."""

NO_BODY = frozenset({204, 304})
"""The statuses of responses without a body."""


Awaited = TypeVar("Awaited")


class _OneAnswer:
    """The backend of JSON-RPC messages over HTTP, which have one answer: nothing else can be sent."""

    def __init__(self, backend: Backend[Any]) -> None:
        self._backend = backend

    def submit(self, requests: list[Request[Any]], requester: Requester) -> None:
        """Begin with requests, but refuse those that want more than an answer."""
        wanted = []
        for request in requests:
            if request.function in (ATTACH, DETACH):
                text = f"{request.function}: events are not pushed over HTTP: see GET /api/v1/tasks/ID/events"
            elif request.options.progress:
                text = "options.progress: no progress is sent over HTTP: submit the task, and see its events"
            else:
                wanted.append(request)
                continue
            requester.task_ended(request, Failure.of(NotAllowed(text)))
        if wanted:
            self._backend.submit(wanted, requester)

    def cancel(self, work: Any) -> None:
        """Stop work."""
        self._backend.cancel(work)

    def detach(self, work: Any, account: Account | None = None, held: int = 0) -> None:
        """Let work go on without a reply."""
        self._backend.detach(work, account, held)

    def resume(self, requester: Requester) -> None:
        """Let throttled work start."""
        self._backend.resume(requester)

    def read_again(self, requester: Requester) -> None:
        """Push events again."""
        self._backend.read_again(requester)

    def gone(self, requester: Requester) -> None:
        """Push no more events."""
        self._backend.gone(requester)

    @property
    def parties(self) -> Parties:
        """The parties of the backend's connections."""
        return self._backend.parties

    @property
    def unanswered(self) -> Unanswered:
        """Where failures without a reply are counted."""
        return self._backend.unanswered

    @property
    def copies(self) -> int:
        """How often a request in flight is held."""
        return self._backend.copies

    @property
    def budget(self) -> Budget:
        """Where the bytes are counted."""
        return self._backend.budget


class Exchange:
    """What one HTTP request asks of the backend, and its response. Implements `taskd.listeners.wire.Wire`.

    `gateway` is the factory of the gateway's websockets, which has all that the
    connections of a gateway share. Call `ask`, one at a time, or `message`, once; then
    `respond`, once, or `stream` and `end`. If the client goes away, a Deferred that waits is cancelled.
    """

    def __init__(self, gateway: WebSocketFactory, request: HttpRequest, *, is_message: bool = False) -> None:
        self._gateway = gateway
        self._request = request
        channel = request.channel
        self._channel = channel
        self._transport = cast(StreamTransport, channel.transport)
        self._waiting: Deferred[Any] | None = None
        self._is_message = is_message
        self._outcome: Outcome | None = None
        self._encode: Callable[[bytes], bytes] | None = None
        self._pushed: list[bytes] = []
        self._has_responded = False
        self._is_lost = False
        self._stalling: IDelayedCall | None = None
        self._unsent = self._silent = 0
        backend = gateway.backend
        lane = channel.lane if isinstance(channel, GatewayChannel) else None
        if lane is None:
            lane = Lane(backend.parties.party(party_key(self._transport)), gateway.next_name())
        self._transport.unregisterProducer()  # the channel, until the end of the exchange
        self._peer: Peer[Any] = Peer(
            self,
            _OneAnswer(backend) if is_message else backend,
            Session(
                gateway.max_in_flight,
                result_or_error if is_message else self._keep_outcome,
                backend.unanswered.notification_ended,
                max_batch_reply=gateway.max_message,
                copies=backend.copies,
            ),
            gateway.clock,
            self._transport,
            self._transport.write,
            self._stalled,
            UnsentLimits(0, STALL_GRACE),
            lane,
            gateway.peers.turns,
            paused=gateway.peers.paused,
        )
        gateway.peers.add(self._peer)
        request.notifyFinish().addErrback(self._lost)
        if isinstance(channel, GatewayChannel):
            channel.lane = lane
            channel.when_paused = self._peer.watch_end

    # --- what is asked ---

    def ask(
        self, method: str, params: Mapping[str, Any] | Raw | None = None, options: Options = NO_OPTIONS
    ) -> Deferred[Outcome]:
        """Call a method or a function, and return its outcome; `params` may be JSON text."""
        waiting: Deferred[Outcome] = self.awaiting(Deferred())
        if self._is_lost:
            return waiting
        args = params if isinstance(params, Raw) or params is None else Raw(msgspec.json.encode(params))
        self._peer.ask(Request(method, args, options, BARE))
        return waiting

    def message(self, body: bytes) -> Deferred[bytes | None]:
        """Handle a message of the protocol, and return the reply to it; None if there is none."""
        waiting: Deferred[bytes | None] = self.awaiting(Deferred())
        self._peer.session.receive([body])
        self._peer.session.end_of_input()
        self._peer.flush()
        return waiting

    def awaiting(self, waiting: Deferred[Awaited]) -> Deferred[Awaited]:
        """Return a Deferred that is cancelled if the client goes away before it fires; one at a time."""
        assert self._waiting is None
        if self._is_lost:
            waiting.cancel()
        elif not waiting.called:
            self._waiting = waiting
            waiting.addBoth(self._awaited)
        return waiting

    def _awaited(self, result: Awaited) -> Awaited:
        self._waiting = None
        return result

    def _keep_outcome(self, outcome: Outcome) -> bytes:
        self._outcome = outcome
        return b""

    def _fire(self, result: Outcome | bytes | None) -> None:
        if self._waiting is not None:
            self._waiting.callback(result)

    @property
    def is_stopping(self) -> bool:
        """Whether the gateway stops, and takes nothing new."""
        return self._gateway.peers.is_stopping

    @property
    def is_congested(self) -> bool:
        """Whether the client is slow to read."""
        return self._peer.is_congested

    @property
    def turns(self) -> Turns:
        """The turns of the gateway's connections."""
        return self._gateway.peers.turns

    @property
    def max_message(self) -> int:
        """The limit on messages, in bytes."""
        return self._gateway.max_message

    @property
    def clock(self) -> IReactorTime:
        """The clock of the gateway."""
        return self._gateway.clock

    @property
    def party(self) -> str:
        """The party that the client belongs to."""
        return self._peer.party

    # --- the response ---

    def respond(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send the response. It is complete when the client has taken it, but for a little."""
        head = self._head(status, {**(headers or {}), **self._length(status, body)})
        shown = b"" if self._request.method == b"HEAD" or status in NO_BODY else body
        sender = self._peer.sender
        if len(shown) <= LITTLE:
            sender.send(head + shown)
        else:
            sender.send(head)
            sender.send(shown)
        self.end()

    def stream(self, headers: Mapping[str, str], encode: Callable[[bytes], bytes] = bytes) -> None:
        """Begin a response that goes on: from now on, what is pushed is sent as `encode` writes it."""
        if self._request.clientproto == b"HTTP/1.1":
            headers = {**headers, "Transfer-Encoding": "chunked"}
        else:
            self._channel.persistent = 0
        self._encode = encode
        self._peer.sender.send(self._head(200, headers))
        pushed, self._pushed = self._pushed, []
        for data in self.framed(pushed):
            self._peer.sender.send(data)

    def send_comment(self, data: bytes) -> None:
        """Send a part of the stream that means nothing; but if others wait to be sent, nothing is needed.

        Call this now and then: a client that takes nothing between several calls is disconnected.
        """
        if self._encode is None or self._has_responded:
            return
        sender = self._peer.sender
        unsent = sender.unsent if sender.congested else 0
        self._silent = self._silent + 1 if unsent and unsent == self._unsent else 0
        self._unsent = unsent
        if self._silent >= SILENT_PARTS:
            self._stalled()
        elif not sender.congested:
            sender.send(self._chunk(data))

    def end(self) -> None:
        """End the response, once everything is sent."""
        if self._has_responded:
            return
        self._has_responded = True
        if self._encode is not None:
            self._peer.sender.send(self._last_chunk)
        self._peer.session.end_of_input()
        self._peer.flush()

    def _chunk(self, data: bytes) -> bytes:
        if self._request.clientproto != b"HTTP/1.1":
            return data
        return b"%x\r\n%b\r\n" % (len(data), data)

    @property
    def _last_chunk(self) -> bytes:
        return b"0\r\n\r\n" if self._request.clientproto == b"HTTP/1.1" else b""

    @staticmethod
    def _length(status: int, body: bytes) -> dict[str, str]:
        return {} if status in NO_BODY else {"Content-Length": str(len(body))}

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        request = self._request
        request.startedWriting = 1
        request.setResponseCode(status)
        if self.is_stopping or not self._channel.persistent:
            self._channel.persistent = 0
            request.setHeader("Connection", "close")
        for name, value in headers.items():
            request.setHeader(name, value)
        lines = [b"HTTP/1.1 %d %b" % (status, PHRASES[status].encode())]
        for key, values in request.responseHeaders.getAllRawHeaders():
            lines += [b"%b: %b" % (key, value) for value in values]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # --- `taskd.listeners.wire.Wire` ---

    may_name_callers = False
    """A client of HTTP speaks for itself, wherever it is."""

    cancels_by_number = False
    """Anybody may be at the other end, and the number may be that of somebody else's task."""

    def framed(self, messages: list[bytes]) -> list[bytes]:
        """Pass on replies to whom they are for; return what is pushed, as parts of the stream."""
        pieces = []
        for message in messages:
            if not message:
                outcome, self._outcome = self._outcome, None
                self._fire(outcome)
            elif self._is_message:
                self._fire(message)
            elif self._has_responded:
                pass  # the stream has ended
            elif self._encode is None:
                self._pushed.append(message)
            elif encoded := self._encode(message):
                pieces.append(self._chunk(encoded))
        return pieces

    def pause_reading(self) -> None:
        """Do nothing: the channel reads no more than it needs."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def probe(self) -> None:
        """Do nothing: HTTP has nothing that means nothing."""

    def finish(self) -> None:
        """End the request once everything is sent but for a little; or report that there is no reply."""
        if self._is_message and self._waiting is not None:
            self._fire(None)
        elif not self._has_responded:
            pass  # the reply to a message has been passed on, and is about to be sent
        elif self._peer.sender.congested:
            if self._stalling is None:
                self._stalling = self._gateway.clock.callLater(STALL_GRACE, self._stalled)
        else:
            self._release()
            if not self._request.finished:
                self._request.finish()

    def refuse_unfinished(self, error: Busy) -> None:
        """Do nothing: messages come in whole."""

    def close(self) -> None:
        """End a stream, since the gateway shuts down; other responses end by themselves."""
        if self._encode is not None:
            self.end()

    def abort(self) -> None:
        """Reset the connection."""
        self._transport.abortConnection()

    # --- the end ---

    def _stalled(self) -> None:
        self._gateway.log.warn("stalled", "{peer} does not read its response: disconnected", peer=self.party)
        self.abort()

    def _release(self) -> None:
        """Give the transport back to the channel, and forget the peer."""
        self._forget_peer()
        self._transport.unregisterProducer()
        self._transport.registerProducer(cast(Any, self._channel), streaming=True)

    def _forget_peer(self) -> None:
        if self._stalling is not None and self._stalling.active():
            self._stalling.cancel()
        if isinstance(self._channel, GatewayChannel):
            self._channel.when_paused = None
        self._peer.connection_lost()
        self._gateway.peers.discard(self._peer)

    def _lost(self, _: TwistedFailure) -> None:
        """Forget everything: the client is gone."""
        self._is_lost = True
        self._forget_peer()
        if self._waiting is not None:
            self._waiting.cancel()
