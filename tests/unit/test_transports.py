"""The transport of accepted connections: what the kernel is given, and what the protocol is told."""

import gc
import socket
import struct
import tracemalloc
import weakref
from errno import ECONNRESET, EPIPE

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
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
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from taskd.flow import MAX_UNSENT, STALL_GRACE
from taskd.messages import Result
from taskd.tcp import TaskFactory, TcpLimits
from taskd.transports import HIGH_WATER, ServerConnection

MUCH = 1 << 40
"""More room than any test fills."""

IDLE_BYTES = 6 * 1024
"""What an idle connection may cost: ten thousand of them, 60 MB."""


class FakeSocket:
    """A socket whose kernel takes `room` bytes, and which has what is put in `incoming`."""

    def __init__(self, room=MUCH):
        self.room = room
        self.sent = b""
        self.sends = 0
        self.incoming = []
        self.error = None
        self.blocking = True
        self.closed = False
        self.options = {}

    def setblocking(self, flag):
        self.blocking = flag

    def setsockopt(self, level, option, value):
        self.options[option] = value

    def fileno(self):
        return -1 if self.closed else 7

    def recv(self, size):
        if not self.incoming:
            raise BlockingIOError
        data = self.incoming.pop(0)
        if isinstance(data, Exception):
            raise data
        assert len(data) <= size
        return data

    def send(self, data):
        self.sends += 1
        if self.error is not None:
            raise self.error
        taken = bytes(data[: self.room])
        if data and not taken:
            raise BlockingIOError
        self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def close(self):
        self.closed = True

    def getsockname(self):
        return ("127.0.0.1", 12345)


class FakeReactor(Clock):
    """Has one descriptor, and treats it as Twisted's reactors treat theirs."""

    def __init__(self):
        super().__init__()
        self.reading = self.writing = False
        self.changes = 0

    def addReader(self, reader):
        assert reader.fileno() >= 0
        self.reading, self.changes = True, self.changes + 1

    def removeReader(self, reader):
        assert reader.fileno() >= 0, "it looks through all descriptors for one that is closed already"
        self.reading = False

    def addWriter(self, writer):
        assert writer.fileno() >= 0
        self.writing, self.changes = True, self.changes + 1

    def removeWriter(self, writer):
        assert writer.fileno() >= 0, "it looks through all descriptors for one that is closed already"
        self.writing = False

    def readable(self, connection):
        """The socket can be read."""
        assert self.reading
        self._call(connection, connection.doRead, is_read=True)

    def writable(self, connection):
        """The socket can be written to."""
        assert self.writing
        self._call(connection, connection.doWrite, is_read=False)

    def _call(self, connection, method, *, is_read):
        try:
            why = method()
        except Exception as error:
            why = error
        if why is not None:
            self.reading = False
            if is_read and isinstance(why, ConnectionDone):
                connection.readConnectionLost(Failure(why))
            else:
                self.writing = False
                connection.connectionLost(Failure(why))


class Recorder:
    """A protocol that writes down what it is told; `on_data` and `on_end` are what it then does."""

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
        return ServerConnection(self.socket, self.protocol, client, None, 0, self.reactor)

    def receive(self, *data):
        """Have this come, one piece with each read."""
        for piece in data:
            self.socket.incoming.append(piece)
            self.reactor.readable(self.connection)

    def make_room(self, room=MUCH):
        self.socket.room = room
        self.reactor.writable(self.connection)


