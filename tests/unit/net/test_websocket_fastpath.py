"""Short texts read and written without Autobahn, which would have read and written the same."""

import os

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.websocket_fastpath import (
    MAX_FRAMES,
    SLOW_SLICE,
    TOO_BIG,
    TextServerProtocol,
    reads_as_known,
)
from taskd.protocol.websocket_frames import text_frame
from tests.unit.frames import (
    BINARY,
    CLOSE,
    CONTINUED,
    LONGEST,
    PING,
    PONG,
    TEXT,
    client_frame,
    masks,
    server_texts,
    texts,
    utf8,
)


class Autobahn(WebSocketServerProtocol):
    """A protocol of Autobahn that records what arrives."""

    def __init__(self):
        super().__init__()
        self.events = []

    def onMessage(self, payload, isBinary):  # noqa: N803
        self.events.append((isBinary, payload))

    def onClose(self, wasClean, code, reason):  # noqa: N803
        self.events.append(("closed", code))


class Fast(TextServerProtocol):
    """A protocol with the fast path that records the same, and how many texts arrived at once."""

    def __init__(self):
        super().__init__()
        self.events = []
        self.batches = []

    def texts_received(self, texts):
        self.batches.append(len(texts))
        self.events += [(False, text) for text in texts]

    def binary_received(self):
        self.events.append((True, None))

    def onClose(self, wasClean, code, reason):  # noqa: N803
        self.events.append(("closed", code))


class Slow(Fast):
    """A protocol that records the same, without the fast path."""

    has_fast_path = False


class Transport(StringTransport):
    """A transport that accepts unregistering a missing producer, as those of sockets do."""

    def unregisterProducer(self):
        self.producer = None


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def opened(kind, handshake=HANDSHAKE):
    """Make a protocol of this kind whose handshake is done."""
    factory = WebSocketServerFactory(reactor=Clock())
    factory.protocol = kind
    factory.setProtocolOptions(
        maxFramePayloadSize=LONGEST,
        maxMessagePayloadSize=LONGEST,
        failByDrop=False,
        openHandshakeTimeout=0,
        closeHandshakeTimeout=0,
    )
    protocol = factory.buildProtocol(None)
    protocol.makeConnection(Transport())
    protocol.dataReceived(handshake)
    assert protocol.state == protocol.STATE_OPEN
    protocol.transport.clear()
    return protocol


frames = st.one_of(
    st.builds(client_frame, texts, mask=masks),
    st.builds(client_frame, utf8, mask=masks),
    st.builds(client_frame, utf8, mask=masks),
    st.builds(client_frame, texts, st.sampled_from([TEXT, BINARY, CONTINUED]), final=st.booleans()),
    st.builds(client_frame, st.binary(max_size=125), st.sampled_from([PING, PONG])),
    st.builds(client_frame, st.just(b"\x03\xe8bye"), st.just(CLOSE)),
    st.builds(client_frame, texts, mask=st.sampled_from([None, b"mask"]), rsv=st.sampled_from([0, 0, 4])),
    st.builds(client_frame, utf8, length=st.sampled_from([2, 8])),
    st.binary(max_size=20),
)
GOOD = [client_frame(b"one"), client_frame("zwei €".encode()), client_frame(b"x" * 130)]


class DifferenceTests(SynchronousTestCase):
    @given(st.lists(frames, max_size=8), st.lists(st.integers(0, 500), max_size=5))
    @example([*GOOD, client_frame(b"fra", final=False), *GOOD, client_frame(b"ment", CONTINUED), *GOOD], [])
    @example([client_frame(b"", PING), *GOOD, client_frame(b"\xff"), *GOOD], [3])
    @example([*GOOD, client_frame(b"\x03\xe8", CLOSE), *GOOD], [])
    def test_any_data_in_any_pieces_is_read_as_autobahn_reads_it(self, sent, cuts):
        data = b"".join(sent)
        protocols = theirs, *ours = [opened(kind) for kind in (Autobahn, Fast, Slow)]
        at = 0
        for cut in [*cuts, len(data)]:
            for protocol in protocols:
                protocol.dataReceived(data[at : at + cut])
            at += cut
        expected = [
            (is_binary, None if is_binary is True else payload) for is_binary, payload in theirs.events
        ]
        for protocol in ours:
            self.assertEqual(protocol.events, expected)
            self.assertEqual(protocol.transport.value(), theirs.transport.value())
            self.assertEqual(protocol.state, theirs.state)
            self.assertEqual(protocol.transport.disconnecting, theirs.transport.disconnecting)

    def test_a_handshake_longer_than_one_step_opens_the_websocket(self):
        handshake = HANDSHAKE[:-2] + b"Cookie: " + b"x" * 3 * SLOW_SLICE + b"\r\n\r\n"
        for kind in Fast, Slow:
            protocol = opened(kind, handshake)
            protocol.dataReceived(GOOD[0])
            self.assertEqual(protocol.events, [(False, b"one")])

    def test_a_text_counts_as_the_answer_to_a_ping_as_in_autobahn(self):
        for kind in Autobahn, Fast, Slow:
            protocol = opened(kind)
            protocol.autoPingTimeoutCall = Clock().callLater(20, lambda: None)
            protocol.dataReceived(client_frame(b"here I am"))
            self.assertIsNone(protocol.autoPingTimeoutCall)
            self.assertEqual(protocol.events, [(False, b"here I am")])

    def test_texts_are_written_in_few_pieces(self):
        protocol = opened(Fast)
        written = []
        protocol.transport.write = written.append
        few, many = [b"a", b"", "€".encode() * 100], [os.urandom(50_000), b"b", os.urandom(50_000)]
        for sent in (few, many):
            for data in protocol.frames(sent):
                protocol.write_frames(data)
        self.assertEqual(server_texts(b"".join(written)), few + many)
        self.assertEqual(len(written), 1 + len(many))

    @given(st.lists(st.one_of(utf8, st.sampled_from([125, 126, 65535, 65536, 70000]).map(bytes)), max_size=5))
    def test_the_written_pieces_are_the_frames_of_the_texts(self, sent):
        self.assertEqual(server_texts(b"".join(TextServerProtocol.frames(sent))), sent)

    def test_nothing_is_written_after_a_close_frame(self):
        protocol = opened(Fast)
        protocol.sendClose(1000)
        before = protocol.transport.value()
        protocol.write_frames(text_frame(b"too late"))
        self.assertEqual(protocol.transport.value(), before)


