"""The clients on websockets, through the gateway."""

from __future__ import annotations

import asyncio
import base64
import os
import struct
from collections.abc import Callable
from random import Random

from taskd.errors import ShuttingDown
from tests.soak.ledger import Ledger
from tests.soak.peers import Ending, Peer

__all__ = ["WebSocketPeer"]

_BARE_FAILURES = {
    "the worker process ended under": -32003,
    "was cancelled": -32002,
    "shutting down": -32005,
    "shut down": -32005,
    "the websocket was closed": -32005,
    "the queue is full": -32004,
}
"""The texts of bare errors on a websocket, which have no codes."""

_SHORTEST_OF_TWO, _SHORTEST_OF_EIGHT = 126, 0x10000
_TWO_BYTES, _EIGHT_BYTES = 126, 127
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_FINAL = _MASKED = 0x80
_NO_MASK = b"\0\0\0\0"
"""A mask that leaves the data unchanged."""

NORMAL, GOING_AWAY, UNSUPPORTED_DATA = 1000, 1001, 1003
"""Close codes of a websocket (RFC 6455, 7.4.1)."""


class WebSocketPeer(Peer):
    """A websocket through the gateway; `opened` fires when it can be used."""

    room = 80
    takes_text = True

    def __init__(self, ledger: Ledger, rng: Random, on_lost: Callable[[Peer], None]) -> None:
        super().__init__(ledger, rng, on_lost)
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.close_code: int | None = None
        self.wants_code: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        host, port = transport.get_extra_info("peername")[:2]
        key = base64.b64encode(os.urandom(16)).decode()
        assert self.transport is not None
        self.transport.write(
            f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def framed(self, messages: list[bytes]) -> bytes:
        return b"".join(_frame(_TEXT, message) for message in messages)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.opened.done():
            head, found, rest = bytes(self._received).partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.ledger.violate(f"no websocket was opened: {head[:200]!r}")
            self._received = bytearray(rest)
            self.opened.set_result(None)
        while self._read_frame():
            pass

    def _read_frame(self) -> bool:
        got = self._received
        if len(got) < 2:
            return False
        length, start = got[1], 2
        if length == _TWO_BYTES:
            length, start = int.from_bytes(got[2:4]), 4
        elif length == _EIGHT_BYTES:
            length, start = int.from_bytes(got[2:10]), 10
        if len(got) < start or len(got) < start + length:
            return False
        opcode, payload = got[0] & 0x0F, bytes(got[start : start + length])
        del got[: start + length]
        self._frame_received(opcode, payload)
        return True

    def _frame_received(self, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT:
            self.message_received(payload)
        elif opcode == _PING and self.transport is not None:
            self.transport.write(_frame(_PONG, payload))
        elif opcode == _CLOSE and self.transport is not None:
            self.close_code = int.from_bytes(payload[:2])
            if self.ending is Ending.NOT or self.close_code != self.wants_code:
                self.ledger.violate(f"a websocket was closed: {payload!r}")
            self.transport.write(_frame(_CLOSE, payload[:2]))

    def bare_received(self, message: bytes) -> None:
        asked = self.next_bare(message)
        if asked is None:
            return
        if message == b"task complete":
            self.ledger.completed(asked)
            return
        text = message.decode()
        known = next((code for part, code in _BARE_FAILURES.items() if part in text), None)
        if not text.startswith("task failed: "):
            self.ledger.violate(f"{asked.what} {asked.number} was answered {text!r:.300}")
        elif known is not None:
            self.ledger.failed(asked, known, None, text)
        else:  # only its text shows which error it is: any allowed one will do
            code = min(asked.codes, default=0)
            self.ledger.failed(asked, code, None if code != -32000 else {"type": "?"}, text)

    def send_binary(self) -> None:
        """Send a message that is refused: the websocket closes with a code.

        What was asked before may be answered first, if not by its own end then by that of the websocket.
        """
        assert self.transport is not None
        for asked in self.owed():
            asked.codes |= {ShuttingDown.code}
        self.flush()
        self.ending = Ending.OURS
        self.wants_code = UNSUPPORTED_DATA
        self.transport.write(_frame(_BINARY, b"\0\1\2"))

    def expect_end(self) -> None:
        """Expect the server to stop: it closes the websocket once it has answered everything."""
        super().expect_end()
        self.wants_code = GOING_AWAY

    def close(self) -> None:
        """Send a close frame."""
        assert self.transport is not None
        self.flush()
        self.ending = Ending.OURS
        self.wants_code = NORMAL
        self.transport.write(_frame(_CLOSE, struct.pack("!H", NORMAL)))


def _frame(opcode: int, payload: bytes) -> bytes:
    length = len(payload)
    if length < _SHORTEST_OF_TWO:
        head = struct.pack("!BB", _FINAL | opcode, _MASKED | length)
    elif length < _SHORTEST_OF_EIGHT:
        head = struct.pack("!BBH", _FINAL | opcode, _MASKED | _TWO_BYTES, length)
    else:
        head = struct.pack("!BBQ", _FINAL | opcode, _MASKED | _EIGHT_BYTES, length)
    return head + _NO_MASK + payload
