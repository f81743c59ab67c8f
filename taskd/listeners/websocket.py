"""One websocket of a gateway: who may connect, messages, pings, its close."""

from __future__ import annotations

from secrets import token_hex
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.errors import Busy, InvalidRequest, ParseError, TooLarge
from taskd.listeners.origins import Origins
from taskd.listeners.peer import Backend, Peer, Peers, UnsentLimits
from taskd.model import Failure
from taskd.net.party_keys import party_key
from taskd.net.reactor import Reactor
from taskd.net.time_limits import CLOSING_SECONDS
from taskd.net.websocket_fastpath import TextServerProtocol
from taskd.protocol.session import Session, task_complete
from taskd.protocol.websocket_frames import PING_INTERVAL
from taskd.scheduler.parties import Lane

__all__ = ["VERSION", "WebSocketFactory", "WebSocketProtocol"]

_log = Logger(namespace="taskd.gateway")

VERSION = 13
"""The version of the websocket protocol: RFC 6455. An older one has its origin in another header."""

UNSUPPORTED_DATA, GOING_AWAY, BAD_DATA, TOO_BIG = 1003, 1001, 1007, 1009  # RFC 6455, 7.4.1
TRY_AGAIN_LATER = 1013  # IANA's registry of close codes

MAX_REASON = 123
"""Bytes of the reason in a close frame (RFC 6455, 5.5)."""

NAME_BYTES = 4
"""Random bytes in the names of a gateway's websockets, which set them apart from another gateway's."""

_REFUSED = {
    UNSUPPORTED_DATA: InvalidRequest("a binary message on a websocket"),
    BAD_DATA: ParseError("a message on a websocket is not UTF-8"),
    TOO_BIG: TooLarge("a message on a websocket is over the limit"),
}
"""The messages that are answered only by a close, by its code."""