def keeps_elsewhere(attribute):
    """Make a protocol of an Autobahn in which this attribute never changes: its state is elsewhere."""
    still = property(lambda self: None, lambda self, value: None)
    return type("Unknown", (WebSocketServerProtocol,), {attribute: still})


class UnknownReleaseTests(SynchronousTestCase):
    def test_the_fast_path_works_with_the_installed_autobahn(self):
        self.assertTrue(reads_as_known(WebSocketServerProtocol))
        self.assertTrue(TextServerProtocol.has_fast_path)

    def test_an_autobahn_release_with_its_state_elsewhere_is_detected(self):
        self.assertFalse(reads_as_known(keeps_elsewhere("inside_message")))
        self.assertFalse(reads_as_known(keeps_elsewhere("state")))

    def test_an_autobahn_release_whose_reading_fails_is_detected(self):
        class Broken(WebSocketServerProtocol):
            def dataReceived(self, data):
                raise ZeroDivisionError

        class Renamed(WebSocketServerProtocol):
            def dataReceived(self, data):
                super().dataReceived(data)
                self.__dict__.pop("autoPingTimeoutCall")

        self.assertFalse(reads_as_known(Broken))
        self.assertFalse(reads_as_known(Renamed))

    def test_without_the_fast_path_autobahn_reads_everything(self):
        protocol = opened(Slow)
        protocol.dataReceived(b"".join(GOOD))
        self.assertEqual(protocol.batches, [1] * len(GOOD))
        protocol = opened(Fast)
        protocol.dataReceived(b"".join(GOOD))
        self.assertEqual(protocol.batches, [len(GOOD)])


class StepTests(SynchronousTestCase):
    """Frames that Autobahn reads a few at a time, and that are bounded in number."""

    def test_a_step_reads_few_frames_but_a_long_payload_whole(self):
        steps = []

        class Stepping(Fast):
            def more_is_unread(self):
                while self.has_unread:
                    steps.append(len(self.events))
                    self.read_more()

        protocol = opened(Stepping)
        protocol.dataReceived(client_frame(b"", PING) * 10_000)
        self.assertEqual(len(steps), 60_000 // SLOW_SLICE)
        steps.clear()
        protocol.dataReceived(client_frame(bytes(LONGEST), BINARY))
        self.assertEqual((steps, protocol.events), ([], [(True, None)]))

    def test_data_that_arrives_while_more_is_unread_waits_behind_it(self):
        class Waiting(Fast):
            def more_is_unread(self):
                pass

        protocol = opened(Waiting)
        protocol.dataReceived(client_frame(b"", PING) * 1000)
        protocol.dataReceived(client_frame(b"last"))
        self.assertEqual(protocol.events, [])
        while protocol.has_unread:
            protocol.read_more()
        self.assertEqual(protocol.events, [(False, b"last")])

    def test_a_message_in_too_many_frames_is_refused(self):
        protocol = opened(Fast)
        frame = client_frame(b"", CONTINUED, final=False)
        protocol.dataReceived(client_frame(b"", TEXT, final=False) + frame * (MAX_FRAMES - 1))
        self.assertEqual(protocol.transport.value(), b"")
        protocol.dataReceived(frame)
        self.assertIn(TOO_BIG.to_bytes(2), protocol.transport.value())

    def test_a_closed_websocket_keeps_nothing(self):
        protocol = opened(Fast)
        protocol.dropConnection()
        protocol.dataReceived(client_frame(b"", PING) * 1000)
        self.assertFalse(protocol.has_unread or protocol.data)
