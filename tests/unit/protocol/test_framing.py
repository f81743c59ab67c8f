"""Text framing: bytes to messages, by docs/protocol.md."""

from itertools import pairwise
from unittest.mock import patch
from weakref import ref

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.lines import LinearLineReceiver
from taskd.protocol import framing
from taskd.protocol.framing import HEAD, MAX_MESSAGE, LineSplitter, LineTooLong

streams = st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\xc3\xa9", b"bcd", b"\r\n", b"\n\n"])).map(b"".join)
limits = st.integers(1, 12)


@st.composite
def chunked(draw, data=streams):
    """Draw a stream of bytes, and the same stream in pieces, some of them possibly empty."""
    stream = draw(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    bounds = [0, *cuts, len(stream)]
    return stream, [stream[start:end] for start, end in pairwise(bounds)]


def by_the_protocol(stream, limit):
    """Return the messages of a stream, how much is left over, and whether a message is too long."""
    *whole, rest = stream.split(b"\n")
    lines = []
    for piece in whole:
        if len(piece) + 1 > limit:
            return lines, None
        line = piece.rstrip(b"\r")
        if line:
            lines.append(line)
    # Data without an LF that is as long as the limit cannot be a message any more.
    return lines, len(rest) if len(rest) < limit else None


def split(chunks, limit):
    """Return the same, as found by a `LineSplitter`."""
    splitter = LineSplitter(limit)
    lines = []
    for chunk in chunks:
        try:
            lines += splitter.receive(chunk)
        except LineTooLong as error:
            return lines + error.lines, None
    return lines, splitter.unfinished


class LineSplitterTests(SynchronousTestCase):
    @given(chunked(), limits)
    @example((b"aa\naaa\n", [b"a", b"a\naaa\n"]), 3)
    @example((b"a\n\xc3\xa9", [b"a\n\xc3", b"\xa9"]), 2)
    def test_any_chunking_gives_the_messages_of_the_stream(self, stream_and_chunks, limit):
        stream, chunks = stream_and_chunks
        self.assertEqual(split(chunks, limit), by_the_protocol(stream, limit))

    @given(streams, limits)
    def test_one_byte_at_a_time_gives_the_messages_of_the_stream(self, stream, limit):
        chunks = [stream[at : at + 1] for at in range(len(stream))]
        self.assertEqual(split(chunks, limit), by_the_protocol(stream, limit))

    @given(chunked(st.binary(max_size=200)))
    def test_any_bytes_can_be_in_a_message(self, stream_and_chunks):
        stream, chunks = stream_and_chunks
        self.assertEqual(split(chunks, MAX_MESSAGE), by_the_protocol(stream, MAX_MESSAGE))

    def test_the_default_limit_is_ten_mebibytes(self):
        self.assertEqual(MAX_MESSAGE, 10_485_760)
        splitter = LineSplitter()
        line = b"x" * (MAX_MESSAGE - 1)
        self.assertEqual(splitter.receive(line + b"\n"), [line])
        self.assertRaises(LineTooLong, splitter.receive, line + b"x\n")

    def test_a_message_exactly_at_the_limit_passes(self):
        for chunks in [b"abcd\n"], [b"abcd", b"\n"], [b"ab", b"cd\n"], [b"x\nabcd\n"], [b"x\nab", b"cd\n"]:
            self.assertEqual(split(chunks, 5)[0][-1:], [b"abcd"], chunks)

    def test_a_message_one_byte_over_the_limit_is_refused(self):
        for chunks in [b"abcde\n"], [b"abcde", b"\n"], [b"abc", b"de\n"], [b"abcd", b"e"], [b"x\nabcde\n"]:
            self.assertEqual(split(chunks, 5)[1], None, chunks)

    def test_trailing_crs_count_towards_the_limit(self):
        self.assertEqual(split([b"abc\r\n"], 5), ([b"abc"], 0))
        self.assertEqual(split([b"abcd\r\n"], 5), ([], None))
        self.assertEqual(split([b"\r\r\r\r\r\n"], 5), ([], None))

    def test_the_limit_applies_to_each_message_and_not_to_each_read(self):
        stream = b"abcd\n" * 1000
        self.assertEqual(split([stream], 5), ([b"abcd"] * 1000, 0))
        self.assertEqual(split([b"ab", b"cd\n" + stream + b"ab"], 5), ([b"abcd"] * 1001, 2))

    def test_messages_before_one_over_the_limit_are_delivered_and_none_after_it(self):
        splitter = LineSplitter(5)
        self.assertEqual(splitter.receive(b"one\ntw"), [b"one"])
        error = self.assertRaises(LineTooLong, splitter.receive, b"o\n\r\nfour\nmuch too long\nsix\n")
        self.assertEqual(error.lines, [b"two", b"four"])
        self.assertEqual(error.limit, 5)
        self.assertIn("5 bytes", str(error))

    def test_a_message_over_the_limit_is_refused_before_its_end_arrives(self):
        splitter = LineSplitter(5)
        self.assertEqual(splitter.receive(b"abcd"), [])
        error = self.assertRaises(LineTooLong, splitter.receive, b"e")
        self.assertEqual(error.lines, [])
        error = self.assertRaises(LineTooLong, LineSplitter(5).receive, b"one\nabcde")
        self.assertEqual(error.lines, [b"one"])

    def test_blank_lines_are_ignored(self):
        self.assertEqual(split([b"\n\r\n\n\r\r\na\n\n", b"\n", b"\r", b"\n"], 100), ([b"a"], 0))

    def test_only_the_crs_before_the_lf_are_dropped(self):
        self.assertEqual(split([b"\ra\rb\r\r\n"], 100), ([b"\ra\rb"], 0))

    def test_the_splitter_counts_the_bytes_of_an_unfinished_message(self):
        splitter = LineSplitter()
        self.assertEqual(splitter.unfinished, 0)
        splitter.receive(b"abc")
        self.assertEqual(splitter.unfinished, 3)
        splitter.receive(b"\nde")
        self.assertEqual(splitter.unfinished, 2)
        splitter.receive(b"\n")
        self.assertEqual(splitter.unfinished, 0)

    def test_received_bytes_are_not_searched_again(self):
        with patch.object(framing, "bytearray", UnsearchableBuffer, create=True):
            splitter = LineSplitter()
            splitter.receive(b"[")
            for _ in range(1000):
                splitter.receive(b"1,")
            self.assertEqual(splitter.unfinished, 2001)
            self.assertEqual(splitter.receive(b"1]\n"), [b"[" + b"1," * 1000 + b"1]"])

    def test_the_buffer_grows_in_place_and_is_freed(self):
        buffers: list[ref[Buffer]] = []

        def make_buffer() -> Buffer:
            buffer = Buffer()
            buffers.append(ref(buffer))
            return buffer

        def sizes() -> list[int]:
            return [len(buffer) for buffer in [each() for each in buffers] if buffer is not None]

        with patch.object(framing, "bytearray", make_buffer, create=True):
            splitter = LineSplitter()
            splitter.receive(b"a")
            splitter.receive(b"b" * 100_000)
            self.assertEqual((sizes(), len(buffers)), ([100_001], 1))
            splitter.receive(b"\n")
            self.assertEqual(sizes(), [0])


class Buffer(bytearray):
    """A buffer to which there can be weak references."""


class UnsearchableBuffer(bytearray):
    """A buffer that fails if its old bytes are searched for an LF."""

    def _refuse(self, *args):
        raise AssertionError("searched again")

    find = rfind = index = rindex = split = rsplit = partition = rpartition = splitlines = count = _refuse
    __contains__ = __iter__ = __getitem__ = endswith = _refuse


class Receiver(LinearLineReceiver):
    """A receiver that records its lines."""

    MAX_LENGTH = 5

    def __init__(self):
        self.lines = []
        self.overlong = 0

    def lineReceived(self, line):
        self.lines.append(line)

    def lineLengthExceeded(self, line):
        self.overlong += 1
        super().lineLengthExceeded(line)


class LinearLineReceiverTests(SynchronousTestCase):
    def connected(self):
        receiver = Receiver()
        receiver.makeConnection(StringTransport())
        return receiver

    def test_the_limit_of_a_receiver_is_that_of_the_protocol(self):
        self.assertEqual(LinearLineReceiver.MAX_LENGTH, MAX_MESSAGE)

    @given(chunked(), limits)
    def test_a_receiver_delivers_the_messages_of_the_stream_one_by_one(self, stream_and_chunks, limit):
        stream, chunks = stream_and_chunks
        receiver = Receiver()
        receiver.MAX_LENGTH = limit
        receiver.makeConnection(StringTransport())
        for chunk in chunks:
            receiver.dataReceived(chunk)
        lines, rest = by_the_protocol(stream, limit)
        self.assertEqual(receiver.lines, lines)
        self.assertEqual(receiver.overlong, rest is None)
        self.assertEqual(receiver.unfinished, rest or 0)
        self.assertEqual(receiver.transport.disconnecting, rest is None)

    def test_the_lines_of_one_read_can_be_received_together(self):
        together = []
        receiver = self.connected()
        receiver.lines_received = together.append
        receiver.dataReceived(b"a\nb\nc")
        receiver.dataReceived(b"d")
        receiver.dataReceived(b"\n")
        self.assertEqual(together, [[b"a", b"b"], [b"cd"]])

    def test_a_line_that_is_too_long_is_reported_once_and_nothing_after_it_is_delivered(self):
        receiver = self.connected()
        receiver.dataReceived(b"one\nmuch too long\ntwo\n")
        receiver.dataReceived(b"three\n" * 10)
        self.assertEqual((receiver.lines, receiver.overlong), ([b"one"], 1))
        self.assertEqual(receiver.unfinished, 0)

    @given(chunked(), limits)
    def test_a_line_that_is_too_long_can_be_dropped_alone(self, given, limit):
        stream, chunks = given
        heads = []
        receiver = Receiver()
        receiver.MAX_LENGTH = limit
        receiver.drops = lambda head: heads.append(head) or True
        receiver.makeConnection(StringTransport())
        for chunk in chunks:
            receiver.dataReceived(chunk)
        *lines, rest = stream.split(b"\n")
        short = [line.rstrip(b"\r") for line in lines if len(line) < limit]
        self.assertEqual(receiver.lines, [line for line in short if line])
        self.assertEqual(receiver.unfinished, len(rest) if len(rest) < limit else 0)
        long = [line for line in [*lines, rest] if len(line) >= limit]
        self.assertEqual(len(heads), len(long))
        for head, line in zip(heads, long, strict=True):
            self.assertTrue(line.startswith(head))
            self.assertGreaterEqual(len(head), min(limit, HEAD))
        self.assertEqual(receiver.overlong, 0)

    def test_a_sent_line_ends_in_a_bare_lf(self):
        receiver = self.connected()
        receiver.sendLine(b"x")
        self.assertEqual(receiver.transport.value(), b"x\n")

    def test_raw_mode_is_not_supported(self):
        self.assertRaises(NotImplementedError, self.connected().setRawMode)

    def test_a_receiver_has_no_unfinished_message_before_it_is_connected(self):
        receiver = Receiver()
        self.assertEqual(receiver.unfinished, 0)
        receiver.dataReceived(b"a\n")
        self.assertEqual(receiver.lines, [])
