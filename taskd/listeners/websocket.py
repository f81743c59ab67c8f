"""One websocket of a gateway: who may connect, messages, pings, its close."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from secrets import token_hex
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.auth.bearer import bearer_token
from taskd.auth.caller import Caller
from taskd.errors import NotAllowed
from taskd.listeners.gate import MESSAGE_WITHOUT_TOKEN, Gate, too_large_without_token
from taskd.listeners.message_rate import Throttle
from taskd.listeners.origins import Origins
from taskd.listeners.peer import Peer
from taskd.listeners.peers import Peers
from taskd.listeners.safe_headers import SAFE_HEADERS
from taskd.listeners.websocket_closing import MAX_REASON, ClosingProtocol, close_code
from taskd.listeners.wire import Backend, UnsentLimits
from taskd.net.autobahn_log import AutobahnLog
from taskd.net.log_rate import RatedLog
from taskd.net.party_keys import party_key
from taskd.net.reactor import Reactor
from taskd.net.websocket_compression import accepted, compressed_frame
from taskd.net.websocket_fastpath import MAX_FRAMES, TOO_BIG
from taskd.protocol.replies import task_complete
from taskd.protocol.session import Session
from taskd.protocol.websocket_frames import PING_INTERVAL
from taskd.scheduler.parties import Lane

__all__ = ["VERSION", "WebSocketFactory", "WebSocketProtocol"]

SHORT_DATA = 512
"""Bytes that are read from a websocket without looking at the clock: a message or two, or some frames."""

_log = Logger(namespace="taskd.gateway")

SUBPROTOCOL = "taskd"
"""The subprotocol of websockets, which a client may name: a browser demands that one of those that it names
is accepted."""

TOKEN = "taskd.token."  # noqa: S105
"""The beginning of another one, which has a token: a page can send no headers."""

FRAMES_WITHOUT_TOKEN = 1000
"""Frames of a message before a token was shown: a page sends one, and each is kept, even an empty one."""

_SHOWN_TOKEN = re.compile(re.escape(TOKEN) + r"""[^\s"',]*""", re.IGNORECASE)

VERSION = 13
"""The version of the websocket protocol: RFC 6455. An older one has its origin in another header."""

NAME_BYTES = 4
"""Random bytes in the names of a gateway's websockets, which set them apart from another gateway's."""