class WebSocketProtocol(TextServerProtocol):
    """One websocket. Implements `taskd.listeners.peer.Wire` for its `client`, which it has while open."""

    factory: WebSocketFactory
    client: Peer[Any] | None = None
    _closing: IDelayedCall | None = None

    def onConnect(self, request: ConnectionRequest) -> None:
        """Accept or deny the websocket, by its origin."""
        factory = self.factory
        if factory.peers.is_stopping:
            raise ConnectionDeny(503, "shutting down")
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        if not factory.origins.allows(origin, host):
            _log.warn("refused a websocket from a page of {origin!r} to {host!r}", origin=origin, host=host)
            raise ConnectionDeny(403, factory.origins.refusal(origin, host))

    def onOpen(self) -> None:
        """Begin to serve the open websocket."""
        factory = self.factory
        self.transport.unregisterProducer()  # the HTTP channel, which has handed over the transport
        self.client = Peer(
            self,
            factory.backend,
            Session(
                factory.max_in_flight,
                task_complete,
                factory.backend.unanswered.notification_ended,
                max_batch_reply=factory.max_message,
                copies=factory.backend.copies,
            ),
            factory.clock,
            self.transport,
            self.write_frames,
            self._stalled,
            UnsentLimits(),
            Lane(factory.backend.parties.party(party_key(self.transport)), factory.next_name()),
            factory.peers.turns,
            whole_messages=True,
            cancels_by_number=False,
            paused=factory.peers.paused,
        )
        factory.peers.add(self.client)

    # --- what comes in ---

    def texts_received(self, texts: list[bytes]) -> None:
        """Pass on messages to the client's session."""
        if self.client is not None and not self.client.session.closing:
            self.client.receive(texts)

    def message_grows(self, size: int, is_new: bool) -> None:  # noqa: FBT001
        """Count an incomplete message for the client."""
        if self.client is not None:
            self.client.message_grows(size, is_new)

    def binary_received(self) -> None:
        """Refuse a binary message."""
        if self.client is not None and not self.client.session.closing:
            self._close(UNSUPPORTED_DATA, b"messages are text")

    def onAutoPingTimeout(self) -> None:
        """Drop a peer that has not answered a ping, unless reading is paused: the answer may be unread."""
        if self.client is None or self.client.is_reading:
            super().onAutoPingTimeout()
        else:
            self.autoPingTimeoutCall = None

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: FBT001, N803
        """Forget the websocket, which is gone."""
        if self.client is not None:
            client, self.client = self.client, None
            client.connection_lost()
            self.factory.peers.discard(client)
            refused = _REFUSED.get(self.localCloseCode or 0)
            if refused is not None:
                self.factory.backend.unanswered.notification_ended("", Failure.of(refused))

    def dropConnection(self, abort: bool = False) -> None:  # noqa: FBT001, FBT002, N802
        """Close the connection, or reset it; in any case it ends within `CLOSING_SECONDS`."""
        super().dropConnection(abort)
        if not abort and self._closing is None and self.transport is not None:
            self._closing = self.factory.clock.callLater(CLOSING_SECONDS, self._reset)

    def _reset(self) -> None:
        self._closing = None
        self.transport.abortConnection()

    def connectionLost(self, reason: TwistedFailure) -> None:  # type: ignore[override]
        """Stop waiting for the end, which has come."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        super().connectionLost(reason)

    # --- `taskd.listeners.peer.Wire` ---

    may_name_callers = False
    """A browser speaks for itself, wherever it is."""

    def framed(self, messages: list[bytes]) -> list[bytes]:
        """Return the frames of these messages."""
        return self.frames(messages)

    def pause_reading(self) -> None:
        """Stop reading from the client."""
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read from the client again."""
        self.transport.resumeProducing()

    def finish(self) -> None:
        """Do nothing: after a close frame, Autobahn waits for the client's own and closes."""

    def refuse_unfinished(self, error: Busy) -> None:
        """Close, since there is no room for the message that is being received."""
        self._close(TRY_AGAIN_LATER, error.message.encode()[:MAX_REASON])

    def close(self) -> None:
        """Close after what has been answered, since the gateway shuts down."""
        self._close(GOING_AWAY, b"shutting down")

    def abort(self) -> None:
        """Drop the connection."""
        self.dropConnection(abort=True)

    def _close(self, code: int, reason: bytes) -> None:
        # `sendClose` refuses these codes.
        if self.client is not None:
            self.client.flush()
            self.client.session.end_of_input()
        self.sendCloseFrame(code=code, reasonUtf8=reason, isReply=False)

    def _stalled(self) -> None:
        _log.warn("{peer} does not read its replies: disconnected", peer=self.peer)
        self.dropConnection(abort=True)


class WebSocketFactory(WebSocketServerFactory):
    """Makes a `WebSocketProtocol` for each websocket.

    `max_message` is in bytes, `max_in_flight` in messages of one websocket.
    """

    noisy = False
    protocol = WebSocketProtocol  # type: ignore[assignment]  # Twisted types it by the instance

    def __init__(
        self,
        reactor: Reactor,
        backend: Backend[Any],
        peers: Peers,
        *,
        origins: Origins,
        max_message: int,
        max_in_flight: int,
    ) -> None:
        super().__init__(reactor=reactor)
        self.clock: IReactorTime = reactor
        self.backend = backend
        self.peers = peers
        self.origins = origins
        self.max_in_flight = max_in_flight
        self.max_message = max_message
        self._token = token_hex(NAME_BYTES)
        self._last_name = 0
        limit = max_message - 1  # a message goes to a task server with an LF
        self.setProtocolOptions(
            # Autobahn's default allows every origin. So does this, because `onConnect`
            # checks the origin, with an error that names the option to set.
            allowedOrigins=["*"],
            allowNullOrigin=True,
            versions=[VERSION],
            maxFramePayloadSize=limit,
            maxMessagePayloadSize=limit,
            autoPingInterval=PING_INTERVAL,
            autoPingTimeout=PING_INTERVAL,
            # Close with a code that gives the reason, instead of dropping the connection.
            failByDrop=False,
        )

    def next_name(self) -> str:
        """Return a name for one more websocket, which no other one has."""
        self._last_name += 1
        return f"{self._token}-{self._last_name}"