class InterfaceTests(ConnectionTestCase):
    def test_it_is_what_reactors_and_protocols_expect(self):
        for interface in (
            IReadWriteDescriptor,
            IHalfCloseableDescriptor,
            ITransport,
            IConsumer,
            IPushProducer,
        ):
            verifyObject(interface, self.connection)

    def test_it_reads_from_the_start_and_never_blocks(self):
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
    def test_what_the_kernel_takes_is_sent_at_once(self):
        before = self.reactor.changes
        self.connection.write(b"one")
        self.connection.writeSequence([b"two", b"three"])
        self.assertEqual(self.socket.sent, b"onetwothree")
        self.assertEqual(self.socket.sends, 2)
        self.assertEqual(self.reactor.changes, before)
        self.assertTrue(self.connection.flushed)

    def test_what_the_kernel_does_not_take_is_sent_when_it_does(self):
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

    def test_a_wake_up_without_room_changes_nothing(self):
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

    def test_only_bytes_are_written(self):
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
    def test_what_comes_goes_to_the_protocol(self):
        self.receive(b"one", b"two")
        self.assertEqual(self.protocol.received, b"onetwo")

    def test_a_wake_up_for_nothing_changes_nothing(self):
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

    def test_what_a_protocol_raises_ends_its_connection_alone(self):
        def fail():
            raise ZeroDivisionError

        self.protocol.on_data = fail
        self.receive(b"one")
        self.assertEqual(self.protocol.lost, [ZeroDivisionError])
        self.assertTrue(self.socket.closed)

    def test_when_the_peer_ends_sending_the_protocol_may_go_on(self):
        self.receive(b"one", b"")
        self.assertEqual((self.protocol.ended, self.protocol.lost), (1, []))
        self.assertFalse(self.reactor.reading)
        self.connection.write(b"two")
        self.assertEqual(self.socket.sent, b"two")
        self.connection.loseConnection()
        self.reactor.writable(self.connection)
        self.assertEqual(self.protocol.lost, [ConnectionDone])

    def test_a_protocol_that_closes_at_the_end_has_closed_before_the_next_turn(self):
        self.protocol.on_end = self.connection.loseConnection
        self.receive(b"")
        self.assertEqual(self.protocol.lost, [ConnectionDone])
        self.assertTrue(self.socket.closed)
        self.assertFalse(self.reactor.writing)

    def test_what_a_protocol_raises_at_the_end_ends_its_connection(self):
        def fail():
            raise ZeroDivisionError

        self.protocol.on_end = fail
        self.receive(b"")
        self.assertEqual(self.protocol.lost, [ZeroDivisionError])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_no_reactor_tells_of_the_end_of_writing_but_if_it_did_it_would_be_the_end(self):
        self.connection.writeConnectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.protocol.lost, [ConnectionDone])


class WholeCloseTests(ConnectionTestCase):
    protocol_class = Recorder

    def test_where_the_protocol_knows_no_half_close_the_end_is_the_end(self):
        self.receive(b"one", b"")
        self.assertEqual(self.protocol.lost, [ConnectionDone])


