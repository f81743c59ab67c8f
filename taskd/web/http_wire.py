"""The wire of a peer that lives as long as one HTTP request: its connection, and its end."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure as TwistedFailure
from twisted.web.server import Request as HttpRequest

from taskd.auth.caller import Caller
from taskd.errors import Busy, NotAllowed
from taskd.listeners.peer import Peer
from taskd.listeners.websocket import WebSocketFactory
from taskd.listeners.wire import Backend, UnsentLimits
from taskd.net.backpressure import STALL_GRACE
from taskd.net.buffered_socket import StreamTransport
from taskd.net.party_keys import party_key
from taskd.net.turns import Turns
from taskd.protocol.session import BareReply, Session
from taskd.scheduler.parties import Lane
from taskd.web.channel import GatewayChannel

__all__ = ["HttpWire"]


class HttpWire:
    """The connection of an HTTP request, as the wire of a peer. Implements `taskd.listeners.wire.Wire`.

    The transport belongs to the peer's sender until `_release` returns it to the HTTP
    channel. A subclass decides what becomes of messages, and when the request has ended.
    """

    may_name_callers = False
    """A client of HTTP speaks for itself, wherever it is."""

    def __init__(
        self,
        gateway: WebSocketFactory,
        request: HttpRequest,
        backend: Backend[Any],
        bare_reply: BareReply,
        caller: Caller | None,
    ) -> None:
        self._gateway = gateway
        self._request = request
        channel = request.channel
        self._channel = channel
        self._transport = cast(StreamTransport, channel.transport)
        self._waiting: Deferred[Any] | None = None
        self._is_lost = False
        self._stalling: IDelayedCall | None = None
        parties = backend.parties
        if caller is None:
            party = parties.party(party_key(self._transport))
        else:
            party = parties.of_owner(caller.grant)
        lane = channel.lane if isinstance(channel, GatewayChannel) else None
        if lane is None or lane.party is not party:  # each request on a connection has a token of its own
            lane = Lane(party, gateway.next_name())
        self._transport.unregisterProducer()  # the channel, until the end of the exchange
        self._peer: Peer[Any] = Peer(
            self,
            backend,
            Session(
                gateway.max_in_flight,
                bare_reply,
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
        self._gate = gateway.gate
        if self._gate is not None and caller is not None:
            self._gate.let_in(self._peer, caller, backend.parties)
        request.notifyFinish().addErrback(self._lost)
        if isinstance(channel, GatewayChannel):
            channel.lane = lane
            channel.when_paused = self._peer.watch_end

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

    # --- `taskd.listeners.wire.Wire` ---

    def framed(self, messages: list[bytes]) -> list[bytes]:
        """Return the bytes that carry these messages."""
        raise NotImplementedError

    def finish(self) -> None:
        """End the request, since everything has been answered and passed to the transport."""
        raise NotImplementedError

    def close(self) -> None:
        """End the request in order, since the gateway shuts down."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Do nothing: the channel reads no more than it needs."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def probe(self) -> None:
        """Do nothing: HTTP has nothing that means nothing."""

    def refuse_unfinished(self, error: Busy) -> None:
        """Do nothing: messages come in whole."""

    ends_with_token = False
    """A request of HTTP has one token, which was accepted."""

    def refuse(self, error: NotAllowed) -> None:
        """End what is pushed, since the token is not accepted any more."""
        raise NotImplementedError

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
            if self._channel.allowance is not None:
                self._channel.allowance.count(self._peer.session.members)
        self._peer.connection_lost()
        self._gateway.peers.discard(self._peer)
        if self._gate is not None:
            self._gate.forget(self._peer)

    def _lost(self, _: TwistedFailure) -> None:
        """Forget everything: the client is gone."""
        self._is_lost = True
        self._forget_peer()
        if self._waiting is not None:
            self._waiting.cancel()
