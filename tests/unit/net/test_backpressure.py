"""Replies on their way to a reader that may be slow."""

import trustme
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from OpenSSL import SSL
from twisted.internet import ssl
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.test import iosim
from twisted.trial import util
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from taskd.net.backpressure import MAX_UNSENT, SLICE, STALL_GRACE, ReplySender
from taskd.net.buffered_socket import HIGH_WATER
from taskd.net.lines import LinearLineReceiver


@implementer(IConsumer)
class FakeTransport:
    """A transport that keeps data until its peer reads it, and pauses its producer as Twisted's do."""

    def __init__(self):
        self.producer = None
        self.paused = False
        self.buffer = bytearray()
        self.writes = []
        self.most = 0

    def registerProducer(self, producer, streaming):
        assert self.producer is None
        assert streaming
        self.producer = producer

    def unregisterProducer(self):
        self.producer = None

    def write(self, data):
        assert not self.paused, "written to while it does not keep up"
        self.writes.append(len(data))
        self.buffer += data
        self.most = max(self.most, len(self.buffer))
        if len(self.buffer) > HIGH_WATER:
            self.paused = True
            if self.producer is not None:
                self.producer.pauseProducing()

    def read(self, size=1 << 62):
        """Return the data that the peer reads."""
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        if self.paused and not self.buffer:
            self.paused = False
            if self.producer is not None:
                self.producer.resumeProducing()
        return data

    def read_all(self):
        data = b""
        while self.buffer:
            data += self.read()
        return data


class Fixture:
    """A `ReplySender` between its owner and a transport."""

    def __init__(self, **kwargs):
        self.clock = Clock()
        self.transport = FakeTransport()
        self.changes = 0
        self.stalls = 0
        self.on_change = lambda: None
        self.sender = ReplySender(
            self.clock, self.transport, self.transport.write, self.changed, self.stalled, **kwargs
        )

    def changed(self):
        self.changes += 1
        self.on_change()

    def stalled(self):
        self.stalls += 1


class SenderMachine(RuleBasedStateMachine):
    """Replies, reads and time, against a model."""

    def __init__(self):
        super().__init__()
        self.fixture = None
        self.limit = 0
        self.sent = bytearray()
        self.read_so_far = 0
        self.stalls_at = None
        self.over = False

    @initialize(limit=st.sampled_from([0, 1000, 100_000, MAX_UNSENT]))
    def begin(self, limit):
        self.limit = limit
        self.fixture = Fixture(limit=limit, grace=60.0)

    @property
    def unsent(self):
        return len(self.sent) - self.read_so_far - len(self.fixture.transport.buffer)

    def watch(self, *, progress=False):
        """Move the deadline of the model as the protocol's section on back-pressure defines it."""
        if self.unsent <= self.limit:
            self.stalls_at = None
        elif self.stalls_at is None or progress:
            self.stalls_at = self.fixture.clock.seconds() + 60.0

    @precondition(lambda self: not self.over)
    @rule(size=st.integers(1, 100) | st.sampled_from([SLICE, SLICE + 1, 200_000, 1_500_000]))
    def send(self, size):
        data = bytes([len(self.sent) % 251]) * size
        self.sent += data
        self.fixture.sender.send(data)
        self.watch()

    @precondition(lambda self: not self.over)
    @rule(size=st.sampled_from([1, 1000, HIGH_WATER, 1 << 30]))
    def read(self, size):
        fixture = self.fixture
        full, changes, unsent = fixture.sender.full, fixture.changes, self.unsent
        was_paused = fixture.transport.paused
        data = fixture.transport.read(size)
        assert data == self.sent[self.read_so_far : self.read_so_far + len(data)]
        self.read_so_far += len(data)
        if full != fixture.sender.full or (unsent and not self.unsent):
            assert fixture.changes > changes
        self.watch(progress=was_paused and self.unsent < unsent)

    @precondition(lambda self: not self.over)
    @rule(seconds=st.sampled_from([0.5, 20.0, 59.0, 60.0]))
    def pass_time(self, seconds):
        self.fixture.clock.advance(seconds)
        stalled = self.stalls_at is not None and self.fixture.clock.seconds() >= self.stalls_at
        assert self.fixture.stalls == stalled
        self.over = stalled

    @precondition(lambda self: not self.over)
    @rule()
    def close(self):
        self.fixture.sender.close()
        assert self.fixture.clock.getDelayedCalls() == []
        self.over = True

    @precondition(lambda self: self.over)
    @rule()
    def nothing_more(self):
        """Lose the connection."""

    @invariant()
    def nothing_is_held_back_or_too_early(self):
        if self.fixture is None or self.over:
            return
        fixture = self.fixture
        assert fixture.transport.most <= HIGH_WATER + SLICE
        assert fixture.sender.full == (self.unsent > self.limit)
        assert fixture.sender.empty == (self.unsent == 0)
        assert fixture.sender.congested == fixture.transport.paused
        if not fixture.transport.paused:
            assert self.unsent == 0
        timers = [call.getTime() for call in fixture.clock.getDelayedCalls()]
        assert timers == ([] if self.stalls_at is None else [self.stalls_at])

    def teardown(self):
        if self.fixture is not None and not self.over:
            rest = self.fixture.transport.read_all()
            assert rest == self.sent[self.read_so_far :]
            self.read_so_far += len(rest)
            assert self.fixture.sender.empty
            assert self.fixture.clock.getDelayedCalls() == []