class ClosingTests(ConnectionTestCase):
    def test_it_closes_in_the_next_turn(self):
        self.connection.loseConnection()
        self.assertEqual(self.protocol.lost, [])
        self.assertFalse(self.reactor.reading)
        self.reactor.writable(self.connection)
        self.assertEqual(self.protocol.lost, [ConnectionDone])
        self.assertTrue(self.socket.closed)

    def test_it_closes_behind_what_was_written(self):
        self.socket.room = 2
        self.connection.write(b"one")
        self.connection.loseConnection()
        self.connection.loseConnection()
        self.make_room(0)
        self.assertEqual(self.protocol.lost, [])
        self.make_room()
        self.assertEqual((self.socket.sent, self.protocol.lost), (b"one", [ConnectionDone]))

    def test_a_protocol_that_closes_while_it_is_called_is_told_afterwards(self):
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

    def test_a_protocol_that_closes_while_it_is_called_closes_behind_what_it_wrote(self):
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

    def test_nothing_is_sent_that_was_written_after_the_close(self):
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

    def test_after_an_abort_nothing_else_is_done(self):
        self.connection.abortConnection()
        self.connection.write(b"one")
        self.connection.loseConnection()
        self.connection.pauseProducing()
        self.connection.resumeProducing()
        self.assertIsNone(self.connection.doWrite())
        self.assertFalse(self.reactor.reading or self.reactor.writing)
        self.assertEqual(self.socket.sends, 0)

    def test_a_protocol_that_aborts_while_it_is_called_is_told_in_the_next_turn(self):
        self.protocol.on_data = self.connection.abortConnection
        self.receive(b"one")
        self.assertEqual(self.protocol.lost, [])
        self.reactor.advance(0)
        self.assertEqual(self.protocol.lost, [ConnectionAborted])

    def test_the_protocol_is_told_once(self):
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

    def test_it_is_paused_past_the_high_water_and_goes_on_when_all_is_sent(self):
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

    def test_it_is_not_paused_for_what_the_kernel_takes(self):
        self.connection.write(b"x" * 10 * HIGH_WATER)
        self.assertEqual(self.producer.events, [])

    def test_it_may_write_more_than_fits_when_it_goes_on(self):
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

    def test_it_may_abort_when_it_goes_on(self):
        self.socket.room = 0
        self.producer.on_resume = self.connection.abortConnection
        self.connection.write(b"x" * (HIGH_WATER + 1))
        self.make_room()
        self.reactor.advance(0)
        self.assertEqual(self.protocol.lost, [ConnectionAborted])

    def test_one_that_has_left_is_told_nothing(self):
        self.socket.room = 0
        self.connection.write(b"x" * (HIGH_WATER + 1))
        self.connection.unregisterProducer()
        self.make_room()
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.producer.events, ["pause"])

    def test_it_is_stopped_when_the_connection_is_lost(self):
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.producer.events, ["stop"])
        late = FakeProducer()
        self.connection.registerProducer(late, True)
        self.assertEqual(late.events, ["stop"])

    def test_only_one_that_can_be_paused_and_only_one_at_a_time_is_taken(self):
        self.assertRaises(RuntimeError, self.connection.registerProducer, FakeProducer(), True)
        self.connection.unregisterProducer()
        self.assertRaises(ValueError, self.connection.registerProducer, FakeProducer(), False)


class FakeServer:
    """Holds requests until it is told to answer."""

    def __init__(self):
        self.connections = 0
        self.held = []

    def submit(self, requests, caller):
        self.held += [(request, caller) for request in requests]

    def answer(self, result=b"1"):
        held, self.held = self.held, []
        for request, caller in held:
            caller.answered(request, Result(Raw(result)))
            caller.flush()

    def resume(self):
        pass

    def abandoned(self, requests):
        pass


class EagerServer(FakeServer):
    """Answers at once."""

    def submit(self, requests, caller):
        for request in requests:
            caller.answered(request, Result(Raw(b"1")))


