"""The ends of peers that are not read, as the kernel reports them."""

import socket
import struct

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from taskd.net.paused import (
    LONG,
    SILENCE,
    PausedConnections,
    acknowledged,
    arrived,
    descriptor_of,
    unacknowledged,
    unread,
)
from taskd.net.server_transport import ServerTransport
from taskd.scheduler.budget import Budget
from tests.unit.net.test_lingering import ReadingReactor


class Transport:
    """The transport of one real socket."""

    def __init__(self, sock):
        self.fileno = sock.fileno


class Owner:
    """The owner of a connection, which records what is reported."""

    depends_on_peer = reads_no_more = False

    def __init__(self, events, name=""):
        self.events = events
        self.name = name
        self.on_end = lambda: None

    def peer_has_ended(self):
        self.events.append(self.name + "ended")
        self.on_end()

    def peer_is_lost(self):
        self.events.append(self.name + "lost")

    def probe(self):
        self.events.append(self.name + "probe")

    def rest_is_refused(self):
        self.events.append(self.name + "refused")


def tcp_pair():
    """Return the two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    return ours, theirs


class PausedConnectionsTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = ReadingReactor()
        self.paused = PausedConnections(self.reactor, Budget())
        self.events = []

    def connect(self, pair=tcp_pair):
        ours, theirs = pair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        return ours, theirs

    def watch(self, sock, name=""):
        return self.paused.watch(Transport(sock), Owner(self.events, name))

    def reset(self, sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def test_the_end_is_seen_behind_data_that_is_unread(self):
        for pair in (tcp_pair, socket.socketpair):
            for end in (lambda peer: peer.shutdown(socket.SHUT_WR), lambda peer: peer.close()):
                ours, theirs = self.connect(pair)
                self.watch(ours)
                theirs.sendall(b"unread")
                self.paused.doRead()
                self.assertEqual(self.events, [])
                end(theirs)
                self.paused.doRead()
                self.paused.doRead()
                self.assertEqual(self.events, ["ended"], "reported once")
                self.assertEqual(ours.recv(100), b"unread")
                self.events.clear()

    def test_a_reset_is_seen_before_and_after_an_end(self):
        ours, theirs = self.connect()
        self.watch(ours)
        self.reset(theirs)
        self.paused.doRead()
        self.assertEqual(self.events, ["lost"])
        self.assertEqual(len(self.paused), 0)
        ours, theirs = self.connect()
        self.watch(ours)
        theirs.shutdown(socket.SHUT_WR)
        self.paused.doRead()
        self.reset(theirs)
        self.paused.doRead()
        self.assertEqual(self.events, ["lost", "ended", "lost"])

    def test_the_reactor_reads_while_and_only_while_there_is_something_to_watch(self):
        verifyObject(IReadDescriptor, self.paused)
        self.assertEqual(self.reactor.readers, [])
        one, two = self.watch(self.connect()[0]), self.watch(self.connect()[0])
        self.assertEqual(self.reactor.readers, [self.paused])
        one.stop()
        one.stop()
        self.assertEqual(self.reactor.readers, [self.paused])
        two.stop()
        self.assertEqual(self.reactor.readers, [])

    def test_a_watch_that_is_stopped_reports_nothing(self):
        ours, theirs = self.connect()
        self.watch(ours).stop()
        theirs.close()
        self.paused.doRead()
        self.assertEqual(self.events, [])

    def test_a_descriptor_that_was_closed_may_be_used_anew(self):
        ours, theirs = self.connect()
        old = self.watch(ours, "old ")
        number = ours.fileno()
        ours.close()
        replacement, peer = self.connect()
        if replacement.fileno() != number:
            peer = self.connect()[1]
        new = self.watch(replacement, "new ")
        old.stop()
        peer.close()
        theirs.close()
        self.paused.doRead()
        self.assertIn(self.events, (["new ended"], []))
        new.stop()
        self.assertEqual(len(self.paused), 0)

    def test_a_watch_stopped_by_the_report_of_another_reports_nothing(self):
        watches = []
        owner = Owner(self.events)
        owner.on_end = lambda: [watch.stop() for watch in watches]
        for _ in range(2):
            ours, theirs = self.connect()
            watches.append(self.paused.watch(Transport(ours), owner))
            theirs.close()
        self.paused.doRead()
        self.assertEqual(self.events, ["ended"])

    def test_a_failing_report_does_not_keep_back_the_next(self):
        ours, theirs = self.connect()
        owner = Owner([])
        owner.on_end = lambda: 1 / 0
        self.paused.watch(Transport(ours), owner)
        theirs.close()
        ours, theirs = self.connect()
        self.watch(ours)
        theirs.close()
        self.paused.doRead()
        self.assertEqual(self.events, ["ended"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_data_that_keeps_the_end_back_is_read_ahead_if_anything_depends_on_it(self):
        ours, theirs = self.connect()
        transport = ServerTransport(ours, Protocol(), ("127.0.0.1", 1), None, 0, self.reactor)
        transport.pauseProducing()
        owner = Owner(self.events)
        watch = self.paused.watch(transport, owner)
        theirs.sendall(b"unread")
        self.reactor.advance(LONG)
        self.assertNotIn(transport, self.reactor.readers)
        self.assertEqual((unread(transport), arrived(transport)), (6, 6))
        owner.depends_on_peer = True
        self.reactor.advance(LONG)
        self.assertIn(transport, self.reactor.readers)
        transport.doRead()
        self.assertEqual((unread(transport), arrived(transport)), (0, 6))
        watch.stop()
        self.reactor.advance(LONG)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        transport.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((unread(transport), unacknowledged(transport)), (0, 0))

    def fill(self, pair=tcp_pair):
        """Return a transport that is paused, whose peer sends more than is read ahead."""
        self.paused = PausedConnections(self.reactor, Budget(8 * 4))  # room for one byte
        ours, theirs = self.connect(pair)
        self.transport = ServerTransport(ours, Protocol(), ("127.0.0.1", 1), None, 0, self.reactor)
        self.transport.pauseProducing()
        owner = Owner(self.events)
        owner.depends_on_peer = True
        self.paused.watch(self.transport, owner)
        theirs.sendall(b"unread")
        self.look()
        return theirs

    def look(self):
        """Let time pass, and what has arrived be read."""
        self.reactor.advance(LONG)
        for _ in range(2):
            if self.transport in self.reactor.readers:
                self.transport.doRead()

    def test_more_than_is_read_ahead_of_a_silent_peer_is_refused(self):
        theirs = self.fill()
        theirs.sendall(b"more")
        for _ in range(int(SILENCE / LONG)):
            self.look()
        self.assertEqual((unread(self.transport), arrived(self.transport)), (0, 10))
        self.assertEqual(self.events, ["probe"], "the refusal follows behind what was read ahead")
        theirs.close()
        self.paused.doRead()
        self.assertEqual(self.events, ["probe", "ended"])
        self.transport.resumeProducing()
        self.reactor.advance(0)
        self.assertEqual(self.events[2:], ["refused"])

    def test_nothing_is_refused_of_a_peer_that_takes_its_replies(self):
        theirs = self.fill()
        theirs.sendall(b"more")
        for _ in range(10):
            before = acknowledged(self.transport)
            self.transport.write(b"reply")
            theirs.recv(5)
            self.assertEqual(acknowledged(self.transport), before + 5)
            self.look()
        self.assertEqual(unread(self.transport), 4)
        self.assertEqual(set(self.events), {"probe"})

    def test_a_closed_peer_resets_at_a_reply_although_its_end_is_kept_back(self):
        theirs = self.fill()
        theirs.setblocking(False)
        with self.assertRaises(BlockingIOError):
            while True:
                theirs.send(bytes(1 << 20))
        theirs.close()
        self.paused.doRead()
        self.assertNotIn("lost", self.events)
        self.transport.write(b"probe")
        self.paused.doRead()
        self.assertIn("lost", self.events)

    def test_nothing_is_read_ahead_of_a_unix_socket_whose_end_waits_behind_nothing(self):
        theirs = self.fill(socket.socketpair)
        self.look()
        self.assertEqual((unread(self.transport), self.events), (6, []))
        self.assertEqual(acknowledged(self.transport), 0)
        theirs.close()
        self.paused.doRead()
        self.assertEqual(self.events, ["ended"])

    def test_a_closed_transport_is_not_watched(self):
        ours, _ = self.connect()
        ours.close()
        self.assertIsNone(self.watch(ours))
        self.assertEqual(self.reactor.readers, [])

    def test_a_file_that_epoll_refuses_is_not_watched(self):
        with open("/dev/null") as file:
            self.assertIsNone(self.watch(file))
        self.assertEqual(self.reactor.readers, [])

    def test_the_loss_of_the_epoll_itself_means_nothing(self):
        self.paused.connectionLost(Failure(ConnectionDone()))

    def test_the_descriptor_is_found_below_tls(self):
        ours, _ = self.connect()
        wrapper = ProtocolWrapper(None, None)
        wrapper.transport = Transport(ours)
        self.assertEqual(descriptor_of(wrapper), ours.fileno())
        self.assertEqual(descriptor_of(object()), -1)
