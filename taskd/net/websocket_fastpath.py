"""Autobahn's websocket server protocol, with a short way for short texts.

What Autobahn does for each message (log texts that nobody reads, statistics,
listeners, a frame and a message object, a validator) costs several times what
the message itself does. Whole, unfragmented, short text frames are read and
written here; everything else, and every decision about the connection, is
Autobahn's.
"""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.internet.tcp import Connection

from taskd.protocol.websocket_frames import read_texts, text_frame

__all__ = ["TextServerProtocol"]

JOINED = 65536
"""Bytes of texts that are written in one piece: a longer piece is no cheaper, and has to be copied."""


class TextServerProtocol(WebSocketServerProtocol):
    """A websocket of texts. Override `texts_received` and `binary_received`."""

    transport: Any

    def texts_received(self, texts: list[bytes]) -> None:
        """All the texts that one read completed, in order; each is UTF-8 and within the limit."""
        raise NotImplementedError

    def binary_received(self) -> None:
        """A binary message."""
        raise NotImplementedError

    # --- what comes in ---

    def dataReceived(self, data: bytes) -> None:
        """Take the whole, short texts that `data` begins with, and leave the rest to Autobahn."""
        # These attributes are Autobahn's own state of reading, the same in all
        # its versions; there is no public way to ask. Only where it stands
        # between two messages, and awaits no pong (for which a text would
        # count too), may bytes be taken before it has seen them.
        if (
            self.state == self.STATE_OPEN
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

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: FBT001, N803
        """A message that Autobahn has read."""
        if isBinary:
            self.binary_received()
        else:
            self.texts_received([payload])

    # --- what goes out ---

    @staticmethod
    def frames(texts: list[bytes]) -> list[bytes]:
        """What is to be given to `write_frames`, in so many pieces, to send these texts."""
        if len(texts) == 1:
            return [text_frame(texts[0])]
        if sum(map(len, texts)) > JOINED:
            return [text_frame(text) for text in texts]
        return [b"".join([text_frame(text) for text in texts])]

    def write_frames(self, data: bytes) -> None:
        """Send whole frames, at once where that can be; nothing where the websocket is being closed."""
        if self.state != self.STATE_OPEN:
            return
        # A transport of Twisted's sends in the reactor's next turn, for which
        # it has the reactor ask whether it can: two system calls and an event
        # more. Where nothing waits before us, we need not either.
        transport = self.transport
        if (
            isinstance(transport, Connection)
            and not transport.dataBuffer
            and not transport._tempDataBuffer
            and transport.connected
            and not transport.disconnecting
            and not transport.TLS
        ):
            sent = transport.writeSomeData(data)
            if sent == len(data):
                return
            if isinstance(sent, int):
                data = data[sent:]
        transport.write(data)
