"""The limits at the edge: the rate of messages, connections in all and from one address, compression."""

import json
import os
import zlib
from types import SimpleNamespace

from autobahn.websocket.compress import PerMessageDeflateOffer
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.admission import Admission
from taskd.net.descriptors import ConnectionLimits
from taskd.net.log_rate import LINES_AT_ONCE
from taskd.net.websocket_compression import (
    LEAST_COMPRESSED,
    MOST_COMPRESSED,
    WINDOW_BITS,
    accepted,
    compressed_frame,
)
from taskd.net.websocket_fastpath import TOO_BIG
from tests.unit.frames import CLOSE, CONTINUED, TEXT, client_frame, compressed_frames
from tests.unit.listeners.test_tcp import EagerServer, ProtocolCase
from tests.unit.web.gateways import LONGEST, GatewayCase

CALL = b'{"function":"f"}\n'
COMPRESSED = 4
"""The bit of a compressed message, among the reserved bits of a frame."""


class MessageRateTests(ProtocolCase):
    def setUp(self):
        self.connect(EagerServer(), message_rate=10.0)

    def sent(self):
        return self.socket.sent.count(b"1\n")

    def test_a_client_that_keeps_to_the_rate_is_always_read(self):
        for _ in range(100):
            self.receive(CALL)
            self.assertTrue(self.reactor.reading)
            self.reactor.advance(0.1)
        self.assertEqual(self.sent(), 100)

    def test_a_burst_of_a_second_is_free_and_what_is_more_is_read_later(self):
        self.receive(CALL * 10)
        self.assertTrue(self.reactor.reading)
        self.receive(CALL * 5)
        self.assertEqual(self.sent(), 15)
        self.assertFalse(self.reactor.reading)
        self.reactor.advance(0.49)
        self.assertFalse(self.reactor.reading)
        self.reactor.advance(0.02)
        self.assertTrue(self.reactor.reading)
        self.receive(CALL)
        self.assertFalse(self.reactor.reading)

    def test_the_members_of_batches_count(self):
        batch = [{"jsonrpc": "2.0", "id": number, "method": "f"} for number in range(110)]
        self.receive(json.dumps(batch).encode() + b"\n")
        self.reactor.advance(9.9)
        self.assertFalse(self.reactor.reading)
        self.reactor.advance(0.2)
        self.assertTrue(self.reactor.reading)

    def test_messages_that_are_none_count_too(self):
        self.receive(b"{]\n" * 30)
        self.assertFalse(self.reactor.reading)

    def test_nothing_is_left_of_a_connection_that_ends_meanwhile(self):
        self.receive(CALL * 30)
        self.connection.abortConnection()
        self.reactor.advance(10)
        self.assertEqual(self.server.connections, 0)

    def test_a_connection_that_is_full_as_well_stays_unread(self):
        self.connect(EagerServer(), message_rate=10.0)
        self.socket.room = 0
        self.receive(b'{"function":"f"}\n' * 11)
        self.connection.high_water = 0
        peer = self.protocol.client
        peer.sender.pauseProducing()
        peer.sender.send(bytes(2 * 1024 * 1024))
        peer.flush()
        self.reactor.advance(1)
        self.assertFalse(peer.is_reading)


class AddressTests(SynchronousTestCase):
    def test_an_address_has_no_more_connections_than_one_may_have(self):
        admission = Admission(100, 2)
        for _ in range(2):
            self.assertFalse(admission.has_its_most("a"))
            admission.enter("a")
        self.assertTrue(admission.has_its_most("a"))
        self.assertFalse(admission.has_its_most("b"))
        admission.leave("a")
        self.assertFalse(admission.has_its_most("a"))

    def test_without_a_limit_no_address_has_its_most(self):
        admission = Admission(100)
        for _ in range(50):
            admission.enter("a")
        self.assertFalse(admission.has_its_most("a"))

    def test_a_number_of_connections_may_be_chosen_below_what_is_possible(self):
        limits = ConnectionLimits(100, 1, 1, 1024)
        self.assertIs(limits.at_most(None), limits)
        self.assertIs(limits.at_most(200), limits)
        self.assertEqual(limits.at_most(7).accepted, 7)
        self.assertIn("--max-connections", limits.at_most(7).why)
        self.assertIn("ulimit -n 1024", limits.why)