class ReplySenderTests(SynchronousTestCase):
    def test_any_course_of_events_agrees_with_the_protocol(self):
        run_machine(SenderMachine, settings=settings(max_examples=60))

    def test_the_limits_are_those_of_the_protocol(self):
        self.assertEqual((MAX_UNSENT, STALL_GRACE), (1024 * 1024, 60.0))

    def test_a_sender_is_the_producer_of_its_transport(self):
        fixture = Fixture()
        self.assertIs(fixture.transport.producer, fixture.sender)
        verifyObject(IPushProducer, fixture.sender)

    def test_data_is_sent_at_once_while_the_transport_takes_it(self):
        fixture = Fixture()
        fixture.sender.send(b"one\n")
        fixture.sender.send(b"two\n")
        self.assertEqual(fixture.transport.buffer, b"one\ntwo\n")
        self.assertTrue(fixture.sender.empty)
        self.assertFalse(fixture.sender.full)

    def test_data_that_the_transport_does_not_take_is_sent_later_in_order(self):
        fixture = Fixture()
        fixture.sender.send(b"a" * SLICE + b"a")
        self.assertTrue(fixture.sender.congested)
        fixture.sender.send(b"b")
        fixture.sender.send(b"c" * 10)
        self.assertFalse(fixture.sender.empty)
        self.assertEqual(fixture.transport.read_all(), b"a" * SLICE + b"a" + b"b" + b"c" * 10)
        self.assertTrue(fixture.sender.empty)

    def test_a_large_backlog_is_passed_to_the_transport_only_as_fast_as_it_sends(self):
        fixture = Fixture()
        fixture.sender.send(b"x" * 10_000_000)
        self.assertLessEqual(len(fixture.transport.buffer), HIGH_WATER + SLICE)
        self.assertTrue(fixture.sender.full)
        self.assertEqual(len(fixture.transport.read_all()), 10_000_000)
        self.assertLessEqual(fixture.transport.most, HIGH_WATER + SLICE)
        self.assertLessEqual(max(fixture.transport.writes), SLICE)

    def test_websocket_messages_are_never_split(self):
        fixture = Fixture(whole=True)
        sizes = [200_000, 5, 70_000, 300_000]
        for size in sizes:
            fixture.sender.send(b"x" * size)
        fixture.transport.read_all()
        self.assertEqual(fixture.transport.writes, sizes)

    def test_a_sender_is_full_when_more_is_unsent_than_the_limit(self):
        fixture = Fixture(limit=10)
        fixture.sender.pauseProducing()
        fixture.sender.send(b"x" * 10)
        self.assertFalse(fixture.sender.full)
        fixture.sender.send(b"x")
        self.assertTrue(fixture.sender.full)

    def test_the_owner_is_called_when_there_is_room_again(self):
        fixture = Fixture(limit=10)
        fixture.sender.send(b"x" * (SLICE + 100_000))
        self.assertTrue(fixture.sender.full)
        self.assertEqual(fixture.changes, 0)
        fixture.transport.read()
        self.assertFalse(fixture.sender.full)
        self.assertEqual(fixture.changes, 1)

    def test_the_owner_may_send_more_when_it_is_called(self):
        fixture = Fixture()
        sender = fixture.sender
        more = [b"b" * 100_000, b"c"]
        fixture.on_change = lambda: more and sender.send(more.pop(0))
        sender.send(b"a" * 100_000)
        self.assertEqual(fixture.transport.read_all(), b"a" * 100_000 + b"b" * 100_000 + b"c")

    def test_a_reader_with_a_full_backlog_that_reads_nothing_has_stalled(self):
        fixture = Fixture(limit=10)
        fixture.sender.send(b"x" * 1_000_000)
        fixture.clock.advance(59.9)
        self.assertEqual(fixture.stalls, 0)
        fixture.clock.advance(0.2)
        self.assertEqual(fixture.stalls, 1)
        self.assertEqual(fixture.clock.getDelayedCalls(), [])

    def test_a_slow_reader_has_not_stalled(self):
        fixture = Fixture(limit=10)
        fixture.sender.send(b"x" * 2_000_000)
        for _ in range(10):
            fixture.clock.advance(50)
            fixture.transport.read()
        self.assertEqual(fixture.stalls, 0)

    def test_a_reader_that_is_sent_more_and_reads_nothing_has_stalled(self):
        fixture = Fixture(limit=10)
        fixture.sender.send(b"x" * 1_000_000)
        for _ in range(7):
            fixture.clock.advance(10)
            fixture.sender.send(b"x")
        self.assertEqual(fixture.stalls, 1)

    def test_a_reader_within_the_limit_never_stalls(self):
        fixture = Fixture(limit=1_000_000)
        fixture.sender.send(b"x" * 500_000)
        fixture.clock.advance(1_000_000)
        self.assertEqual(fixture.stalls, 0)

    def test_a_reader_that_leaves_the_last_replies_unread_has_stalled_after_the_usual_time(self):
        fixture = Fixture()
        fixture.sender.send(b"x" * 60_000)
        fixture.sender.finish()
        fixture.clock.advance(59.9)
        self.assertEqual(fixture.stalls, 0)
        fixture.clock.advance(0.2)
        self.assertEqual(fixture.stalls, 1)

    def test_the_transport_has_no_producer_after_the_end(self):
        """A TLS transport does not close while it has a producer."""
        fixture = Fixture()
        fixture.sender.send(b"x")
        fixture.sender.finish()
        fixture.sender.finish()
        self.assertIsNone(fixture.transport.producer)

    def test_no_timer_remains_after_a_connection_is_lost_during_its_end(self):
        fixture = Fixture()
        fixture.sender.finish()
        fixture.sender.close()
        self.assertEqual(fixture.clock.getDelayedCalls(), [])

    def test_neither_data_nor_timers_remain_after_a_lost_connection(self):
        for close in (lambda sender: sender.close()), (lambda sender: sender.stopProducing()):
            fixture = Fixture(limit=10)
            fixture.sender.send(b"x" * 1_000_000)
            close(fixture.sender)
            close(fixture.sender)
            self.assertTrue(fixture.sender.empty)
            self.assertFalse(fixture.sender.full)
            self.assertEqual(fixture.clock.getDelayedCalls(), [])


