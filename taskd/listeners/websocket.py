"""One websocket of a gateway: who may connect, messages, pings, its close."""

from __future__ import annotations

from secrets import token_hex
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.errors import InvalidRequest, ParseError, ShuttingDown, TooLarge
from taskd.listeners.origins import Origins
from taskd.listeners.peer import Backend, Peer, Peers, UnsentLimits
from taskd.model import Failure
from taskd.net.party_keys import party_key
from taskd.net.paused import has_sent, unacknowledged
from taskd.net.reactor import Reactor
from taskd.net.time_limits import CLOSING_SECONDS
from taskd.net.websocket_fastpath import TextServerProtocol
from taskd.protocol.session import Session, task_complete
from taskd.protocol.websocket_frames import PING_INTERVAL, pong_frame
from taskd.scheduler.parties import Lane

__all__ = ["VERSION", "WebSocketFactory", "WebSocketProtocol"]

_log = Logger(namespace="taskd.gateway")

VERSION = 13
"""The version of the websocket protocol: RFC 6455. An older one has its origin in another header."""

UNSUPPORTED_DATA, GOING_AWAY, BAD_DATA, TOO_BIG = 1003, 1001, 1007, 1009  # RFC 6455, 7.4.1

NAME_BYTES = 4
"""Random bytes in the names of a gateway's websockets, which set them apart from another gateway's."""

_REFUSED = {
    UNSUPPORTED_DATA: InvalidRequest("a binary message on a websocket"),
    BAD_DATA: ParseError("a message on a websocket is not UTF-8"),
    TOO_BIG: TooLarge("a message on a websocket is over the limit"),
}
"""The messages that are answered only by a close, by its code."""

REFUSED_GRACE = 30.0
"""Seconds that the tasks of a websocket have to end that is closed for a message which cannot be
read: as many as at a stop, by default."""

_GIVEN_UP = Failure.of(ShuttingDown("the websocket was closed before the task had ended"))

LITTLE_UNREAD = 4096
"""Bytes from a client that never fill what the kernel keeps for a connection: after more of them, a
pong may be unable to arrive."""


