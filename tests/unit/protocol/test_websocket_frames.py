"""The frames of short texts: read and written by the protocol; all others are left alone."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.protocol.websocket_frames import read_texts, text_frame
from tests.unit.frames import BINARY, CONTINUED, LONGEST, PING, client_frame, masks, server_texts, utf8


class FrameTests(SynchronousTestCase):
    @given(st.lists(st.tuples(utf8, masks), max_size=5), st.integers(0, 30))
    def test_whole_text_frames_are_read_and_the_rest_is_left(self, sent, cut):
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

    def test_frames_that_are_long_invalid_or_not_text_are_left(self):
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
