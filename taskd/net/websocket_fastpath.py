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

Autobahn gets little at once: 64 KiB of the shortest frames would take it a
quarter of a second. And of many pings only the last are answered (RFC 6455,
5.5.3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.logger import Logger

from taskd.net.buffered_socket import StreamTransport
from taskd.protocol.websocket_frames import pong_frame, read_texts, text_frame

__all__ = ["TOO_BIG", "TextServerProtocol", "reads_as_known"]

_log = Logger(namespace="taskd.gateway")

TOO_BIG = 1009
"""The code of the close frame for a message over a limit (RFC 6455, 7.4.1)."""

JOINED = 65536
"""Bytes of texts that are joined for one write: joining more saves nothing, and copies more."""

SLOW_SLICE = 1024
"""Bytes of frames that Autobahn reads in one step: some 170 of the shortest, in three milliseconds."""

MAX_FRAMES = 2**17
"""Frames of one message: each costs some fifty bytes, even if it carries none. The tests of
conformance cut messages into as many as half of this."""

PONGS = 16
"""Pings, of those that one step has read, that are answered each: the tests of conformance send ten
together and count the answers."""


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
    after(b"", lambda: _rest_of_frame(protocol) in (0, 1))
    after(_TEXT[6:], is_idle)
    after(_FRAGMENT, lambda: bool(protocol.inside_message))
    after(_LAST_FRAGMENT, is_idle)
    return states


def _rest_of_frame(protocol: WebSocketServerProtocol) -> int:
    """Return how many bytes of a frame's payload a protocol still awaits."""
    frame = protocol.current_frame
    return 0 if frame is None else int(frame.length - protocol.current_frame_masker.pointer())


# --- the fast path -------------------------------------------------------------


class TextServerProtocol(WebSocketServerProtocol):
    """A websocket for text messages. Override `texts_received` and `binary_received`.

    If more is received than one step should take, `more_is_unread` is called;
    `read_more` reads on. Nothing more should be received until `has_unread` is False.
    """

    transport: StreamTransport  # type: ignore[assignment]  # Twisted's type is too narrow for any use
    has_fast_path = reads_as_known(WebSocketServerProtocol)
    """Whether short texts are read here; if not, Autobahn reads them."""
    ignores_input = False
    """Whether what the client still sends is of no use."""
    maxMessagePayloadSize: int  # Autobahn sets it  # noqa: N815
    max_frames = MAX_FRAMES
    """The frames that a message may have."""
    _unread = b""
    _frames = 0
    _growing = 0
    _inflated = 0
    _is_within_message = False

    def __init__(self) -> None:
        super().__init__()
        self._pings: deque[bytes] = deque(maxlen=PONGS)

    def texts_received(self, texts: list[bytes]) -> None:
        """Process the texts that one read has completed, in order; each is UTF-8 and within the limit."""
        raise NotImplementedError

    def binary_received(self) -> None:
        """Handle a binary message, whose content is dropped."""
        raise NotImplementedError

    # --- what comes in ---

    def should_wait(self) -> bool:
        """Return whether no frame may be read until the messages before it have been worked off."""
        return False

    def processData(self) -> bool:  # noqa: N802  # Autobahn's name
        """Let Autobahn read a frame, unless it should wait; the frame stays in `data` then."""
        return not self.should_wait() and bool(super().processData())

    @property
    def has_unread(self) -> bool:
        """Whether `read_more` has something to read."""
        return bool(self._unread)

    def more_is_unread(self) -> None:
        """Read the rest of what has been received, at once or later, by `read_more`."""
        while self.has_unread:
            self.read_more()

    def dataReceived(self, data: bytes) -> None:
        """Read the whole, short texts at the beginning of `data`, and a part of the rest."""
        if self._unread:
            self._unread += data
            return
        self._read(data)
        if self._unread:
            self.more_is_unread()

    def keep_unread(self, data: bytes) -> None:
        """Read `data` later, by `read_more`; nothing may be unread yet."""
        self._unread = data

    def read_more(self) -> None:
        """Take one step through what has been received."""
        data, self._unread = self._unread, b""
        self._read(data)

    def _read(self, data: bytes) -> None:
        """Read texts, then some frames through Autobahn; the rest is unread."""
        if self.ignores_input or self.state == self.STATE_CLOSED:
            return  # Autobahn would keep it
        if self.state == self.STATE_CONNECTING:
            super().dataReceived(data)  # the handshake, which is bounded and may be longer than a step
            self.answer_pings_now()
            return
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
        self._read_slowly(data)

    def _read_slowly(self, data: bytes) -> None:
        """Read some frames through Autobahn, unless they should wait; the rest is unread."""
        if self.should_wait():
            self._unread = data
            return
        end = self._give(data, 0, SLOW_SLICE)
        if self.has_fast_path and end < len(data):
            end = self._give(data, end, _rest_of_frame(self))  # a payload is read fast, however long
        self._unread = data[end:]
        if self.data and self.should_wait():  # since a message has been read
            self._unread, self.data = self.data + self._unread, b""
        self.answer_pings_now()
        if self._growing or self._is_within_message:
            self._is_within_message = bool(self._growing)
            self.message_grows(self._growing, is_new=False)

    def message_grows(self, size: int, is_new: bool) -> None:  # noqa: FBT001
        """Note how many bytes of an incomplete message are held, after each read in which that changes.

        `is_new` says that a message before it is complete, which follows.
        """

    def onMessageBegin(self, isBinary: bool) -> None:  # noqa: FBT001, N803
        """Begin a message; if it is compressed, it is inflated up to one byte more than it may have."""
        if self._perMessageCompress is not None:
            # Older releases cut off what is beyond this, in each frame: so that shows below.
            self._perMessageCompress.max_message_size = self.maxMessagePayloadSize + 1
        self._inflated = 0
        super().onMessageBegin(isBinary)

    def onMessageFrameData(self, payload: bytes) -> None:
        """Count a piece of a message, and let Autobahn keep it unless the message is too long by now.

        A piece has been inflated. Older releases of Autobahn compare only compressed lengths with the limit.
        """
        self._growing += len(payload) + PIECE
        self._inflated += len(payload)
        if self._perMessageCompress is not None and self._inflated > self.maxMessagePayloadSize:
            self.sendCloseFrame(TOO_BIG, b"the message is too long when it is inflated")
            return
        super().onMessageFrameData(payload)

    def _give(self, data: bytes, start: int, size: int) -> int:
        """Give Autobahn so many bytes, and return the offset of the first that it has not got."""
        if size and self.state != self.STATE_CLOSED and not self.ignores_input:
            super().dataReceived(data[start : start + size])
        return min(start + size, len(data))

    def onMessageFrameBegin(self, length: int) -> None:
        """Begin a frame of a message, unless it is one too many."""
        self._frames += 1
        super().onMessageFrameBegin(length)
        if self._frames > self.max_frames:
            self.sendCloseFrame(TOO_BIG, b"the message is cut into too many frames")

    def onMessageEnd(self) -> None:
        """End a message, and count the frames of the next one from zero."""
        self._frames = self._growing = 0
        self._is_within_message = False
        if self._perMessageCompress is not None:
            # Nothing of it is of use to the next message, but it takes 11 to 40 KiB.
            self._perMessageCompress._decompressor = None
        self.message_grows(0, is_new=True)
        super().onMessageEnd()

    def onPing(self, payload: bytes) -> None:
        """Answer a ping at the end of this step, if it is one of the last."""
        self._pings.append(payload)

    def answer_pings_now(self) -> None:
        """Answer the pings that have been read, before anything else is sent."""
        if self._pings:
            payloads = list(self._pings)
            self._pings.clear()
            self.answer_pings(payloads)

    def answer_pings(self, payloads: list[bytes]) -> None:
        """Answer these pings, unless the websocket is being closed."""
        self.write_frames(b"".join([pong_frame(payload) for payload in payloads]))

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: FBT001, N803
        """Pass on a message that Autobahn has read, after the answers to the pings before it."""
        self.answer_pings_now()
        if isBinary:
            self.binary_received()
        else:
            self.texts_received([payload])

    # --- what goes out ---

    def sendCloseFrame(  # noqa: N802  # Autobahn's names
        self,
        code: int | None = None,
        reasonUtf8: bytes | None = None,  # noqa: N803
        isReply: bool = False,  # noqa: FBT001, FBT002, N803
    ) -> None:
        """Send the close frame, after the answers to the pings before it."""
        self.answer_pings_now()
        super().sendCloseFrame(code, reasonUtf8, isReply)

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
