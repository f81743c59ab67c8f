"""The lingering close: what comes after an answer is dropped, within bounds, before the socket is closed."""

import socket

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from taskd.net.lingering import MAX_DROPPED, MAX_LINGERING, MAX_LINGERING_SECONDS, Lingering
from taskd.net.server_transport import ServerTransport
from tests.unit.net.test_server_transport import HalfCloser
from tests.unit.sockets import FakeReactor, FakeSocket


class ReadingReactor(Clock):
    """A reactor that keeps its readers."""

    def __init__(self):
        super().__init__()
        self.readers = []

    def addReader(self, reader):
        assert reader.fileno() >= 0
        self.readers.append(reader)

    def removeReader(self, reader):
        assert reader.fileno() >= 0
        if reader in self.readers:
            self.readers.remove(reader)


class LingeringTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = ReadingReactor()
        self.lingering = Lingering(self.reactor)

    def take(self):
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        ours.setblocking(False)
        self.lingering.take(ours)
        return ours, theirs

    def assertGone(self, sock):
        self.assertLess(sock.fileno(), 0)
        self.assertEqual(len(self.lingering), 0)
        self.assertEqual(self.reactor.readers, [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_the_sending_side_is_shut_down_at_once(self):
        _, theirs = self.take()
        self.assertEqual(theirs.recv(1), b"")

    def test_data_is_dropped_until_the_peer_ends(self):
        ours, theirs = self.take()
        reader = self.reactor.readers[0]
        verifyObject(IReadDescriptor, reader)
        theirs.sendall(b"more")
        reader.doRead()
        reader.doRead()  # there is nothing: the event was for another
        self.assertGreaterEqual(ours.fileno(), 0)
        theirs.close()
        reader.doRead()
        self.assertGone(ours)

    def test_the_reactors_word_for_the_end_counts_too(self):
        ours, _ = self.take()
        self.reactor.readers[0].connectionLost(Failure(ConnectionDone()))
        self.assertGone(ours)

    def test_a_peer_that_stays_has_a_bounded_time(self):
        ours, _ = self.take()
        self.reactor.advance(MAX_LINGERING_SECONDS / 2)
        later, _ = self.take()
        self.reactor.advance(MAX_LINGERING_SECONDS / 2)
        self.assertLess(ours.fileno(), 0)
        self.assertGreaterEqual(later.fileno(), 0)
        self.reactor.advance(MAX_LINGERING_SECONDS / 2)
        self.assertGone(later)

    def test_a_peer_that_sends_for_ever_is_cut(self):
        ours, theirs = self.take()
        reader = self.reactor.readers[0]
        piece = bytes(65536)
        sent = 0
        while ours.fileno() >= 0:
            self.assertLess(sent, MAX_DROPPED + len(piece))
            sent += theirs.send(piece)
            reader.doRead()
        self.assertGone(ours)

    def test_a_connection_that_is_broken_does_not_linger(self):
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        ours.close()
        self.lingering.take(ours)
        self.assertGone(ours)

    def test_the_oldest_makes_room_for_one_too_many(self):
        first, _ = self.take()
        for _ in range(MAX_LINGERING):
            self.take()
        self.assertLess(first.fileno(), 0)
        self.assertEqual(len(self.lingering), MAX_LINGERING)

    def test_a_stop_waits_for_those_that_linger(self):
        self.lingering.stop_accepting()
        self.successResultOf(self.lingering.drain())
        self.take()
        closed = self.lingering.close()
        self.assertNoResult(closed)
        self.reactor.advance(MAX_LINGERING_SECONDS)
        self.successResultOf(closed)

    def test_an_impatient_stop_does_not(self):
        ours, _ = self.take()
        self.take()
        closed = self.lingering.close()
        self.lingering.abort()
        self.successResultOf(closed)
        self.assertGone(ours)


class RecordingLingering:
    def __init__(self):
        self.taken = []

    def take(self, sock):
        self.taken.append(sock)


class TransportTests(SynchronousTestCase):
    """Which closes of a transport are lingering ones."""

    def setUp(self):
        self.reactor = FakeReactor()
        self.socket = FakeSocket()
        self.lingering = RecordingLingering()
        self.protocol = HalfCloser()
        self.connection = ServerTransport(
            self.socket, self.protocol, ("127.0.0.1", 1), None, 0, self.reactor, self.lingering
        )

    def receive(self, data):
        self.socket.incoming.append(data)
        self.reactor.readable(self.connection)

    def test_a_close_of_this_side_lingers_once_everything_is_sent(self):
        self.socket.room = 0
        self.connection.write(b"answer")
        self.connection.loseConnection()
        self.assertEqual(self.lingering.taken, [])
        self.socket.room = 6
        self.reactor.writable(self.connection)
        self.assertEqual(self.lingering.taken, [self.socket])
        self.assertFalse(self.socket.closed)
        self.assertEqual(self.protocol.lost, [ConnectionDone])
        self.assertLess(self.connection.fileno(), 0)

    def test_a_close_in_answer_to_what_was_read_lingers(self):
        self.protocol.on_data = self.connection.loseConnection
        self.receive(b"nonsense")
        self.assertEqual(self.lingering.taken, [self.socket])
        self.assertEqual(self.protocol.lost, [ConnectionDone])

    def test_a_peer_that_has_ended_first_is_not_waited_for(self):
        self.receive(b"")
        self.connection.loseConnection()
        self.reactor.writable(self.connection)
        self.assertEqual((self.lingering.taken, self.socket.closed), ([], True))

    def test_an_abort_does_not_linger(self):
        self.connection.loseConnection()
        self.connection.abortConnection()
        self.reactor.advance(0)
        self.assertEqual((self.lingering.taken, self.socket.closed), ([], True))

    def test_a_broken_connection_does_not_linger(self):
        self.connection.loseConnection()
        self.socket.incoming.append(ConnectionResetError())
        self.connection.connectionLost(Failure(ConnectionResetError()))
        self.assertEqual((self.lingering.taken, self.socket.closed), ([], True))