class Answering(LinearLineReceiver):
    """A protocol that answers a line with its length, and one over the limit with an error and a close."""

    MAX_LENGTH = 1000

    def connectionMade(self):
        super().connectionMade()
        self.sender = ReplySender(
            self.factory.clock, self.transport, self.transport.write, lambda: None, self.abort
        )

    def abort(self):
        raise AssertionError("the client reads")

    def lineReceived(self, line):
        self.sender.send(b"%d\n" % len(line))

    def lineLengthExceeded(self, line):
        self.sender.send(b"too long\n")
        self.sender.finish()
        self.transport.loseConnection()

    def connectionLost(self, reason):
        self.sender.close()


class Client(Protocol):
    def __init__(self):
        self.received = b""
        self.lost = False

    def dataReceived(self, data):
        self.received += data

    def connectionLost(self, reason):
        self.lost = True


class ClosingTests(SynchronousTestCase):
    """A connection is closed once its last reply is sent, whatever its transport."""

    # Twisted still hands pyOpenSSL's own objects to it.
    suppress = [util.suppress(category=DeprecationWarning)]

    def connect(self, *, tls):
        clock = Clock()
        factory = Factory.forProtocol(Answering)
        factory.clock = clock
        client_factory = Factory.forProtocol(Client)
        if tls:
            issued = trustme.CA().issue_cert("server.example")
            pem = issued.private_key_and_cert_chain_pem.bytes()
            options = ssl.PrivateCertificate.loadPEM(pem).options()
            factory = TLSMemoryBIOFactory(options, False, factory, clock)
            client_factory = TLSMemoryBIOFactory(Unverified(), True, client_factory, clock)
        server, client = factory.buildProtocol(None), client_factory.buildProtocol(None)
        pump = iosim.connect(
            server, iosim.makeFakeServer(server), client, iosim.makeFakeClient(client), greet=False
        )

        def settle():
            for _ in range(10):
                pump.flush()
                clock.advance(0)

        settle()
        return client.transport if not tls else client, (client.wrappedProtocol if tls else client), settle

    def check_closed(self, *, tls):
        transport, client, settle = self.connect(tls=tls)
        transport.write(b"four\n")
        settle()
        self.assertEqual(client.received, b"4\n")
        self.assertFalse(client.lost)
        transport.write(b"x" * 2000)
        settle()
        self.assertEqual(client.received, b"4\ntoo long\n")
        self.assertTrue(client.lost)

    def test_a_connection_is_closed_after_the_error_about_a_message_over_the_limit(self):
        self.check_closed(tls=False)

    def test_a_tls_connection_is_closed_after_the_error_about_a_message_over_the_limit(self):
        self.check_closed(tls=True)


class Unverified(ssl.ClientContextFactory):
    """A client's TLS options that accept any certificate."""

    method = SSL.TLS_METHOD
