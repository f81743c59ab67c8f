"""The transport of accepted connections: what it passes to the kernel and reports to the protocol."""

import socket
import struct
from errno import ECONNRESET, EPIPE

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IPushProducer,
    IReadWriteDescriptor,
    ITransport,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from taskd.net.buffered_socket import HIGH_WATER, READ_SIZE
from taskd.net.read_ahead import AHEAD_PART, DROPPED, AheadRoom
from taskd.net.server_transport import ServerTransport
from taskd.scheduler.budget import MAX_BUFFERED, Budget
from tests.unit.sockets import MUCH, FakeReactor, FakeSocket


class Recorder:
    """A protocol that records its calls, and then calls `on_data` or `on_end`."""

    def __init__(self):
        self.received = b""
        self.lost = []
        self.transport = None
        self.on_data = self.on_lost = lambda: None

    def dataReceived(self, data):
        self.received += data
        self.on_data()

    def connectionLost(self, reason):
        self.lost.append(reason.type)
        self.on_lost()


@implementer(IHalfCloseableProtocol)
class HalfCloser(Recorder):
    def __init__(self):
        super().__init__()
        self.ended = 0
        self.on_end = lambda: None

    def readConnectionLost(self):
        self.ended += 1
        self.on_end()

    def writeConnectionLost(self):
        raise AssertionError


@implementer(IPushProducer)
class FakeProducer:
    def __init__(self):
        self.events = []
        self.on_resume = lambda: None

    def pauseProducing(self):
        self.events.append("pause")

    def resumeProducing(self):
        self.events.append("resume")
        self.on_resume()

    def stopProducing(self):
        self.events.append("stop")


class ConnectionTestCase(SynchronousTestCase):
    protocol_class = HalfCloser

    def setUp(self):
        self.reactor = FakeReactor()
        self.socket = FakeSocket()
        self.protocol = self.protocol_class()
        self.connection = self.protocol.transport = self.connect()

    def connect(self, client=("127.0.0.1", 1)):
        return ServerTransport(self.socket, self.protocol, client, None, 0, self.reactor)

    def receive(self, *data):
        """Receive these pieces, one with each read."""
        for piece in data:
            self.socket.incoming.append(piece)
            self.reactor.readable(self.connection)

    def make_room(self, room=MUCH):
        self.socket.room = room
        self.reactor.writable(self.connection)


class InterfaceTests(ConnectionTestCase):
    def test_a_transport_provides_the_interfaces_of_reactors_and_protocols(self):
        for interface in (
            IReadWriteDescriptor,
            IHalfCloseableDescriptor,
            ITransport,
            IConsumer,
            IPushProducer,
        ):
            verifyObject(interface, self.connection)

    def test_a_transport_reads_from_the_start_and_never_blocks(self):
        self.assertTrue(self.reactor.reading)
        self.assertFalse(self.reactor.writing)
        self.assertFalse(self.socket.blocking)

    def test_addresses_are_those_of_their_family(self):
        self.assertEqual(self.connection.getPeer(), IPv4Address("TCP", "127.0.0.1", 1))
        self.assertEqual(self.connection.getHost(), IPv4Address("TCP", "127.0.0.1", 12345))
        self.assertEqual(self.connect(("::1", 2, 0, 3)).getPeer(), IPv6Address("TCP", "::1", 2, 0, 3))
        self.assertEqual(self.connect("").getPeer(), UNIXAddress(None))
        self.assertEqual(self.connect("/a/path").getPeer(), UNIXAddress("/a/path"))

    def test_the_peer_is_known_when_the_connection_is_lost(self):
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.connection.getPeer().port, 1)
        self.assertEqual(self.connection.fileno(), -1)
        self.assertIsInstance(self.connection.logPrefix(), str)


