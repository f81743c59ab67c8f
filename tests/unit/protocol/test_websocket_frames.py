"""Short texts that are read and written past Autobahn: it would have read and written the same."""

import os

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.websocket_fastpath import TextServerProtocol
from taskd.protocol.websocket_frames import read_texts, text_frame

LONGEST = 3000
"""Bytes of the longest message in these tests."""

TEXT, BINARY, CONTINUED, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA


def client_frame(payload, opcode=TEXT, *, final=True, mask=b"\x01\xfe\x00\x80", length=None, rsv=0):
    """A frame as a client sends it; `length`: in how many bytes it says its length, if not in the fewest."""
    size = len(payload)
    first = bytes([(0x80 if final else 0) | rsv << 4 | opcode])
    bit = 0x80 if mask else 0
    if length == 8 or (length is None and size >= 65536):
        header = bytes([bit | 127]) + size.to_bytes(8)
    elif length == 2 or (length is None and size >= 126):
        header = bytes([bit | 126]) + size.to_bytes(2)
    else:
        header = bytes([bit | size])
    if mask:
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return first + header + (mask or b"") + payload


def server_texts(data):
    """The texts of a server's frames, of which there is nothing else."""
    texts = []
    while data:
        assert data[0] == 0x81, "a final text"
        size, start = data[1], 2
        assert size < 128, "not masked"
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start])
            assert size >= (126 if start == 4 else 65536), "the shortest way to say it"
        texts.append(data[start : start + size])
        assert len(texts[-1]) == size
        data = data[start + size :]
    return texts


texts = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(str.encode),
    st.sampled_from([0, 125, 126, 127, 500, LONGEST]).map(bytes),
)
utf8 = st.text(max_size=200).map(str.encode)
masks = st.binary(min_size=4, max_size=4)


class FrameTests(SynchronousTestCase):
    @given(st.lists(st.tuples(utf8, masks), max_size=5), st.integers(0, 30))
    def test_whole_texts_are_read_and_the_rest_is_left(self, sent, cut):
        frames = [client_frame(text, mask=mask) for text, mask in sent]
        data = b"".join(frames)[: -cut or None]
        read, end = read_texts(data, LONGEST)
        self.assertEqual(read, [text for text, _ in sent[: len(read)]])
        self.assertEqual(end, sum(map(len, frames[: len(read)])))
        if len(read) < len(sent):
            self.assertLess(len(data), end + len(frames[len(read)]))

    def test_a_text_may_be_as_long_as_the_limit(self):
        for size in (0, 1, 125, 126, LONGEST, 65535):
            frame = client_frame(b"x" * size)
            self.assertEqual(read_texts(frame, max(size, LONGEST)), ([b"x" * size], len(frame)))

    def test_what_is_not_short_or_not_a_text_or_wrong_is_left(self):
        first = client_frame(b"first")
        for frame in (
            client_frame(b"x" * (LONGEST + 1)),
            client_frame(b"x" * 100_000),
            client_frame(b"\xff"),
            client_frame("é".encode()[:1]),
            client_frame(b"x", BINARY),
            client_frame(b"x", CONTINUED),
            client_frame(b"x", PING),
            client_frame(b"x", final=False),
            client_frame(b"x", rsv=4),
            client_frame(b"a long one, so that its mask could be one", mask=None),
            client_frame(b"x" * 126, mask=None),
            client_frame(b"short", length=2),
            client_frame(b"x" * 200, length=8),
        ):
            self.assertEqual(read_texts(first + frame + first, LONGEST), ([b"first"], len(first)), frame[:20])
        self.assertEqual(read_texts(client_frame(b"x" * 65536), 100_000), ([], 0))

    @given(st.lists(st.one_of(utf8, st.sampled_from([125, 126, 65535, 65536, 70000]).map(bytes)), max_size=5))
    def test_the_frames_of_texts_are_those_of_the_protocol(self, sent):
        self.assertEqual(server_texts(b"".join(map(text_frame, sent))), sent)
        self.assertEqual(server_texts(b"".join(TextServerProtocol.frames(sent))), sent)


class Autobahn(WebSocketServerProtocol):
    """Notes what comes."""

    def __init__(self):
        super().__init__()
        self.events = []

    def onMessage(self, payload, isBinary):  # noqa: N803
        self.events.append((isBinary, payload))

    def onClose(self, wasClean, code, reason):  # noqa: N803
        self.events.append(("closed", code))


class Ours(TextServerProtocol):
    """Notes the same."""

    def __init__(self):
        super().__init__()
        self.events = []

    def texts_received(self, texts):
        self.events += [(False, text) for text in texts]

    def binary_received(self):
        self.events.append((True, None))

    def onClose(self, wasClean, code, reason):  # noqa: N803
        self.events.append(("closed", code))


class Transport(StringTransport):
    """Lets go of a producer that it does not have, as those of sockets do."""

    def unregisterProducer(self):
        self.producer = None


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def opened(kind):
    """A protocol of this kind behind its handshake."""
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
    protocol.dataReceived(HANDSHAKE)
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
    def test_whatever_comes_in_whatever_pieces_is_read_as_autobahn_reads_it(self, sent, cuts):
        data = b"".join(sent)
        theirs, ours = opened(Autobahn), opened(Ours)
        at = 0
        for cut in [*cuts, len(data)]:
            for protocol in (theirs, ours):
                protocol.dataReceived(data[at : at + cut])
            at += cut
        expected = [
            (is_binary, None if is_binary is True else payload) for is_binary, payload in theirs.events
        ]
        self.assertEqual(ours.events, expected)
        self.assertEqual(ours.transport.value(), theirs.transport.value())
        self.assertEqual(
            (ours.state, ours.transport.disconnecting), (theirs.state, theirs.transport.disconnecting)
        )

    def test_a_text_counts_as_the_answer_to_a_ping_as_it_does_with_autobahn(self):
        protocol = opened(Ours)
        protocol.autoPingInterval = protocol.autoPingTimeout = 20
        protocol._sendAutoPing()
        self.assertIsNotNone(protocol.autoPingTimeoutCall)
        protocol.dataReceived(client_frame(b"here I am"))
        self.assertIsNone(protocol.autoPingTimeoutCall)
        self.assertEqual(protocol.events, [(False, b"here I am")])
        protocol.autoPingPendingCall.cancel()

    def test_texts_are_written_in_few_pieces(self):
        protocol = opened(Ours)
        written = []
        protocol.transport.write = written.append
        few, many = [b"a", b"", "€".encode() * 100], [os.urandom(50_000), b"b", os.urandom(50_000)]
        for texts in (few, many):
            for data in protocol.frames(texts):
                protocol.write_frames(data)
        self.assertEqual(server_texts(b"".join(written)), few + many)
        self.assertEqual(len(written), 1 + len(many))

    def test_nothing_is_written_behind_a_close_frame(self):
        protocol = opened(Ours)
        protocol.sendClose(1000)
        before = protocol.transport.value()
        protocol.write_frames(text_frame(b"too late"))
        self.assertEqual(protocol.transport.value(), before)