class TaskProtocolTests(SynchronousTestCase):
    """The task server's protocol on this transport."""

    def setUp(self):
        self.connect(FakeServer())

    def connect(self, server, **limits):
        self.reactor = FakeReactor()
        self.server = server
        self.factory = TaskFactory(self.reactor, server, TcpLimits(**limits))
        self.socket = FakeSocket()
        self.protocol = self.factory.buildProtocol(None)
        self.connection = ServerConnection(
            self.socket, self.protocol, ("127.0.0.1", 1), None, 0, self.reactor
        )
        self.protocol.makeConnection(self.connection)

    def receive(self, data):
        self.socket.incoming.append(data)
        self.reactor.readable(self.connection)

    def test_a_reply_takes_one_send_and_nothing_of_the_reactor(self):
        self.receive(b'{"function":"f"}\n{"function":"g"}\n')
        before = self.reactor.changes
        self.server.answer()
        self.assertEqual(self.socket.sent, b"1\n1\n")
        self.assertEqual(self.reactor.changes, before)

    def test_replies_that_are_there_together_take_one_send(self):
        self.connect(EagerServer())
        self.receive(b'{"function":"f"}\n' * 3)
        self.assertEqual((self.socket.sent, self.socket.sends), (b"1\n" * 3, 1))

    def test_a_client_that_has_its_reply_and_closes_costs_no_timer_and_no_turn(self):
        self.connect(EagerServer())
        before = self.reactor.changes
        self.receive(b'{"function":"f"}\n')
        self.receive(b"")
        self.assertTrue(self.socket.closed)
        self.assertEqual(self.reactor.changes, before)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.factory.connections, set())

    def test_a_client_that_ends_sending_gets_what_it_is_owed_and_then_the_close(self):
        self.receive(b'{"function":"f"}\n')
        self.receive(b"")
        self.assertFalse(self.socket.closed)
        self.server.answer()
        self.assertEqual(self.socket.sent, b"1\n")
        self.reactor.writable(self.connection)
        self.assertTrue(self.socket.closed)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_client_that_does_not_take_the_last_is_given_up(self):
        self.receive(b'{"function":"f"}\n')
        self.receive(b"")
        self.socket.room = 0
        self.server.answer()
        self.reactor.advance(STALL_GRACE)
        self.reactor.advance(0)
        self.assertTrue(self.socket.closed)
        self.assertIn(socket.SO_LINGER, self.socket.options)

    def test_a_long_reply_goes_out_in_pieces_as_the_kernel_takes_it(self):
        self.receive(b'{"function":"f"}\n{"function":"g"}\n')
        self.socket.room = 100_000
        reply = b'"%s"' % (b"x" * (MAX_UNSENT + HIGH_WATER))
        self.server.answer(reply)
        self.assertEqual(len(self.socket.sent), 100_000)
        self.assertTrue(self.protocol.is_full)
        self.socket.room = MUCH
        self.reactor.writable(self.connection)
        self.assertEqual(self.socket.sent, reply + b"\n" + reply + b"\n")
        self.assertFalse(self.protocol.is_full)
        self.assertFalse(self.reactor.writing)

    def test_what_was_asked_for_by_one_who_is_gone_is_answered_to_nobody(self):
        self.receive(b'{"function":"f"}\n')
        self.receive(OSError(ECONNRESET, "Connection reset by peer"))
        self.server.answer()
        self.assertEqual(self.socket.sends, 0)

    def test_a_connection_that_is_over_leaves_nothing_for_the_garbage_collector(self):
        self.connect(EagerServer())
        seen = weakref.ref(self.protocol)
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        self.receive(b'{"function":"f"}\n')
        self.receive(b"")
        self.protocol = self.connection = None
        self.assertIsNone(seen())

    def test_an_idle_connection_costs_little_memory(self):
        count = 200
        sockets = [FakeSocket() for _ in range(count)]
        reactor, factory = FakeReactor(), TaskFactory(Clock(), EagerServer())
        connections = []

        def connect(sock):
            protocol = factory.buildProtocol(None)
            protocol.makeConnection(ServerConnection(sock, protocol, ("127.0.0.1", 1), None, 0, reactor))
            connections.append(protocol)

        connect(FakeSocket())
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for sock in sockets:
            connect(sock)
        after, _ = tracemalloc.get_traced_memory()
        self.assertLess((after - before) / count, IDLE_BYTES)

    def test_the_end_of_a_server_is_awaited_until_the_last_connection_is_gone(self):
        self.receive(b'{"function":"f"}\n')
        finished = self.factory.finish()
        self.assertNoResult(finished)
        self.server.answer()
        self.assertNoResult(finished)
        self.reactor.writable(self.connection)
        self.successResultOf(finished)

    def test_the_end_of_a_server_without_connections_is_there_at_once(self):
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.successResultOf(self.factory.finish())

    def test_connections_can_be_dropped_at_the_end(self):
        self.receive(b'{"function":"f"}\n')
        finished = self.factory.finish()
        self.factory.abort()
        self.assertNoResult(finished)
        self.reactor.advance(0)
        self.successResultOf(finished)
        self.assertTrue(self.socket.closed)