class WritingTests(ConnectionTestCase):
    def test_data_that_the_kernel_takes_is_sent_at_once(self):
        before = self.reactor.changes
        self.connection.write(b"one")
        self.connection.writeSequence([b"two", b"three"])
        self.assertEqual(self.socket.sent, b"onetwothree")
        self.assertEqual(self.socket.sends, 2)
        self.assertEqual(self.reactor.changes, before)
        self.assertTrue(self.connection.flushed)

    def test_data_that_the_kernel_does_not_take_is_sent_when_there_is_room(self):
        self.socket.room = 2
        self.connection.write(b"one")
        self.connection.write(b"two")
        self.assertEqual(self.socket.sent, b"on")
        self.assertEqual(self.socket.sends, 1)
        self.assertFalse(self.connection.flushed)
        self.make_room(1)
        self.assertTrue(self.reactor.writing)
        self.make_room()
        self.assertEqual(self.socket.sent, b"onetwo")
        self.assertFalse(self.reactor.writing)
        self.assertTrue(self.connection.flushed)
        self.connection.write(b"three")
        self.assertEqual(self.socket.sent, b"onetwothree")

    def test_a_spurious_write_event_changes_nothing(self):
        self.socket.room = 0
        self.connection.write(b"one")
        self.make_room(0)
        self.assertEqual(self.protocol.lost, [])
        self.assertTrue(self.reactor.writing)
        self.make_room()
        self.assertEqual(self.socket.sent, b"one")

    def test_a_connection_that_cannot_be_written_to_is_lost_in_the_next_turn(self):
        self.socket.error = OSError(EPIPE, "Broken pipe")
        self.connection.write(b"one")
        self.assertEqual(self.protocol.lost, [])
        self.reactor.writable(self.connection)
        self.assertEqual(self.protocol.lost, [ConnectionLost])
        self.assertTrue(self.socket.closed)

    def test_nothing_is_written_to_a_lost_connection(self):
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.connection.write(b"one")
        self.connection.writeSequence([b"two"])
        self.assertEqual(self.socket.sends, 0)

    def test_only_bytes_can_be_written(self):
        self.assertRaises(TypeError, self.connection.write, "text")
        self.socket.room = 0
        self.connection.write(b"one")
        self.assertRaises(TypeError, self.connection.write, "text")

    @given(
        st.lists(
            st.binary(max_size=20).map(lambda data: ("write", data))
            | st.integers(0, 30).map(lambda room: ("room", room)),
            max_size=30,
        )
    )
    def test_everything_arrives_in_order_and_then_the_close(self, steps):
        self.setUp()
        self.socket.room = 0
        written = b""
        for kind, what in steps:
            if kind == "write":
                self.connection.write(what)
                written += what
            else:
                self.socket.room = what
                if self.reactor.writing:
                    self.reactor.writable(self.connection)
            self.assertTrue(written.startswith(self.socket.sent))
            self.assertEqual(self.reactor.writing, not self.connection.flushed)
        self.connection.loseConnection()
        self.make_room()
        self.assertEqual(self.socket.sent, written)
        self.assertEqual(self.protocol.lost, [ConnectionDone])