class WebSocketProtocol(TextServerProtocol):
    """One websocket. Implements `taskd.listeners.peer.Wire` for its `client`, which it has while open."""

    factory: WebSocketFactory
    client: Peer[Any] | None = None
    _closing: IDelayedCall | None = None
    _close_due: tuple[int | None, bytes | None] | None = None
    """The close frame that follows when everything that was asked is answered."""
    _giving_up: IDelayedCall | None = None
    _awaits_turn = False
    _had_sent = 0

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
            Session(factory.max_in_flight, task_complete, factory.backend.unanswered.notification_ended),
            factory.clock,
            self.transport,
            self.write_frames,
            self._stalled,
            UnsentLimits(),
            Lane(factory.backend.parties.party(party_key(self.transport)), factory.next_name()),
            factory.peers.turns,
            whole_messages=True,
            paused=factory.peers.paused,
        )
        factory.peers.add(self.client)

    # --- what comes in ---

    def texts_received(self, texts: list[bytes]) -> None:
        """Pass on messages to the client's session."""
        if self.client is not None and not self.client.session.closing:
            self.client.receive(texts)

    def binary_received(self) -> None:
        """Refuse a binary message."""
        self.sendCloseFrame(UNSUPPORTED_DATA, b"messages are text")

    def more_is_unread(self) -> None:
        """Read the rest of what has been received in turns with others, and nothing more until then."""
        self.transport.pauseProducing()
        self._ask_for_turn()

    def _ask_for_turn(self) -> None:
        if not self._awaits_turn:
            self._awaits_turn = True
            self.factory.peers.turns.ask(self)

    # --- `taskd.net.turns.TurnTaker` ---

    def take_step(self) -> bool:
        """Read a part of what has been received; return whether more may be read now."""
        if self.client is not None and self.client.is_reading:
            self.read_more()
            if self.has_unread:
                return True
            # What was read may have ended the websocket, or paused it.
            if self.client is not None and self.client.is_reading:
                self.transport.resumeProducing()
        self._awaits_turn = False
        return False

    def hold(self) -> None:
        """Do nothing: the client is not read while anything is unread."""

    # --- pings ---

    def answer_pings(self, payloads: list[bytes]) -> None:
        """Answer these pings; only the last of all, while the client does not read the answers."""
        if self.client is None or self.ignores_input:
            return
        if self.client.sender.congested:
            del payloads[:-1]
        self.client.sender.send_latest(b"".join([pong_frame(payload) for payload in payloads]))

    def sendPing(self, payload: bytes | None = None) -> None:  # noqa: N802  # Autobahn's name
        """Send a ping, and note how much of what the client sent before is unread."""
        self._had_sent = has_sent(self.transport)
        super().sendPing(payload)

    def onAutoPingTimeout(self) -> None:
        """Drop a peer that has not answered a ping.

        While the client is not read, its answer is unread as well, but not
        unnoticed: something must have arrived since the ping was sent, or the
        kernel has no room for it and the client's own has confirmed the ping.
        """
        client = self.client
        if client is None or client.is_reading or not self._may_be_alive():
            super().onAutoPingTimeout()
            return
        # Autobahn sends the next ping only after a pong.
        again = self.factory.clock.callLater(PING_INTERVAL, self.onAutoPingTimeout)
        self.autoPingTimeoutCall = again  # type: ignore[assignment]  # Autobahn declares None
        if not client.sender.congested:
            self.sendPing(self.autoPingPending)

    def _may_be_alive(self) -> bool:
        sent = has_sent(self.transport)
        return sent > self._had_sent or (sent > LITTLE_UNREAD and not unacknowledged(self.transport))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: FBT001, N803
        """Forget the websocket, which is gone."""
        if self.client is not None:
            client, self.client = self.client, None
            if self._giving_up is not None:
                self._giving_up.cancel()
                self._giving_up = None
            client.connection_lost()
            self.factory.peers.discard(client)

    # --- `taskd.listeners.peer.Wire` ---

    may_name_callers = False
    """A browser speaks for itself, wherever it is."""

    cancels_by_number = False
    """Anybody may be at the other end, and the number may be that of somebody else's task."""

    def framed(self, messages: list[bytes]) -> list[bytes]:
        """Return the frames of these messages."""
        return self.frames(messages)

    def pause_reading(self) -> None:
        """Stop reading from the client."""
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read from the client again, first what was received and is unread."""
        if self.has_unread:
            self._ask_for_turn()
        elif not self._awaits_turn:
            self.transport.resumeProducing()

    def finish(self) -> None:
        """Send the close frame that is due, since everything has been answered and sent.

        After a refusal nothing that the client sends can be read, not even its
        own close frame.
        """
        if self._close_due is None or self.state != self.STATE_OPEN:
            return
        code, reason = self._close_due
        super().sendCloseFrame(code, reason)
        if self.ignores_input:
            self.wasClean = True  # or Autobahn would log a warning
            self.dropConnection()

    def close(self) -> None:
        """Close after what has been answered, since the gateway shuts down."""
        if self.client is not None and self._close_due is None:
            self._close_due = GOING_AWAY, b"shutting down"
            self.client.session.end_of_input()
            self.client.flush()

    def abort(self) -> None:
        """Reset the connection."""
        self.transport.abortConnection()

    # --- closing ---

    def sendCloseFrame(  # noqa: N802  # Autobahn's names
        self,
        code: int | None = None,
        reasonUtf8: bytes | None = None,  # noqa: N803
        isReply: bool = False,  # noqa: FBT001, FBT002, N803
    ) -> None:
        """Answer a client's close frame; or refuse what cannot be read, after all that came before."""
        if isReply or self.client is None or self.state != self.STATE_OPEN:
            super().sendCloseFrame(code, reasonUtf8, isReply)
        elif self._close_due is None:
            self._close_due = code, reasonUtf8
            self.answer_pings_now()
            self.ignores_input = True
            refused = _REFUSED.get(code or 0)
            if refused is not None:
                self.factory.backend.unanswered.notification_ended("", Failure.of(refused))
            self._giving_up = self.factory.clock.callLater(REFUSED_GRACE, self._give_up)
            self.client.refuse_rest()

    def onCloseFrame(self, code: int, reasonRaw: bytes) -> bool | None:  # noqa: N803
        """Take a client's close frame, unless it is behind something that was refused."""
        if self.ignores_input:
            return None
        return super().onCloseFrame(code, reasonRaw)

    def _give_up(self) -> None:
        self._giving_up = None
        if self.client is not None:
            self.client.give_up(_GIVEN_UP)
        if self.state == self.STATE_OPEN:  # the client does not read its replies
            self.abort()

    def dropConnection(self, abort: bool = False) -> None:  # noqa: FBT001, FBT002, N802
        """Close the connection, in order after a close frame: what was sent before it still arrives.

        In any case the connection ends within `CLOSING_SECONDS`.
        """
        in_order = not abort or self.state == self.STATE_CLOSING
        super().dropConnection(abort=not in_order)
        if self.client is not None:
            self.client.sender.finish()
        if in_order and self._closing is None and self.transport is not None:
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

    def _stalled(self) -> None:
        _log.warn("{peer} does not read its replies: disconnected", peer=self.peer)
        self.abort()


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
