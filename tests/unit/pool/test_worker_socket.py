"""The socket to a worker: whole lines in, messages out, and its two ends."""

import socket
from errno import ECONNRESET, EPIPE

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from taskd.net.buffered_socket import READ_SIZE
from taskd.pool.worker_socket import WorkerSocket, shortened
from taskd.worker.messages import NULL, Failed, decode_from_worker
from tests.unit.sockets import MUCH, FakeReactor, FakeSocket


class WorkerSocketTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = FakeReactor()
        self.socket = FakeSocket()
        self.received = []
        self.closed = 0
        self.sizes = []
        self.reads_on = True
        self.open_channel()

    def open_channel(self):
        self.channel = WorkerSocket(
            self.reactor, self.socket, self.received.append, self.close, self.grows, self.arrived
        )

    def grows(self, size):
        self.sizes.append(size)
        return self.reads_on

    def arrived(self):
        self.received.append("arrived")

    def close(self):
        self.closed += 1

    def receive(self, *pieces):
        for piece in pieces:
            self.socket.incoming.append(piece)
            self.reactor.readable(self.channel)

    def test_a_worker_socket_provides_the_interface_of_a_reader_and_writer(self):
        verifyObject(IReadWriteDescriptor, self.channel)
        self.assertFalse(self.socket.blocking)
        self.assertIsInstance(self.channel.logPrefix(), str)

    def test_whole_lines_are_received_unchanged(self):
        self.receive(b"one\ntwo\n", b"thr", b"ee\nfo", b"ur", b"\n")
        self.assertEqual(self.received, [b"one\ntwo\n", b"three\n", b"four\n"])

    @given(st.lists(st.binary(min_size=1, max_size=5) | st.just(b"\n"), max_size=20))
    def test_lines_in_any_pieces_are_received_in_order(self, pieces):
        self.setUp()
        self.receive(*pieces)
        data = b"".join(pieces)
        self.assertEqual(b"".join(self.received), data[: data.rfind(b"\n") + 1])
        self.assertTrue(all(lines.endswith(b"\n") for lines in self.received))

    def test_a_spurious_read_event_changes_nothing(self):
        self.reactor.readable(self.channel)
        self.assertEqual((self.received, self.closed), ([], 0))

    def test_data_that_the_worker_does_not_read_at_once_is_sent_later(self):
        self.socket.room = 2
        self.channel.send(b"one\n")
        self.channel.send(b"two\n")
        self.assertEqual(self.socket.sent, b"on")
        self.socket.room = MUCH
        self.reactor.writable(self.channel)
        self.assertEqual(self.socket.sent, b"one\ntwo\n")
        self.assertFalse(self.reactor.writing)

    def test_sending_ends_after_unsent_data_is_flushed(self):
        self.channel.end_sending()
        self.assertEqual(self.socket.shut_down, [socket.SHUT_WR])
        self.setUp()
        self.socket.room = 0
        self.channel.send(b"one\n")
        self.channel.end_sending()
        self.assertEqual(self.socket.shut_down, [])
        self.socket.room = MUCH
        self.reactor.writable(self.channel)
        self.assertEqual((self.socket.sent, self.socket.shut_down), (b"one\n", [socket.SHUT_WR]))
        self.assertTrue(self.channel.connected)

    def test_receiving_can_be_ended_from_this_side(self):
        self.channel.end_receiving()
        self.assertEqual(self.socket.shut_down, [socket.SHUT_RD])

    def test_a_worker_that_is_gone_is_read_to_its_end(self):
        self.socket.error = OSError(EPIPE, "Broken pipe")
        self.channel.send(b"one\n")
        self.assertEqual(self.closed, 0)
        self.receive(b"last words\n", b"")
        self.assertEqual((self.received, self.closed), ([b"last words\n"], 1))
        self.assertTrue(self.socket.closed)

    def test_a_worker_that_is_gone_while_much_is_unsent_is_read_to_its_end(self):
        self.socket.room = 0
        self.channel.send(b"one\n")
        self.socket.error = OSError(EPIPE, "Broken pipe")
        self.reactor.writable(self.channel)
        self.assertFalse(self.reactor.writing)
        self.receive(b"last words\n", b"")
        self.assertEqual((self.received, self.closed), ([b"last words\n"], 1))

    def test_a_broken_socket_is_reported_once_and_then_left_alone(self):
        self.receive(OSError(ECONNRESET, "Connection reset by peer"))
        self.assertEqual(self.closed, 1)
        self.channel.send(b"late\n")
        self.channel.end_sending()
        self.channel.end_receiving()
        self.assertEqual((self.socket.sends, self.socket.shut_down, self.closed), (0, [], 1))

    # --- long lines ---

    def long(self, kind=b"done", value=b"x", size=5 * READ_SIZE):
        return b'["%b",3,0.5,false,"%b"]\n' % (kind, value * size)

    def receive_line(self, line, piece=READ_SIZE):
        self.receive(*[line[at : at + piece] for at in range(0, len(line), piece)])

    def test_the_size_of_a_long_line_is_reported_and_its_completion_before_it(self):
        line = self.long()
        self.receive_line(line)
        self.assertEqual(self.received, ["arrived", line])
        self.assertEqual(self.sizes, [READ_SIZE * n for n in range(2, 6)])
        self.receive(b"short\n")
        self.assertEqual(self.received[2:], [b"short\n"])

    def test_a_long_line_is_not_read_on_until_it_may_be(self):
        self.reads_on = False
        self.receive_line(self.long()[: 2 * READ_SIZE])
        self.assertFalse(self.reactor.reading)
        self.channel.read_on()
        self.assertTrue(self.reactor.reading)

    def test_a_socket_that_is_not_read_is_read_when_the_worker_has_ended(self):
        self.reads_on = False
        self.receive_line(self.long()[: 2 * READ_SIZE])
        self.channel.end_receiving()
        self.assertTrue(self.reactor.reading)

    def test_the_rest_of_a_long_result_can_be_dropped(self):
        for kind, instead in (
            (b"done", b'["dropped",3,0.5,false]\n'),
            (b"progress", b""),
        ):
            self.setUp()
            self.grows = lambda size: self.channel.drop_line() or True
            self.open_channel()
            line = self.long(kind)
            self.receive_line(line + b"short\nrest", READ_SIZE)
            self.receive(b" of it\n")
            self.assertEqual(
                b"".join(each for each in self.received if each != "arrived"),
                instead + b"short\nrest of it\n",
            )

    def test_a_dropped_line_may_be_the_last_one_of_a_read(self):
        for kind, instead in ((b"done", [b'["dropped",3,0.5,false]\n']), (b"progress", [])):
            self.setUp()
            self.grows = lambda size: self.channel.drop_line() or True
            self.open_channel()
            self.receive_line(self.long(kind))
            self.receive(b"short\n")
            self.assertEqual(self.received, [*instead, b"short\n"])

    def test_a_long_failure_keeps_its_code(self):
        line = b'["failed",3,0.5,true,-32000,"%b",null,null]\n' % (b"x" * 100)
        decoded = decode_from_worker(shortened(line))
        self.assertEqual(decoded, [Failed(3, 0.5, True, -32000, "its message was too long", NULL, None)])