class ReadingTests(ConnectionTestCase):
    def test_received_data_is_passed_to_the_protocol(self):
        self.receive(b"one", b"two")
        self.assertEqual(self.protocol.received, b"onetwo")

    def test_a_spurious_read_event_changes_nothing(self):
        self.reactor.readable(self.connection)
        self.assertEqual((self.protocol.received, self.protocol.lost), (b"", []))
        self.assertTrue(self.reactor.reading)

    def test_a_reset_is_a_lost_connection(self):
        self.receive(OSError(ECONNRESET, "Connection reset by peer"))
        self.assertEqual(self.protocol.lost, [ConnectionLost])
        self.assertEqual(self.protocol.ended, 0)

    def test_reading_can_be_paused(self):
        self.connection.pauseProducing()
        self.assertFalse(self.reactor.reading)
        self.connection.resumeProducing()
        self.assertTrue(self.reactor.reading)

    def test_an_exception_in_a_protocol_ends_only_its_connection(self):
        def fail():
            raise ZeroDivisionError

        self.protocol.on_data = fail
        self.receive(b"one")
        self.assertEqual(self.protocol.lost, [ZeroDivisionError])
        self.assertTrue(self.socket.closed)

    def test_a_protocol_with_half_close_may_go_on_after_the_peer_ends_sending(self):
        self.receive(b"one", b"")
        self.assertEqual((self.protocol.ended, self.protocol.lost), (1, []))
        self.assertFalse(self.reactor.reading)
        self.connection.write(b"two")
        self.assertEqual(self.socket.sent, b"two")
        self.connection.loseConnection()
        self.reactor.writable(self.connection)
        self.assertEqual(self.protocol.lost, [ConnectionDone])

    def test_a_protocol_that_closes_when_the_peer_ends_sending_is_closed_in_the_same_turn(self):
        self.protocol.on_end = self.connection.loseConnection
        self.receive(b"")
        self.assertEqual(self.protocol.lost, [ConnectionDone])
        self.assertTrue(self.socket.closed)
        self.assertFalse(self.reactor.writing)

    def test_an_exception_when_the_peer_ends_sending_ends_the_connection(self):
        def fail():
            raise ZeroDivisionError

        self.protocol.on_end = fail
        self.receive(b"")
        self.assertEqual(self.protocol.lost, [ZeroDivisionError])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_write_connection_lost_ends_the_connection(self):
        self.connection.writeConnectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.protocol.lost, [ConnectionDone])


class WholeCloseTests(ConnectionTestCase):
    protocol_class = Recorder

    def test_a_protocol_without_half_close_loses_its_connection_when_the_peer_ends_sending(self):
        self.receive(b"one", b"")
        self.assertEqual(self.protocol.lost, [ConnectionDone])


class ClosingTests(ConnectionTestCase):
    def test_a_connection_is_closed_in_the_next_turn(self):
        self.connection.loseConnection()
        self.assertEqual(self.protocol.lost, [])
        self.assertFalse(self.reactor.reading)
        self.reactor.writable(self.connection)
        self.assertEqual(self.protocol.lost, [ConnectionDone])
        self.assertTrue(self.socket.closed)

    def test_a_connection_is_closed_after_unsent_data_is_flushed(self):
        self.socket.room = 2
        self.connection.write(b"one")
        self.connection.loseConnection()
        self.connection.loseConnection()
        self.make_room(0)
        self.assertEqual(self.protocol.lost, [])
        self.make_room()
        self.assertEqual((self.socket.sent, self.protocol.lost), (b"one", [ConnectionDone]))

    def test_a_protocol_that_closes_while_it_receives_gets_connection_lost_afterwards(self):
        called = []

        def close():
            self.connection.write(b"last")
            self.connection.loseConnection()
            called.append(list(self.protocol.lost))

        self.protocol.on_data = close
        self.receive(b"one")
        self.assertEqual(called, [[]])
        self.assertEqual((self.socket.sent, self.protocol.lost), (b"last", [ConnectionDone]))
        self.assertEqual(self.protocol.ended, 0)

    def test_a_protocol_that_closes_while_it_receives_still_sends_what_it_wrote(self):
        def close():
            self.connection.write(b"last")
            self.connection.loseConnection()

        self.socket.room = 0
        self.protocol.on_data = close
        self.receive(b"one")
        self.assertEqual(self.protocol.lost, [])
        self.assertFalse(self.reactor.reading)
        self.make_room()
        self.assertEqual((self.socket.sent, self.protocol.lost), (b"last", [ConnectionDone]))

    def test_data_written_after_the_close_is_not_sent(self):
        def close():
            self.connection.loseConnection()
            self.connection.write(b"late")

        self.protocol.on_data = close
        self.receive(b"one")
        self.assertEqual((self.socket.sent, self.protocol.lost), (b"", [ConnectionDone]))

    def test_a_closing_connection_is_not_read_again(self):
        self.connection.stopProducing()
        self.connection.resumeProducing()
        self.assertFalse(self.reactor.reading)

    def test_an_abort_resets_the_connection_in_the_next_turn(self):
        self.socket.room = 0
        self.connection.write(b"one")
        self.connection.abortConnection()
        self.connection.abortConnection()
        self.assertEqual(self.protocol.lost, [])
        self.assertFalse(self.reactor.reading or self.reactor.writing)
        self.reactor.advance(0)
        self.assertEqual(self.protocol.lost, [ConnectionAborted])
        self.assertEqual(self.socket.options, {socket.SO_LINGER: struct.pack("ii", 1, 0)})
        self.assertTrue(self.socket.closed)
        self.assertEqual(self.socket.sent, b"")

    def test_calls_after_an_abort_have_no_effect(self):
        self.connection.abortConnection()
        self.connection.write(b"one")
        self.connection.loseConnection()
        self.connection.pauseProducing()
        self.connection.resumeProducing()
        self.assertIsNone(self.connection.doWrite())
        self.assertFalse(self.reactor.reading or self.reactor.writing)
        self.assertEqual(self.socket.sends, 0)

    def test_a_protocol_that_aborts_while_it_receives_gets_connection_lost_in_the_next_turn(self):
        self.protocol.on_data = self.connection.abortConnection
        self.receive(b"one")
        self.assertEqual(self.protocol.lost, [])
        self.reactor.advance(0)
        self.assertEqual(self.protocol.lost, [ConnectionAborted])

    def test_the_end_is_reported_once(self):
        self.protocol.on_lost = self.connection.abortConnection
        self.connection.abortConnection()
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.connection.loseConnection()
        self.reactor.advance(0)
        self.assertEqual(self.protocol.lost, [ConnectionLost])


