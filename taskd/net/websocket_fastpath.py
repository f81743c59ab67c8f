"""Autobahn's websocket server protocol, with a fast path for short text frames.

What Autobahn does for each message (log texts that nobody reads, statistics,
listeners, a frame and a message object, a validator) costs several times as
much as the message itself. Whole, unfragmented, short text frames are read and
written here; everything else, and every decision about the connection, is left
to Autobahn.

Bytes may be taken before Autobahn sees them only while it is between two
messages and awaits no pong (a text would count as one). Autobahn has no public
way to find that out. This module alone reads the private attributes that show
it, after checking that they do (`reads_as_known`). If they do not, Autobahn
reads everything, which is correct but slower.
"""

from __future__ import annotations

from collections.abc import Callable

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.logger import Logger

from taskd.net.buffered_socket import StreamTransport
from taskd.protocol.websocket_frames import read_texts, text_frame

__all__ = ["TextServerProtocol", "reads_as_known"]

_log = Logger(namespace="taskd.gateway")

JOINED = 65536
"""Bytes of texts that are joined for one write: joining more saves nothing, and copies more."""


PIECE = 64
"""Bytes that each piece of an incomplete message takes besides its own, in a list: a message may come
in pieces of one byte."""


# --- whether Autobahn's state is the one that is read here ---------------------

_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_TEXT = b"\x81\x81\0\0\0\0a"
_FRAGMENT, _LAST_FRAGMENT = b"\x01\x81\0\0\0\0a", b"\x80\x81\0\0\0\0b"


class _Nowhere:
    """A transport whose peer reads nothing."""

    def write(self, data: bytes) -> None:
        pass

    def loseConnection(self) -> None:  # noqa: N802
        pass

    def getPeer(self) -> IAddress:  # noqa: N802
        return IPv4Address("TCP", "127.0.0.1", 1)


def reads_as_known(kind: type[WebSocketServerProtocol]) -> bool:
    """Return whether a websocket protocol keeps its reading state in the attributes that are read here.

    Opens a websocket in memory and checks the attributes before, within and
    between messages. Never raises: if the protocol fails, the result is False.
    """
    try:
        return all(_known_states(kind))
    except Exception:
        return False


def _known_states(kind: type[WebSocketServerProtocol]) -> list[bool]:
    factory = WebSocketServerFactory(reactor=Clock())
    factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0, autoPingInterval=0)
    protocol = kind()
    protocol.factory = factory
    protocol.makeConnection(_Nowhere())
    states = [protocol.state != protocol.STATE_OPEN]

    def after(data: bytes, holds: Callable[[], bool]) -> None:
        protocol.dataReceived(data)
        states.append(protocol.state == protocol.STATE_OPEN and protocol.autoPingTimeoutCall is None)
        states.append(holds())

    def is_idle() -> bool:
        return not protocol.data and protocol.current_frame is None and not protocol.inside_message

    after(_HANDSHAKE, is_idle)
    after(_TEXT[:1], lambda: len(protocol.data) == 1)
    after(_TEXT[1:6], lambda: protocol.current_frame is not None or bool(protocol.data))
    after(_TEXT[6:], is_idle)
    after(_FRAGMENT, lambda: bool(protocol.inside_message))
    after(_LAST_FRAGMENT, is_idle)
    return states


# --- the fast path -------------------------------------------------------------


class TextServerProtocol(WebSocketServerProtocol):
    """A websocket for text messages. Override `texts_received` and `binary_received`."""

    transport: StreamTransport  # type: ignore[assignment]  # Twisted's type is too narrow for any use
    has_fast_path = reads_as_known(WebSocketServerProtocol)
    """Whether short texts are read here; if not, Autobahn reads them."""
    _growing = 0
    _is_new = _is_within_message = False

    def texts_received(self, texts: list[bytes]) -> None:
        """Process the texts that one read has completed, in order; each is UTF-8 and within the limit."""
        raise NotImplementedError

    def binary_received(self) -> None:
        """Handle a binary message, whose content is dropped."""
        raise NotImplementedError

    # --- what comes in ---

    def dataReceived(self, data: bytes) -> None:
        """Read the whole, short texts at the beginning of `data`, and leave the rest to Autobahn."""
        if (
            self.has_fast_path
            and self.state == self.STATE_OPEN
            and not self.data
            and self.current_frame is None
            and not self.inside_message
            and self.autoPingTimeoutCall is None
        ):
            texts, end = read_texts(data, self.maxMessagePayloadSize)
            if texts:
                self.texts_received(texts)
                if end == len(data):
                    return
                data = data[end:]
        super().dataReceived(data)
        if self._growing or self._is_within_message:
            self._is_within_message = bool(self._growing)
            self.message_grows(self._growing, self._is_new)
        self._is_new = False

    def message_grows(self, size: int, is_new: bool) -> None:  # noqa: FBT001
        """Note how many bytes of an incomplete message are held, after each read in which that changes.

        `is_new` says that this read has completed a message before it.
        """

    def onMessageFrameData(self, payload: bytes) -> None:
        """Count a piece of a message, and let Autobahn keep it."""
        self._growing += len(payload) + PIECE
        super().onMessageFrameData(payload)

    def onMessageEnd(self) -> None:
        """Count no longer: the message is complete."""
        self._growing = 0
        self._is_new = True
        super().onMessageEnd()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: FBT001, N803
        """Pass on a message that Autobahn has read."""
        if isBinary:
            self.binary_received()
        else:
            self.texts_received([payload])

    # --- what goes out ---

    @staticmethod
    def frames(texts: list[bytes]) -> list[bytes]:
        """Return the frames of these texts, in pieces for one call of `write_frames` each."""
        if len(texts) == 1:
            return [text_frame(texts[0])]
        if sum(map(len, texts)) > JOINED:
            return [text_frame(text) for text in texts]
        return [b"".join([text_frame(text) for text in texts])]

    def write_frames(self, data: bytes) -> None:
        """Send whole frames; drop them if the websocket is being closed."""
        if self.state == self.STATE_OPEN:
            self.transport.write(data)


if not TextServerProtocol.has_fast_path:
    _log.warn("this release of Autobahn is unknown: it reads every websocket message itself, more slowly")
