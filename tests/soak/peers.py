"""The clients on plain connections, and their common base with websockets."""

from __future__ import annotations

import asyncio
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

__all__ = ["Ending", "Peer", "TextPeer"]

_decode = msgspec.json.Decoder().decode


class Ending(Enum):
    """How a connection should end."""

    NOT = "it must stay"
    OWED = "the server closes it once we have everything"
    OURS = "we have closed it"


class Peer(asyncio.Protocol):
    """One connection, which sends requests and checks that each reply belongs to one.

    `room` is how many may be in flight. `on_lost` is called when it is closed.
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
        self._notified: deque[Asked] = deque()  # notifications that the server may not have read
        self._position = self._read = 0
        self._unsent: list[bytes] = []
        self._received = bytearray()

    # --- requests ---

    @property
    def in_flight(self) -> int:
        """The number of replies that are due."""
        return len(self._by_id) + len(self._in_order) + self._batched

    @property
    def is_open(self) -> bool:
        """Whether more requests may be sent."""
        return self.ending is Ending.NOT and self.transport is not None

    def owed(self) -> list[Asked]:
        """The requests that have not been answered."""
        batched = [asked for batch in self._batches for asked in batch.values()]
        return [*self._by_id.values(), *self._in_order, *batched]

    def _note(self, asked: Asked) -> None:
        self._position += 1
        asked.position = self._position
        if not asked.is_answered:
            self._notified.append(asked)
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
        order.asked.timed = False  # its reply may have to wait for earlier ones
        self._note(order.asked)
        self.put(order.bare())

    def notify(self, order: Order) -> None:
        """Send a notification."""
        order.asked.is_answered = False
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
        for order in notes:
            order.asked.is_answered = False
        for order in [*orders, *notes]:
            self._note(order.asked)
        self._batches.append(batch)
        self._batched += len(batch)
        self._rng.shuffle(lines)
        self.put(b"[%b]" % b",".join(lines))

    def send_malformed(self, asked: Asked, message: bytes) -> None:
        """Send a message that is not a request and has no id: its error counts as a bare reply."""
        self._in_order.append(asked)
        self._note(asked)
        self.put(message)

    def to_cancel(self, rng: Random) -> Asked | None:
        """Choose one of the requests in flight that have an id."""
        asked = [asked for asked in self._by_id.values() if not asked.what.startswith("taskd.")]
        return rng.choice(asked) if asked else None

    def put(self, message: bytes) -> None:
        """Add a message to be sent by the next `flush`."""
        self._unsent.append(message)

    def flush(self) -> None:
        """Send the added messages."""
        if self._unsent and self.transport is not None:
            self.transport.write(self.framed(self._unsent))
            self._unsent = []

    def framed(self, messages: list[bytes]) -> bytes:
        """Return messages in their form on the wire."""
        raise NotImplementedError

    # --- replies ---

    def bare_received(self, message: bytes) -> None:
        """Handle a bare reply."""
        raise NotImplementedError

    def message_received(self, message: bytes) -> None:
        """Handle one message from the server."""
        if message.startswith(b'{"jsonrpc"'):
            self._rpc_received(_decode(message), message)
        elif message.startswith(b"["):
            self._batch_received(_decode(message), message)
        else:
            self.bare_received(message)

    def next_bare(self, message: bytes) -> Asked | None:
        """Return the request whose bare reply is due first."""
        if not self._in_order:
            self.ledger.violate(f"a reply that nobody is owed: {message!r:.300}")
            return None
        asked = self._in_order.popleft()
        self._was_read(asked)
        return asked

    def _was_read(self, asked: Asked) -> None:
        """Note that the server has read this request, and so what was sent before it."""
        self._read = max(self._read, asked.position)
        while self._notified and self._notified[0].position <= self._read:
            self._notified.popleft()

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
            return
        self._was_read(asked)
        if "error" in reply:
            error = reply["error"]
            self.ledger.failed(asked, error["code"], error.get("data"), error["message"])
        else:
            self.ledger.succeeded(asked, reply["result"])

    # --- the end ---

    def expect_end(self) -> None:
        """Expect the server to stop: it closes the connection once it has answered everything."""
        self.ending = Ending.OWED

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        owed = self.owed()
        if self.ending is Ending.OURS:
            for asked in [*owed, *self._notified]:
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
        """Drop the connection, whatever replies are due."""
        assert self.transport is not None
        self.flush()
        self.ending = Ending.OURS
        if reset:
            # Like a machine that was switched off and on: a RST instead of a FIN.
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def pause(self) -> None:
        """Stop reading for a while: times of replies are not measured from now on."""
        assert self.transport is not None
        self.paused = True
        self.transport.pause_reading()
        for asked in self.owed():
            asked.timed = False

    def resume(self) -> None:
        """Resume reading."""
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
        """Shut down the sending side: every reply that is due must arrive, and then the end."""
        assert self.transport is not None
        self.flush()
        self.ending = Ending.OWED
        for asked in self.owed():
            asked.is_cancelled = asked.is_cancelled or asked.on_disconnect
        self.transport.write_eof()

    def send_last(self, asked: Asked, data: bytes) -> None:
        """Send a message that the server answers with an error before it closes the connection."""
        assert self.transport is not None
        self._in_order.append(asked)
        self._note(asked)
        self.flush()
        self.ending = Ending.OWED
        self.transport.write(data)