class ProducerTests(ConnectionTestCase):
    def setUp(self):
        super().setUp()
        self.producer = FakeProducer()
        self.connection.registerProducer(self.producer, True)

    def test_a_producer_is_paused_above_the_high_water_mark_and_resumed_when_all_is_sent(self):
        self.socket.room = 0
        self.connection.write(b"x" * HIGH_WATER)
        self.assertEqual(self.producer.events, [])
        self.connection.write(b"x")
        self.connection.write(b"x")
        self.assertEqual(self.producer.events, ["pause"])
        self.make_room(HIGH_WATER)
        self.assertEqual(self.producer.events, ["pause"])
        self.make_room()
        self.assertEqual(self.producer.events, ["pause", "resume"])

    def test_a_producer_is_not_paused_while_the_kernel_takes_everything(self):
        self.connection.write(b"x" * 10 * HIGH_WATER)
        self.assertEqual(self.producer.events, [])

    def test_a_producer_may_write_more_than_fits_when_it_is_resumed(self):
        self.socket.room = 0
        self.producer.on_resume = lambda: self.connection.write(b"y" * (HIGH_WATER + 1))
        self.connection.write(b"x" * (HIGH_WATER + 1))
        self.make_room(HIGH_WATER + 1)
        self.assertEqual(self.producer.events, ["pause", "resume", "pause"])
        self.assertTrue(self.reactor.writing)
        self.producer.on_resume = lambda: None
        self.make_room()
        self.assertFalse(self.reactor.writing)
        self.assertEqual(len(self.socket.sent), 2 * (HIGH_WATER + 1))

    def test_a_producer_may_abort_when_it_is_resumed(self):
        self.socket.room = 0
        self.producer.on_resume = self.connection.abortConnection
        self.connection.write(b"x" * (HIGH_WATER + 1))
        self.make_room()
        self.reactor.advance(0)
        self.assertEqual(self.protocol.lost, [ConnectionAborted])

    def test_an_unregistered_producer_is_not_called(self):
        self.socket.room = 0
        self.connection.write(b"x" * (HIGH_WATER + 1))
        self.connection.unregisterProducer()
        self.make_room()
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.producer.events, ["pause"])

    def test_a_producer_is_stopped_when_the_connection_is_lost(self):
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.producer.events, ["stop"])
        late = FakeProducer()
        self.connection.registerProducer(late, True)
        self.assertEqual(late.events, ["stop"])

    def test_only_one_producer_at_a_time_and_only_a_push_producer_is_accepted(self):
        self.assertRaises(RuntimeError, self.connection.registerProducer, FakeProducer(), True)
        self.connection.unregisterProducer()
        self.assertRaises(ValueError, self.connection.registerProducer, FakeProducer(), False)