class WebSocketProtocol(ClosingProtocol):
    """One websocket. Implements `taskd.listeners.wire.Wire` for its `client`, which it has while open."""

    factory: WebSocketFactory
    _awaits_turn = False
    _throttle: Throttle | None = None
    _window_bits: int | None = None
    """The window of messages that are compressed; None if none are."""
    _awaits_token = False
    """Whether messages are held to the limits of those who have shown no token."""
    _caller: Caller | NotAllowed | None = None
    """Whoever has shown a token with the handshake, or why that is refused."""

    @property
    def log(self) -> AutobahnLog:
        """Where Autobahn logs."""
        return self.factory.autobahn_log

    def onConnect(self, request: ConnectionRequest) -> str | None:
        """Accept or deny the websocket, by its origin, and take a token that comes with it.

        A browser learns nothing of the status of an answer, only of a close: so a websocket
        whose token is refused is accepted and closed.
        """
        factory = self.factory
        if factory.peers.is_stopping:
            raise ConnectionDeny(503, "shutting down")
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        if not factory.origins.allows(origin, host):
            factory.log.warn(
                "origins",
                "refused a websocket from a page of {origin!r} to {host!r}",
                origin=origin,
                host=host,
            )
            raise ConnectionDeny(403, factory.origins.refusal(origin, host))
        if factory.gate is not None:
            self._take_token(factory.gate, request)
        return SUBPROTOCOL if SUBPROTOCOL in request.protocols else None

    def _take_token(self, gate: Gate, request: ConnectionRequest) -> None:
        header = request.headers.get("authorization")
        texts = [each.removeprefix(TOKEN) for each in request.protocols if each.startswith(TOKEN)]
        try:
            if header is not None:
                texts.append(bearer_token(header))
            if len(texts) > 1:
                raise NotAllowed("a handshake with more than one token", reason="malformed")
            if texts:
                self._caller = gate.verify(texts[0], party_key(self.transport))
        except NotAllowed as error:
            self._caller = error

    def onOpen(self) -> None:
        """Begin to serve the open websocket."""
        factory = self.factory
        self.transport.unregisterProducer()  # the HTTP channel, which has handed over the transport
        caller, self._caller = self._caller, None
        # Autobahn would keep the handshake, with the token in it.
        self.http_headers, self.http_request_data, self.websocket_protocols = {}, b"", []
        if self.websocket_extensions_in_use:
            [compression] = self.websocket_extensions_in_use
            self._window_bits = compression.server_max_window_bits
        if isinstance(caller, NotAllowed):
            self.sendCloseFrame(close_code(caller), caller.message.encode()[:MAX_REASON])
            return
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
            paused=factory.peers.paused,
        )
        factory.peers.add(self.client)
        if factory.message_rate is not None:
            self._throttle = Throttle(factory.clock, self.client, factory.message_rate)
        if factory.gate is None:
            return
        if caller is None:
            factory.gate.await_token(self.client)
            self._awaits_token = True
            self._limit_messages(min(MESSAGE_WITHOUT_TOKEN, factory.max_message), FRAMES_WITHOUT_TOKEN)
        else:
            factory.gate.let_in(self.client, caller, factory.backend.parties)

    def _limit_messages(self, size: int, frames: int) -> None:
        """Hold messages to so many bytes, with the LF that they get on their way, and so many frames."""
        self.maxMessagePayloadSize = self.maxFramePayloadSize = size - 1
        self.max_frames = frames

    # --- what comes in ---

    def should_wait(self) -> bool:
        """Return whether a message that has not been looked at may have the token that the next one needs."""
        if not self._awaits_token or self.client is None:
            return False
        if self.client.caller is None:
            return self.client.session.backlog is not None
        self._awaits_token = False
        self._limit_messages(self.factory.max_message, MAX_FRAMES)
        return False

    def texts_received(self, texts: list[bytes]) -> None:
        """Pass on messages to the client's session."""
        if self.client is not None and not self.client.session.closing:
            (self._throttle or self.client).receive(texts)

    def message_grows(self, size: int, is_new: bool) -> None:  # noqa: FBT001
        """Count an incomplete message for the client."""
        if self.client is not None:
            self.client.message_grows(size, is_new)

    def dataReceived(self, data: bytes) -> None:
        """Read short data at once, and more unless others have taken too long in this turn of the reactor."""
        turns = self.factory.peers.turns
        if len(data) <= SHORT_DATA or self.has_unread:
            super().dataReceived(data)
        elif turns.is_spent and self.client is not None:
            self.keep_unread(data)
            self.more_is_unread()
        else:
            turns.measured(partial(super().dataReceived, data))

    def more_is_unread(self) -> None:
        """Read the rest of what has been received in turns with others, and nothing more until then."""
        self.transport.pauseProducing()
        self._ask_for_turn()

    def _ask_for_turn(self) -> None:
        if not self._awaits_turn:
            self._awaits_turn = True
            self.factory.peers.turns.ask(self)

    # --- `taskd.net.turns.TurnTaker` ---

    @property
    def party(self) -> str:
        """The party that the websocket belongs to."""
        return "" if self.client is None else self.client.party

    def take_step(self) -> bool:
        """Read a part of what has been received; return whether more may be read now."""
        if self.client is not None and self.client.is_reading:
            if self.should_wait():
                self.factory.peers.turns.ask(self)  # behind the client's own turn
                return False
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

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: FBT001, N803
        """Forget the websocket, which is gone."""
        if self.client is not None:
            client, self.client = self.client, None
            client.connection_lost()
            self.factory.peers.discard(client)
            if self.factory.gate is not None:
                self.factory.gate.forget(client)

    def sendCloseFrame(  # noqa: N802  # Autobahn's names
        self,
        code: int | None = None,
        reasonUtf8: bytes | None = None,  # noqa: N803
        isReply: bool = False,  # noqa: FBT001, FBT002, N803
    ) -> None:
        """Send a close frame, which names the token if a message is only too long without one."""
        if code == TOO_BIG and self._awaits_token and not isReply:
            reasonUtf8 = str(too_large_without_token(MESSAGE_WITHOUT_TOKEN)).encode()[:MAX_REASON]  # noqa: N806
        super().sendCloseFrame(code, reasonUtf8, isReply)

    def failHandshake(  # noqa: N802
        self,
        reason: str,
        code: int = 400,
        responseHeaders: Sequence[tuple[str, str]] | None = None,  # noqa: N803
    ) -> None:
        """Refuse a handshake; the reason, which is logged, may quote what a client has sent, but no token."""
        super().failHandshake(_SHOWN_TOKEN.sub(TOKEN + "[hidden]", reason), code, responseHeaders)

    def sendHttpErrorResponse(  # noqa: N802
        self,
        code: int,
        reason: str,
        responseHeaders: Sequence[tuple[str, str]] | None = None,  # noqa: N803
    ) -> None:
        """Refuse a handshake, with the headers of every response."""
        safe = [(name.decode(), value.decode()) for name, value in SAFE_HEADERS]
        super().sendHttpErrorResponse(code, reason, [*(responseHeaders or ()), *safe])

    # --- `taskd.listeners.wire.Wire` ---

    may_name_callers = False
    """A browser speaks for itself, wherever it is."""

    def framed(self, messages: list[bytes]) -> list[bytes]:
        """Return the frames of these messages."""
        if self._window_bits is not None:
            return [compressed_frame(message, self._window_bits) for message in messages]
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

    def _stalled(self) -> None:
        self.factory.log.warn("stalled", "{peer} does not read its replies: disconnected", peer=self.peer)
        self.abort()


class WebSocketFactory(WebSocketServerFactory):
    """Makes a `WebSocketProtocol` for each websocket.

    `max_message` is in bytes, `max_in_flight` in messages of one websocket. With a `gate`, each needs
    a token: with its handshake or as its first message. Of each, at most `message_rate` messages a
    second are read. If the gateway `compresses`, clients may ask for messages that are compressed.
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
        gate: Gate | None = None,
        message_rate: float | None = None,
        compresses: bool = False,
    ) -> None:
        super().__init__(reactor=reactor)
        self.gate = gate
        self.message_rate = message_rate
        self.clock: IReactorTime = reactor
        self.log = RatedLog(reactor, _log)
        self.autobahn_log = AutobahnLog(self.log)
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
            # Off unless it is wanted: it costs memory and time, and shows attackers the length of secrets.
            perMessageCompressionAccept=partial(accepted, limit) if compresses else _none,
        )

    def next_name(self) -> str:
        """Return a name for one more websocket, which no other one has."""
        self._last_name += 1
        return f"{self._token}-{self._last_name}"


def _none(offers: object) -> None:
    """Accept no compression."""
