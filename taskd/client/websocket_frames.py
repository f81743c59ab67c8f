"""Websockets: the handshake, and the messages in their frames."""

from __future__ import annotations

import socket
from time import monotonic

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import RemoteProtocolError

from taskd.client.addresses import WebSocketAddress
from taskd.client.conversation import MAX_REPLY, Conversation
from taskd.client.sockets import READ_SIZE, ConnectFailed
from taskd.client.tokens import denial_of
from taskd.errors import TooLarge
from taskd.model import Failure
from taskd.net.strangers import not_a_task_server

__all__ = ["WINDOW", "Handshake", "WebSocketFraming", "handshake"]

WINDOW = 80
"""Calls in flight on a websocket: less than the 100 that a gateway takes, so that it reads on."""

UNAVAILABLE = 503
"""The HTTP status of a gateway that is stopping, or of a proxy whose gateway is being restarted; 502 too."""


class Handshake:
    """The opening of a websocket, without I/O: send `request`, and pass on what arrives."""

    def __init__(self, address: WebSocketAddress) -> None:
        host = f"[{address.host}]" if ":" in address.host else address.host
        self._connection = WSConnection(ConnectionType.CLIENT)
        self.request = self._connection.send(Request(host=f"{host}:{address.port}", target=address.resource))
        self._first = b""

    def receive(self, data: bytes) -> WebSocketFraming | None:
        """Take in what has arrived; b"" is the end. Return the framing once the websocket is open.

        Raises `ConnectFailed`.
        """
        self._first = self._first or data
        if not data or self._first.startswith(b"{"):
            raise ConnectFailed(_no_gateway(self._first), may_pass=not self._first)
        try:
            self._connection.receive_data(data)
            event = next(self._connection.events(), None)
        except RemoteProtocolError as error:
            raise ConnectFailed(_no_gateway(self._first) or str(error), may_pass=False) from error
        if isinstance(event, AcceptConnection):
            return WebSocketFraming(self._connection)
        if isinstance(event, RejectConnection):
            why = f"it refused the websocket with HTTP status {event.status_code}"
            raise ConnectFailed(why, may_pass=event.status_code in (502, UNAVAILABLE))
        return None


def handshake(sock: socket.socket, address: WebSocketAddress) -> WebSocketFraming:
    """Open a websocket on a socket that is connected. Raises `ConnectFailed` or `OSError`."""
    opening = Handshake(address)
    sock.sendall(opening.request)
    ending = monotonic() + (sock.gettimeout() or 0.0)
    while True:
        sock.settimeout(max(ending - monotonic(), 0.001))
        framing = opening.receive(sock.recv(READ_SIZE))
        if framing is not None:
            return framing


def _no_gateway(first: bytes) -> str:
    """Return what the other end is if its first bytes show that it is no gateway."""
    if first.startswith(b"{"):
        return "that port is a task server's: its address is HOST:PORT"
    if not first:
        return "it closed the connection"
    return "that port speaks TLS: write wss://HOST:PORT" if not_a_task_server(first) else "it is no gateway"


class WebSocketFraming:
    """Messages as those of a websocket. Is a `taskd.client.sockets.Framing`."""

    def __init__(self, connection: WSConnection) -> None:
        self._connection = connection
        self._answers: list[bytes] = []  # pongs
        self._pieces: list[str] = []
        self._size = 0

    def outgoing(self, conversation: Conversation, now: float) -> bytes:
        """Return the frames that must be sent now. As `Framing.outgoing`."""
        frames, self._answers = self._answers, []
        for message in conversation.messages_to_send(now):
            frames.append(self._connection.send(TextMessage(data=message.decode())))
        return b"".join(frames)

    def incoming(self, data: bytes, conversation: Conversation, now: float) -> None:
        """Pass on the messages that have arrived. As `Framing.incoming`."""
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, TextMessage):
                    self._collect(event, conversation, now)
                elif isinstance(event, Ping):
                    self._answers.append(self._connection.send(event.response()))
                elif isinstance(event, CloseConnection):
                    denial = denial_of(event.code, event.reason)
                    if denial is not None:
                        conversation.turned_away(denial)
                    if event.code == CloseReason.MESSAGE_TOO_BIG:
                        refused = TooLarge(f"the message is too long for the gateway: {event.reason}")
                        conversation.refused(Failure.of(refused))
                    conversation.lost(f"{event.reason or 'it closed the websocket'} (code {event.code})")
        except RemoteProtocolError as error:
            conversation.lost(f"it broke the rules of websockets: {error}")

    def _collect(self, event: TextMessage, conversation: Conversation, now: float) -> None:
        self._pieces.append(event.data)
        self._size += len(event.data)
        if self._size > MAX_REPLY:
            conversation.lost(f"its reply is over {MAX_REPLY} bytes")
        elif event.message_finished:
            message = "".join(self._pieces).encode()
            self._pieces.clear()
            self._size = 0
            conversation.receive_message(message, now)