class ReadAheadTests(ConnectionTestCase):
    """Reading on while the protocol has paused the transport, so that the peer's end arrives."""

    def setUp(self):
        super().setUp()
        self.budget = Budget()
        self.room = AheadRoom(self.budget)
        self.connection.pauseProducing()
        self.connection.read_ahead(self.room)

    def turn(self):
        self.reactor.advance(0)

    def test_data_read_ahead_waits_for_the_protocol(self):
        self.receive(b"one", b"two")
        self.assertEqual((self.protocol.received, self.connection.ahead), (b"", 6))
        self.assertEqual(self.budget.held, 6)
        self.connection.resumeProducing()
        self.assertEqual(self.protocol.received, b"")
        self.turn()
        self.assertEqual(self.protocol.received, b"onetwo")
        self.receive(b"three")
        self.assertEqual(self.protocol.received, b"onetwothree")
        self.assertEqual(self.budget.held, 0)
        self.assertEqual((self.room.free, self.connection.ahead), (MAX_BUFFERED // AHEAD_PART, 0))

    def test_the_end_is_reported_behind_what_came_before(self):
        self.receive(b"one", b"")
        self.assertEqual(self.protocol.ended, 0)
        self.connection.resumeProducing()
        self.turn()
        self.assertEqual((self.protocol.received, self.protocol.ended), (b"one", 1))

    def test_no_more_is_passed_on_at_once_than_would_be_read(self):
        sizes = []
        self.receive(*[bytes(READ_SIZE)] * 3)
        self.protocol.on_data = lambda: sizes.append(len(self.protocol.received))
        self.connection.resumeProducing()
        self.turn()
        self.assertEqual(sizes, [READ_SIZE, 2 * READ_SIZE, 3 * READ_SIZE])

    def test_a_protocol_that_pauses_again_gets_no_more(self):
        self.receive(b"a" * READ_SIZE, b"b")
        self.protocol.on_data = self.connection.pauseProducing
        self.connection.resumeProducing()
        self.turn()
        self.turn()
        self.assertEqual(self.protocol.received, b"a" * READ_SIZE)
        self.connection.read_ahead(self.room)
        self.receive(b"c")
        self.protocol.on_data = lambda: None
        self.connection.resumeProducing()
        self.turn()
        self.assertEqual(self.protocol.received[READ_SIZE:], b"bc")

    def test_one_connection_takes_a_share_of_the_room_alone(self):
        self.room.free = 8 * READ_SIZE
        self.receive(bytes(READ_SIZE))
        self.assertTrue(self.reactor.reading)
        self.receive(bytes(READ_SIZE))
        self.assertFalse(self.reactor.reading)
        self.connection.read_ahead(self.room)
        self.assertFalse(self.reactor.reading)

    def test_data_of_no_use_is_counted_and_dropped(self):
        self.connection = self.protocol.transport = self.connect()
        self.connection.pauseProducing()
        self.connection.read_ahead(self.room, drops=True)
        for _ in range(DROPPED // READ_SIZE):
            self.assertTrue(self.reactor.reading)
            self.receive(bytes(READ_SIZE))
        self.assertFalse(self.reactor.reading)
        self.assertEqual((self.connection.ahead, self.room.free), (DROPPED, MAX_BUFFERED // AHEAD_PART))

    def test_more_is_dropped_whenever_it_is_asked_for(self):
        self.connection = self.protocol.transport = self.connect()
        self.connection.pauseProducing()
        for _ in range(2):
            self.connection.read_ahead(self.room, drops=True)
            self.assertTrue(self.reactor.reading)
            self.receive(*[bytes(READ_SIZE)] * (DROPPED // READ_SIZE))
            self.assertFalse(self.reactor.reading)

    def refuse(self):
        """Have the rest refused behind what fills the room."""
        self.room.free = 8 * READ_SIZE
        self.receive(b"a" * READ_SIZE, b"b" * READ_SIZE)
        self.assertTrue(self.connection.is_full_ahead)
        self.refused = []
        self.connection.refuse_rest(lambda: self.refused.append(len(self.protocol.received)))
        self.assertFalse(self.connection.is_full_ahead)
        self.assertTrue(self.reactor.reading)

    def test_the_rest_is_refused_behind_what_was_read_ahead(self):
        self.refuse()
        self.receive(b"c")
        self.connection.resumeProducing()
        self.turn()
        self.turn()
        self.assertEqual(self.protocol.received, b"a" * READ_SIZE + b"b" * READ_SIZE)
        self.assertEqual((self.refused, self.budget.held), ([2 * READ_SIZE], 0))
        self.connection.pauseProducing()
        self.connection.read_ahead(self.room)
        self.receive(b"d", b"")
        self.connection.resumeProducing()
        self.turn()
        self.assertEqual((len(self.protocol.received), self.protocol.ended), (2 * READ_SIZE, 0))
        self.assertEqual(len(self.refused), 1)
        self.connection.loseConnection()
        self.reactor.writable(self.connection)
        self.assertEqual(self.protocol.lost, [ConnectionDone])

    def test_a_protocol_that_pauses_at_the_last_piece_learns_of_the_refusal_when_it_resumes(self):
        self.refuse()
        self.protocol.on_data = self.connection.pauseProducing
        for _ in range(2):
            self.connection.resumeProducing()
            self.turn()
        self.assertEqual((len(self.protocol.received), self.refused), (2 * READ_SIZE, []))
        self.connection.resumeProducing()
        self.turn()
        self.assertEqual(self.refused, [2 * READ_SIZE])

    def test_nothing_is_refused_of_a_connection_that_is_lost(self):
        self.refuse()
        self.receive(ConnectionResetError())
        self.turn()
        self.assertEqual((self.refused, self.protocol.lost), ([], [ConnectionLost]))

    def test_nothing_is_refused_of_a_connection_that_is_read(self):
        self.connection.resumeProducing()
        self.connection.refuse_rest(self.fail)
        self.turn()
        self.receive(b"one")
        self.assertEqual(self.protocol.received, b"one")

    def test_a_lost_connection_gives_its_room_back(self):
        self.receive(b"one")
        self.receive(ConnectionResetError())
        self.assertEqual(self.room.free, MAX_BUFFERED // AHEAD_PART)
        self.assertEqual((self.protocol.received, self.protocol.lost), (b"", [ConnectionLost]))

    def test_a_close_while_something_waits_is_the_end_of_it(self):
        self.receive(b"one")
        self.connection.resumeProducing()
        self.protocol.on_data = self.connection.loseConnection
        self.turn()
        self.assertEqual((self.protocol.lost, self.socket.closed), ([ConnectionDone], True))
        self.turn()

    def test_an_abort_before_the_turn_is_the_end_of_it(self):
        self.receive(b"one")
        self.connection.resumeProducing()
        self.connection.abortConnection()
        self.turn()
        self.assertEqual((self.protocol.received, self.protocol.lost), (b"", [ConnectionAborted]))

    def test_a_protocol_that_fails_loses_its_connection(self):
        self.receive(b"one")
        self.connection.resumeProducing()
        self.protocol.on_data = lambda: 1 / 0
        self.turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.protocol.lost, [ZeroDivisionError])

    def test_a_transport_that_is_read_or_closed_reads_nothing_ahead(self):
        self.connection = self.protocol.transport = self.connect()
        self.connection.read_ahead(self.room)
        self.receive(b"one")
        self.assertEqual(self.protocol.received, b"one")

    def test_a_protocol_that_is_replaced_meanwhile_gets_what_waits(self):
        self.receive(b"one")
        other = HalfCloser()
        self.connection.protocol = other
        self.receive(b"two")
        self.connection.resumeProducing()
        self.turn()
        self.assertEqual(other.received, b"onetwo")
