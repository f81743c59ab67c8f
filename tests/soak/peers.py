"""The clients: plain connections and websockets, each of which knows what it is owed."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Any

import msgspec

from tests.soak.ledger import Asked, Ledger, RequestId
from tests.soak.mix import Order

__all__ = ["Ending", "Peer", "TextPeer", "WebSocketPeer"]

_decode = msgspec.json.Decoder().decode

_BARE_FAILURES = {
    "the worker process ended under": -32003,
    "was cancelled": -32002,
    "shutting down": -32005,
    "shut down": -32005,
}
"""What errors look like on a websocket in the bare dialect, where their code is not told."""


class Ending(Enum):
    """How a connection is to end."""

    NOT = "it must stay"
    OWED = "the server closes it once we have everything"
    OURS = "we have closed it"


class Peer(asyncio.Protocol):
    """One connection: asks, and checks that each answer belongs to something that was asked.

    `room` is how much may be under way. `on_lost` is called when it is closed.
    """

    room = 0
    takes_text = False
    """Whether each message has to be UTF-8."""

    def __init__(self, ledger: Ledger, rng: Random, on_lost: Callable[[Peer], None]) -> None:
        self.ledger = ledger
        self.ending = Ending.NOT
        self.paused = False
        self.transport: asyncio.Transport | None = None
        self._rng = rng
        self._on_lost = on_lost
        self._by_id: dict[RequestId, Asked] = {}
        self._in_order: deque[Asked] = deque()
        self._batches: list[dict[RequestId, Asked]] = []
        self._batched = 0
        self._unsent: list[bytes] = []
        self._received = bytearray()

    # --- what is asked ---

    @property
    def under_way(self) -> int:
        """How many answers are owed."""
        return len(self._by_id) + len(self._in_order) + self._batched

    @property
    def is_open(self) -> bool:
        """Whether more may be asked."""
        return self.ending is Ending.NOT and self.transport is not None

    def owed(self) -> list[Asked]:
        """What has not been answered."""
        batched = [asked for batch in self._batches for asked in batch.values()]
        return [*self._by_id.values(), *self._in_order, *batched]

    def _note(self, asked: Asked) -> None:
        asked.timed = asked.timed and not self.paused
        self.ledger.note_sent(asked)

    def _identify(self, asked: Asked) -> RequestId:
        number = asked.number
        asked.request_id = number if number % 3 else f"n\u00fc {number}"
        return asked.request_id

    def ask(self, order: Order) -> None:
        """Send a JSON-RPC request."""
        request_id = self._identify(order.asked)
        self._by_id[request_id] = order.asked
        self._note(order.asked)
        self.put(order.rpc(request_id))

    def ask_bare(self, order: Order) -> None:
        """Send a bare request."""
        self._in_order.append(order.asked)
        order.asked.timed = False  # it may have to wait for those before it
        self._note(order.asked)
        self.put(order.bare())

    def notify(self, order: Order) -> None:
        """Send a notification."""
        self._note(order.asked)
        self.put(order.rpc(None))

    def ask_batch(self, orders: list[Order], notes: list[Order]) -> None:
        """Send a batch."""
        batch: dict[RequestId, Asked] = {}
        lines = []
        for order in orders:
            order.asked.timed = False
            request_id = self._identify(order.asked)
            batch[request_id] = order.asked
            lines.append(order.rpc(request_id))
        lines += [order.rpc(None) for order in notes]
        for order in [*orders, *notes]:
            self._note(order.asked)
        self._batches.append(batch)
        self._batched += len(batch)
        self._rng.shuffle(lines)
        self.put(b"[%b]" % b",".join(lines))

    def send_malformed(self, asked: Asked, message: bytes) -> None:
        """Send what is no request, and has no id: its error keeps its place among the bare replies."""
        self._in_order.append(asked)
        self._note(asked)
        self.put(message)

    def to_cancel(self, rng: Random) -> Asked | None:
        """One of the requests under way that have an id."""
        asked = [asked for asked in self._by_id.values() if not asked.what.startswith("taskd.")]
        return rng.choice(asked) if asked else None

    def put(self, message: bytes) -> None:
        """Have a message sent at the next `flush`."""
        self._unsent.append(message)

    def flush(self) -> None:
        """Send what was put."""
        if self._unsent and self.transport is not None:
            self.transport.write(self.framed(self._unsent))
            self._unsent = []

    def framed(self, messages: list[bytes]) -> bytes:
        """Messages as they are on the wire."""
        raise NotImplementedError

    # --- what is answered ---

    def bare_received(self, message: bytes) -> None:
        """A bare reply."""
        raise NotImplementedError

    def message_received(self, message: bytes) -> None:
        """One message from the server."""
        if message.startswith(b'{"jsonrpc"'):
            self._rpc_received(_decode(message), message)
        elif message.startswith(b"["):
            self._batch_received(_decode(message), message)
        else:
            self.bare_received(message)

    def next_bare(self, message: bytes) -> Asked | None:
        """What is owed first among the bare replies."""
        if not self._in_order:
            self.ledger.violate(f"a reply that nobody is owed: {message!r:.300}")
            return None
        return self._in_order.popleft()

    def _rpc_received(self, reply: dict[str, Any], message: bytes) -> None:
        if "method" in reply:
            asked = self._by_id.get(reply["params"]["id"])
            if asked is None or not asked.reports:
                self.ledger.violate(f"progress that nobody has asked for: {message!r:.300}")
            self.ledger.progress += 1
            return
        request_id = reply["id"]
        asked = self.next_bare(message) if request_id is None else self._by_id.pop(request_id, None)
        self._answered(asked, reply, message)

    def _batch_received(self, replies: list[dict[str, Any]], message: bytes) -> None:
        batch = next((batch for batch in self._batches if replies[0]["id"] in batch), None)
        if batch is None or {reply["id"] for reply in replies} != batch.keys():
            self.ledger.violate(f"a batch of replies that nobody is owed: {message!r:.300}")
            return
        self._batches.remove(batch)
        self._batched -= len(batch)
        for reply in replies:
            self._answered(batch.pop(reply["id"], None), reply, message)

    def _answered(self, asked: Asked | None, reply: dict[str, Any], message: bytes) -> None:
        if asked is None:
            self.ledger.violate(f"a reply that nobody is owed: {message!r:.300}")
        elif "error" in reply:
            error = reply["error"]
            self.ledger.failed(asked, error["code"], error.get("data"), error["message"])
        else:
            self.ledger.succeeded(asked, reply["result"])

    # --- the end ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        owed = self.owed()
        if self.ending is Ending.OURS:
            for asked in owed:
                self.ledger.drop(asked)
        elif self.ending is Ending.NOT:
            self.ledger.violate(f"the server closed a connection ({error}), {len(owed)} replies were owed")
        elif owed:
            first = owed[0]
            self.ledger.violate(
                f"the server closed a connection ({error}) before all was answered: {len(owed)} replies were "
                f"owed, for {first.what} {first.number} among others"
            )
        self._on_lost(self)

    def drop(self, *, reset: bool) -> None:
        """Be gone, whatever is owed."""
        assert self.transport is not None
        self.flush()
        self.ending = Ending.OURS
        if reset:
            # As a machine does that was switched off and on: no FIN but a RST.
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def pause(self) -> None:
        """Stop reading for a while: how long a reply takes from now on says nothing."""
        assert self.transport is not None
        self.paused = True
        self.transport.pause_reading()
        for asked in self.owed():
            asked.timed = False

    def resume(self) -> None:
        """Read again."""
        self.paused = False
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()


class TextPeer(Peer):
    """A plain connection to the task server."""

    room = 400

    def framed(self, messages: list[bytes]) -> bytes:
        return b"\n".join([*messages, b""])

    def data_received(self, data: bytes) -> None:
        lines = data.split(b"\n")
        if len(lines) == 1:
            self._received += data
            return
        if self._received:
            lines[0] = bytes(self._received) + lines[0]
            self._received.clear()
        self._received += lines.pop()
        for line in lines:
            self.message_received(line)

    def bare_received(self, message: bytes) -> None:
        asked = self.next_bare(message)
        if asked is None:
            return
        if message.startswith(b'{"error":'):
            error = _decode(message)["error"]
            self.ledger.failed(asked, error["code"], error.get("data"), error["message"])
        else:
            self.ledger.succeeded(asked, _decode(message))

    def end_sending(self) -> None:
        """Shut down the sending side: everything that is owed must come, and then the end."""
        assert self.transport is not None
        self.flush()
        self.ending = Ending.OWED
        for asked in self.owed():
            asked.is_cancelled = asked.is_cancelled or asked.on_disconnect
        self.transport.write_eof()

    def send_last(self, asked: Asked, data: bytes) -> None:
        """Send something for which the server answers an error, and then closes."""
        assert self.transport is not None
        self._in_order.append(asked)
        self._note(asked)
        self.flush()
        self.ending = Ending.OWED
        self.transport.write(data)


class WebSocketPeer(Peer):
    """A websocket, through the gateway. Opened with `opened`, which fires when it can be used."""

    room = 80
    takes_text = True

    _SMALL, _MEDIUM = 126, 0x10000
    _TEXT, _CLOSE, _PING, _PONG, _BINARY = 1, 8, 9, 10, 2
    _FINAL = 0x80

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
        return b"".join(self._frame(self._TEXT, message) for message in messages)

    def _frame(self, opcode: int, payload: bytes) -> bytes:
        """A frame with a mask of zeros, which changes nothing."""
        length = len(payload)
        if length < self._SMALL:
            head = struct.pack("!BB", self._FINAL | opcode, 0x80 | length)
        elif length < self._MEDIUM:
            head = struct.pack("!BBH", self._FINAL | opcode, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", self._FINAL | opcode, 0x80 | 127, length)
        return head + b"\0\0\0\0" + payload

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
        if length == 126:
            length, start = int.from_bytes(got[2:4]), 4
        elif length == 127:
            length, start = int.from_bytes(got[2:10]), 10
        if len(got) < start or len(got) < start + length:
            return False
        opcode, payload = got[0] & 0x0F, bytes(got[start : start + length])
        del got[: start + length]
        self._frame_received(opcode, payload)
        return True

    def _frame_received(self, opcode: int, payload: bytes) -> None:
        if opcode == self._TEXT:
            self.message_received(payload)
        elif opcode == self._PING and self.transport is not None:
            self.transport.write(self._frame(self._PONG, payload))
        elif opcode == self._CLOSE and self.transport is not None:
            self.close_code = int.from_bytes(payload[:2])
            if self.ending is Ending.NOT or self.close_code != self.wants_code:
                self.ledger.violate(f"a websocket was closed: {payload!r}")
            self.transport.write(self._frame(self._CLOSE, payload[:2]))

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
        else:  # which error it is, is told by its text only: any that is allowed will do
            code = min(asked.codes, default=0)
            self.ledger.failed(asked, code, None if code != -32000 else {"type": "?"}, text)

    def send_binary(self) -> None:
        """Send what is refused: nothing more is answered, and the websocket closes with a code."""
        assert self.transport is not None
        self.flush()
        self.ending = Ending.OURS
        self.wants_code = 1003
        self.transport.write(self._frame(self._BINARY, b"\0\1\2"))

    def close(self) -> None:
        """Say goodbye."""
        assert self.transport is not None
        self.flush()
        self.ending = Ending.OURS
        self.wants_code = 1000
        self.transport.write(self._frame(self._CLOSE, struct.pack("!H", 1000)))
