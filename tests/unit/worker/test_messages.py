"""The messages between the daemon and its processes."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.worker.messages import (
    IS_SHORT,
    NULL,
    WANTS_PROGRESS,
    Attempt,
    Done,
    Exited,
    Failed,
    Fork,
    Forked,
    Interrupt,
    Loaded,
    LoadFailed,
    Probe,
    Ready,
    Reclaim,
    Reported,
    Returned,
    Signal,
    Stopped,
    WholeLines,
    WorkerConfig,
    decode_config,
    decode_from_fork_server,
    decode_from_worker,
    decode_to_fork_server,
    decode_to_worker,
    encode,
    encode_all,
)


class WholeLinesTests(SynchronousTestCase):
    def test_an_unfinished_line_waits_for_its_end(self):
        lines = WholeLines()
        received = [lines.receive(data) for data in (b"on", b"e", b"\ntwo\nthr", b"ee\n", b"four\n")]
        self.assertEqual(received, [b"", b"", b"one\ntwo\n", b"three\n", b"four\n"])

    @given(st.lists(st.binary(max_size=9) | st.sampled_from([b"\n", b"a\n", b"\n\nb"])))
    def test_whole_lines_are_returned_at_once_however_the_data_is_cut(self, pieces):
        lines, came, out = WholeLines(), b"", b""
        for piece in pieces:
            came += piece
            out += lines.receive(piece)
            self.assertEqual(out, came[: came.rfind(b"\n") + 1])


class MessageTests(SynchronousTestCase):
    """Each message that one end encodes is decoded unchanged by the other."""

    def test_messages_to_a_worker_are_decoded_unchanged(self):
        attempts = [
            Attempt(1, 1, "f", Raw(b'{"a":1}'), WANTS_PROGRESS | IS_SHORT),
            Attempt(2, 3, "g", NULL, 0),
        ]
        others = [Interrupt(1, 1, True), Interrupt(2, 3, False), Reclaim()]
        data = encode_all(attempts) + b"".join(map(encode, others))
        self.assertEqual(decode_to_worker(data), [*attempts, *others])
        self.assertEqual(data.count(b"\n"), 5)

    def test_messages_from_a_worker_are_decoded_unchanged(self):
        messages = [
            Ready(),
            Done(1, 0.5, True, Raw(b"[1]")),
            Failed(2, 0.5, False, -32000, "no", NULL, None),
            Failed(3, 0.5, False, -32000, "no", Raw(b'{"type":"E"}'), "trace\nback", True),
            Stopped(4, 1.5, False, None),
            Returned([5, 6]),
            Reported(7, 1, 2.5, "half"),
        ]
        data = b"".join(map(encode, messages))
        self.assertEqual(decode_from_worker(data), messages)
        self.assertEqual(data.count(b"\n"), len(messages))

    def test_messages_to_and_from_the_fork_server_are_decoded_unchanged(self):
        for message in Fork([(1, 0), (2, 1)]), Signal(1, 15, True), Probe():
            self.assertEqual(decode_to_fork_server(encode(message)), message)
        for message in (
            Loaded([]),
            LoadFailed("why"),
            Forked(1, 100),
            Forked(1, None, "no memory"),
            Exited(1, -9, 1000, True),
            Exited(1, 0, 1000),
        ):
            self.assertEqual(decode_from_fork_server(encode(message)), message)
        config = WorkerConfig(["app"], "/", "name", 10, "type", 2**30)
        self.assertEqual(decode_config(encode(config)), config)