class CompressionTests(GatewayCase):
    compresses = True

    def websocket(self, extensions="permessage-deflate; client_max_window_bits"):
        client = self.connect()
        lines = (
            *("GET / HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"),
            *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"),
            f"Sec-WebSocket-Extensions: {extensions}",
        )
        client.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        client.head, _, client.socket.sent = client.socket.sent.partition(b"\r\n\r\n")
        return client

    @staticmethod
    def compressed(text):
        compressor = zlib.compressobj(9, zlib.DEFLATED, -WINDOW_BITS)
        data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(b"\0\0\xff\xff")

    def call(self, size):
        return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "f", "params": ["x" * size]}).encode()

    def test_messages_in_both_directions_are_compressed(self):
        client = self.websocket()
        self.assertIn(b"permessage-deflate", client.head)
        client.send(client_frame(self.compressed(self.call(5000)), rsv=COMPRESSED))
        self.assertEqual(self.backend.asked, [("f", ["x" * 5000])])
        self.backend.reply("y" * 5000)
        client.turns()
        sent = client.socket.sent
        self.assertEqual(sent[0], 0xC1)
        self.assertLess(len(sent), 200)
        self.assertIn(b"y" * 5000, text_of(sent))

    def test_short_messages_are_sent_as_they_are_and_read_fast(self):
        client = self.websocket()
        client.send(client_frame(self.call(1)))
        self.backend.reply("y")
        client.turns()
        self.assertEqual(client.socket.sent[0], 0x81)

    def test_a_message_that_is_too_long_when_it_is_unpacked_closes_its_websocket(self):
        for pieces in (1, 20):
            client = self.websocket()
            data = self.compressed(self.call(20 * LONGEST))
            size = len(data) // pieces + 1
            cut = [data[at : at + size] for at in range(0, len(data), size)]
            for number, piece in enumerate(cut):
                opcode, rsv = (CONTINUED, 0) if number else (TEXT, COMPRESSED)
                client.send(client_frame(piece, opcode, final=number == len(cut) - 1, rsv=rsv))
            client.turns()
            self.assertEqual(client.socket.sent[0] & 15, CLOSE)
            self.assertLessEqual(self.budget.held, 3 * LONGEST)
        self.assertEqual(self.backend.asked, [])

    def test_a_message_that_is_as_long_as_one_may_be_when_it_is_unpacked_is_taken(self):
        longest = LONGEST - 1
        for size, taken in ((longest, True), (longest + 1, False)):
            for pieces in (1, 2, 30):
                client = self.websocket()
                text = self.call(size - len(self.call(0)))
                self.assertEqual(len(text), size)
                client.send(b"".join(compressed_frames(text, pieces)))
                client.turns()
                self.assertEqual(len(self.backend.asked), int(taken), (size, pieces))
                if taken:
                    self.backend.reply(1)
                else:
                    self.assertEqual(int.from_bytes(client.socket.sent[2:4]), TOO_BIG)

    def test_the_limit_holds_with_a_release_that_cuts_off_what_is_too_long(self):
        def cut_off(data, **_):
            return compression._decompressor.decompress(data, compression.max_message_size)

        for pieces in (1, 20):
            client = self.websocket()
            compression = client.transport.protocol._perMessageCompress
            compression.decompress_message_data = cut_off
            client.send(b"".join(compressed_frames(self.call(20 * LONGEST), pieces)))
            client.turns()
            self.assertEqual(int.from_bytes(client.socket.sent[2:4]), TOO_BIG)
            self.assertLessEqual(self.budget.held, 3 * LONGEST)
        self.assertEqual(self.backend.asked, [])

    def test_messages_that_are_too_long_are_logged_at_a_bounded_rate(self):
        lines = []

        def note(event):
            if event.get("log_namespace") == "taskd.gateway":
                lines.append(formatEvent(event))

        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)
        head = b"\x81\xff" + LONGEST.to_bytes(8) + bytes(4)
        for _ in range(2 * LINES_AT_ONCE):
            client = self.websocket()
            client.send(head)
            client.leave()
        refused = [line for line in lines if "exceeds payload limit" in line]
        self.assertEqual(len(refused), LINES_AT_ONCE)

    def test_nothing_is_kept_from_one_message_to_the_next(self):
        client = self.websocket("permessage-deflate")
        for _ in range(2):
            client.send(client_frame(self.compressed(self.call(5000)), rsv=COMPRESSED))
            self.backend.reply("y" * 5000)
        compression = client.transport.protocol.websocket_extensions_in_use[0]
        held = [each for each in vars(compression).values() if "compress" in type(each).__name__.lower()]
        self.assertEqual(held, [])

    def test_invalid_compressed_data_closes_its_websocket(self):
        client = self.websocket()
        client.send(client_frame(b"\xff" * 40, rsv=COMPRESSED))
        client.turns()
        self.assertEqual(client.socket.sent[0] & 15, CLOSE)

    def test_long_random_texts_arrive_whatever_their_length(self):
        for size in (LEAST_COMPRESSED - 1, LEAST_COMPRESSED, 70_000, 300_000, MOST_COMPRESSED + 1):
            text = os.urandom(size // 2 + 1).hex().encode()[:size]
            self.assertEqual(text_of(compressed_frame(text, WINDOW_BITS)), text)

    def test_offers_that_cannot_be_bounded_are_not_accepted(self):
        self.assertIsNone(accepted(100, []))
        self.assertIsNone(accepted(100, [SimpleNamespace()]))
        self.assertIsNone(accepted(100, [PerMessageDeflateOffer(accept_no_context_takeover=False)]))
        for bits, expected in ((0, WINDOW_BITS), (9, 9), (15, WINDOW_BITS)):
            found = accepted(100, [PerMessageDeflateOffer(request_max_window_bits=bits)])
            self.assertEqual((found.window_bits, found.no_context_takeover), (expected, True))


class NoCompressionTests(GatewayCase):
    websocket = CompressionTests.websocket

    def test_nothing_is_compressed_unless_that_is_wanted(self):
        client = self.websocket()
        self.assertIn(b" 101 ", client.head)
        self.assertNotIn(b"permessage-deflate", client.head)
        client.send(client_frame(CompressionTests.compressed(b"{}" * 600), rsv=COMPRESSED))
        client.turns()
        self.assertEqual(client.socket.sent[0] & 15, CLOSE)


def text_of(frame):
    """Return the text of a server's frame, unpacked if it is compressed."""
    size, start = frame[1], 2
    if size >= 126:
        start = 4 if size == 126 else 10
        size = int.from_bytes(frame[2:start])
    payload = frame[start : start + size]
    assert len(payload) == size == len(frame) - start
    if frame[0] == 0x81:
        return payload
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(payload + b"\0\0\xff\xff")
