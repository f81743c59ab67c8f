"""What follows from the end of a peer that is not read, and how a websocket ends."""

import sys

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from taskd.listeners.origins import Origins
from taskd.listeners.peers import Peers
from taskd.listeners.tcp import TaskFactory, TcpLimits
from taskd.listeners.websocket import WebSocketFactory
from taskd.listeners.websocket_closing import REFUSED_GRACE
from taskd.listeners.websocket_pings import LITTLE_UNREAD
from taskd.net.read_ahead import AheadRoom
from taskd.net.server_transport import ServerTransport
from taskd.net.time_limits import CLOSING_SECONDS
from taskd.net.websocket_fastpath import PONGS, SLOW_SLICE
from taskd.protocol.websocket_frames import PING_INTERVAL, pong_frame, text_frame
from taskd.scheduler.budget import Budget
from tests.unit.frames import BINARY, CLOSE, CONTINUED, PING, TEXT, client_frame
from tests.unit.listeners.test_tcp import FakeServer
from tests.unit.sockets import FakeReactor, FakeSocket


class Work:
    """A task of the fake server."""

    is_cancelled = False


class CancellingServer(FakeServer):
    """A server whose tasks can be cancelled, and then end when the test answers."""

    copies = 1

    def submit(self, requests, requester):
        for request in requests:
            request.work = Work()
        super().submit(requests, requester)

    def cancel(self, work):
        work.is_cancelled = True

    def detach(self, work, account=None, held=0):
        pass

    def cancelled(self):
        return [request.work.is_cancelled for request, _ in self.waiting if request.work]


class Watching:
    """The watch over paused connections, in the hands of the test."""

    def __init__(self):
        self.owner = None
        self.stopped = 0

    def watch(self, transport, owner):
        self.owner = owner
        return self

    def stop(self):
        self.stopped += 1


def line(dependent=True):
    return b'{"function":"f","options":{"on_disconnect":"%s"}}\n' % (b"cancel" if dependent else b"finish")


class EndWhilePausedTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = FakeReactor()
        self.server = CancellingServer()
        self.watching = Watching()
        self.factory = TaskFactory(self.reactor, self.server, TcpLimits(max_outstanding=3), self.watching)
        self.socket = FakeSocket()
        self.protocol = self.factory.buildProtocol(None)
        self.connection = ServerTransport(self.socket, self.protocol, ("127.0.0.1", 1), None, 0, self.reactor)
        self.protocol.makeConnection(self.connection)

    def receive(self, data):
        self.socket.incoming.append(data)
        self.reactor.readable(self.connection)

    def test_only_a_client_that_is_not_read_is_watched(self):
        self.receive(line() * 2)
        self.assertIsNone(self.watching.owner)
        self.receive(line())
        self.assertIs(self.watching.owner, self.protocol.client)
        self.assertFalse(self.reactor.reading)
        self.server.answer()
        self.assertEqual((self.watching.stopped, self.reactor.reading), (1, True))

    def test_the_end_of_a_client_cancels_tasks_that_must_not_outlive_it(self):
        self.receive(line() + line(dependent=False) + line())
        self.assertTrue(self.watching.owner.depends_on_peer)
        self.watching.owner.peer_has_ended()
        self.watching.owner.peer_has_ended()
        self.assertEqual(self.server.cancelled(), [True, False, True])
        self.server.answer()
        self.assertEqual(self.socket.sent, b"1\n" * 3, "a client that only shut down its side is answered")

    def test_requests_read_after_the_end_of_a_client_start_only_if_they_may_outlive_it(self):
        self.receive(line() * 3 + line() + line(dependent=False) + line())
        self.watching.owner.peer_has_ended()
        self.server.answer()
        self.reactor.advance(0)
        self.assertEqual([request.options.on_disconnect for request, _ in self.server.waiting], ["finish"])
        self.server.answer()
        self.assertEqual(self.socket.sent.count(b"was cancelled before it was started"), 2)
        self.assertEqual(self.socket.sent.count(b"\n"), 6)

    def test_work_that_may_outlive_it_depends_on_nobody(self):
        self.receive(line(dependent=False) * 3)
        self.assertFalse(self.watching.owner.depends_on_peer)

    def test_a_reset_ends_the_connection(self):
        self.receive(line() * 4)
        self.watching.owner.peer_is_lost()
        self.reactor.advance(0)
        self.assertEqual(self.server.cancelled(), [])
        self.assertTrue(self.socket.closed)
        self.assertEqual((self.server.connections, self.watching.stopped), (0, 1))

    def test_a_client_whose_rest_is_refused_is_not_read_but_watched(self):
        self.receive(line())
        self.protocol.lineLengthExceeded(b"")
        self.assertFalse(self.reactor.reading)
        self.assertTrue(self.watching.owner.reads_no_more)
        self.server.answer()
        self.assertTrue(self.socket.sent.startswith(b"1\n{"))
        self.assertIn(b"this one is longer", self.socket.sent)

    def test_a_client_that_sent_too_far_ahead_is_answered_behind_what_it_is_owed(self):
        self.receive(line() * 3)
        self.watching.owner.probe()
        self.assertEqual(self.socket.sent, b"", "a line would mean something")
        self.connection.read_ahead(AheadRoom(Budget()))
        self.receive(line() + b'{"function":')
        self.connection.refuse_rest(self.watching.owner.rest_is_refused)
        self.receive(b'"g"}\n')
        self.server.answer()
        self.reactor.advance(0)
        self.watching.owner.rest_is_refused()
        self.assertEqual(len(self.server.waiting), 1)
        self.server.answer()
        *results, error = self.socket.sent.splitlines()
        self.assertEqual(results, [b"1"] * 4)
        self.assertIn(b'"code":-32004', error)
        self.assertIn(b"sent ahead of the replies", error)
        self.reactor.writable(self.connection)
        self.assertTrue(self.socket.closed)

    def test_after_the_end_of_input_a_reset_still_counts(self):
        self.receive(line(dependent=False))
        self.receive(b"")
        self.watching.owner.peer_is_lost()
        self.reactor.advance(0)
        self.assertEqual(self.server.connections, 0)


class Transport(StringTransport):
    """A transport in memory that notes how it is closed."""

    is_aborted = False

    def unregisterProducer(self):
        self.producer = None

    def abortConnection(self):
        self.is_aborted = True


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ASKED = client_frame(b'{"function":"f"}')
DONE = text_frame(b"task complete")


def closing(code):
    return code.to_bytes(2)


class WebSocketTestCase(SynchronousTestCase):
    def setUp(self):
        self.reactor = FakeReactor()
        self.server = CancellingServer()
        self.peers = Peers(self.reactor, Budget())
        factory = WebSocketFactory(
            self.reactor, self.server, self.peers, origins=Origins(), max_message=3000, max_in_flight=3
        )
        self.protocol = factory.buildProtocol(None)
        self.transport = Transport()
        self.protocol.makeConnection(self.transport)
        self.protocol.dataReceived(HANDSHAKE)
        self.transport.clear()

    def receive(self, *frames):
        self.protocol.dataReceived(b"".join(frames))

    def sent(self):
        data = self.transport.value()
        self.transport.clear()
        return data

    def lose(self):
        self.protocol.connectionLost(Failure(ConnectionDone()))


class WebSocketClosingTests(WebSocketTestCase):
    def test_requests_before_a_refused_message_are_answered_first(self):
        refused = {
            1003: client_frame(b"\0\1", BINARY),
            1007: client_frame(b"\xff\xfe"),
            1009: client_frame(bytes(3000)),
            1002: client_frame(b"unmasked", mask=b""),
        }
        for code, frame in refused.items():
            self.setUp()
            self.receive(ASKED, frame, ASKED)
            self.assertEqual(self.sent(), b"")
            self.assertFalse(self.transport.disconnecting)
            self.server.answer()
            sent = self.sent()
            self.assertTrue(sent.startswith(DONE), code)
            self.assertEqual(sent[len(DONE)], 0x80 | CLOSE)
            self.assertEqual(sent[len(DONE) + 2 :][:2], closing(code))
            self.assertTrue(self.transport.disconnecting)
            self.assertFalse(self.transport.is_aborted)

    def test_nothing_behind_a_refused_message_is_run_or_answered(self):
        self.receive(ASKED, client_frame(b"\0", BINARY), ASKED, client_frame(b"", PING))
        self.receive(client_frame(b"", CLOSE), ASKED)
        self.assertEqual(len(self.server.waiting), 1)
        self.assertEqual(self.sent(), b"")

    def test_without_anything_owed_a_refusal_is_sent_at_once(self):
        self.receive(client_frame(b"", PING), client_frame(b"\0", BINARY))
        sent = self.sent()
        self.assertTrue(sent.startswith(pong_frame(b"")))
        self.assertIn(closing(1003), sent)

    def test_the_tasks_of_a_refused_client_have_a_bounded_time(self):
        self.receive(ASKED, client_frame(b"\0", BINARY))
        self.reactor.advance(REFUSED_GRACE)
        self.assertIn(b"task failed: the websocket was closed", self.sent())
        self.assertTrue(self.transport.disconnecting)

    def test_a_refused_client_that_reads_nothing_is_reset(self):
        self.receive(ASKED, client_frame(b"\0", BINARY))
        self.protocol.client.sender.pauseProducing()
        self.server.answer()
        self.reactor.advance(REFUSED_GRACE)
        self.assertTrue(self.transport.is_aborted)

    def test_a_refused_client_that_goes_leaves_no_timer(self):
        self.receive(ASKED, client_frame(b"\0", BINARY))
        self.lose()
        self.reactor.advance(REFUSED_GRACE)
        self.assertFalse(self.transport.is_aborted)

    def test_a_close_that_never_ends_is_cut(self):
        self.receive(client_frame(b"\0", BINARY))
        self.reactor.advance(CLOSING_SECONDS)
        self.assertTrue(self.transport.is_aborted)

    def test_a_refused_message_is_counted_as_a_failure_that_nobody_got(self):
        self.receive(client_frame(b"\0", BINARY))
        self.assertEqual(sum(self.server.unanswered.counts.values()), 1)

    def test_a_stop_closes_after_what_is_owed(self):
        self.receive(ASKED)
        self.protocol.close()
        self.protocol.close()
        self.assertEqual(self.sent(), b"")
        self.server.answer()
        sent = self.sent()
        self.assertTrue(sent.startswith(DONE))
        self.assertIn(closing(1001), sent)
        self.assertFalse(self.transport.disconnecting, "the client may close first")

    def test_a_clients_own_close_is_answered(self):
        self.receive(client_frame(closing(1000), CLOSE))
        self.assertIn(closing(1000), self.sent())
        self.assertTrue(self.transport.disconnecting)

    def test_a_websocket_that_sent_too_far_ahead_is_closed_with_try_again_later(self):
        self.receive(ASKED)
        self.protocol.client.rest_is_refused()
        self.receive(ASKED)
        self.server.answer()
        sent = self.sent()
        self.assertTrue(sent.startswith(DONE))
        self.assertIn(closing(1013), sent)
        self.protocol.client.probe()
        self.assertEqual(self.sent(), b"")


class WebSocketPingTests(WebSocketTestCase):
    def test_a_probe_is_a_pong_that_nobody_asked_for_if_it_can_be_sent_now(self):
        self.protocol.client.probe()
        self.assertEqual(self.sent(), pong_frame(b""))
        self.protocol.client.sender.pauseProducing()
        self.protocol.client.probe()
        self.protocol.client.sender.resumeProducing()
        self.assertEqual(self.sent(), b"")

    def test_a_few_pings_are_answered_each(self):
        self.receive(*[client_frame(b"%d" % number, PING) for number in range(PONGS)])
        self.assertEqual(self.sent(), b"".join([pong_frame(b"%d" % number) for number in range(PONGS)]))

    def test_of_many_pings_the_last_are_answered(self):
        pings = [client_frame(b"%d" % (number % 10), PING) for number in range(PONGS * 8)]
        self.assertLess(sum(map(len, pings)), SLOW_SLICE)
        self.receive(*pings)
        self.assertEqual(self.sent().count(b"\x8a"), PONGS)

    def test_a_client_that_reads_no_pongs_is_owed_the_latest_alone(self):
        sender = self.protocol.client.sender
        sender.pauseProducing()
        for number in range(1000):
            self.receive(client_frame(b"%d" % number, PING))
        self.assertEqual(self.sent(), b"")
        sender.resumeProducing()
        self.assertEqual(self.sent(), pong_frame(b"999"))

    def test_pings_are_answered_before_the_message_around_them(self):
        self.receive(client_frame(b'{"function":', TEXT, final=False), client_frame(b"p", PING))
        self.receive(client_frame(b'"f"}', CONTINUED))
        self.assertEqual(self.sent(), pong_frame(b"p"))
        self.assertEqual(len(self.server.waiting), 1)

    def test_many_frames_are_read_a_step_at_a_time(self):
        self.receive(*[client_frame(b"", PING)] * 1000, ASKED)
        self.assertTrue(self.protocol.has_unread)
        self.assertEqual(self.transport.producerState, "paused")
        self.reactor.pump([0] * 1000)
        self.assertFalse(self.protocol.has_unread)
        self.assertEqual(self.transport.producerState, "producing")
        self.assertEqual(len(self.server.waiting), 1)

    def test_unread_frames_wait_while_the_client_is_at_its_limit(self):
        self.receive(ASKED * 3, *[client_frame(b"", PING)] * 1000, ASKED)
        self.reactor.advance(0)
        self.reactor.advance(0)
        self.assertEqual((len(self.server.waiting), self.transport.producerState), (3, "paused"))
        self.server.answer()
        for _ in range(20):
            self.reactor.advance(0)
        self.assertEqual((len(self.server.waiting), self.transport.producerState), (1, "producing"))

    def pause(self, unread=0, unacknowledged=0):
        """Have the client at its limit when it is pinged."""
        self.counts = {"unread": unread, "unacknowledged": unacknowledged}
        module = "taskd.listeners.websocket_pings."
        self.patch_function(module + "arrived", lambda _: self.counts["unread"])
        self.patch_function(module + "unread", lambda _: self.counts["unread"])
        self.patch_function(module + "unacknowledged", lambda _: self.counts["unacknowledged"])
        self.receive(ASKED * 3)
        self.ping()
        self.assertEqual(self.sent()[0], 0x80 | PING)

    def ping(self):
        """Send a ping, as Autobahn's timer does, which is not the test's."""
        self.protocol.autoPingPending = bytes(12)
        self.protocol.sendPing(bytes(12))

    def patch_function(self, name, function):
        module, _, attribute = name.rpartition(".")
        self.patch(sys.modules[module], attribute, function)

    def test_a_client_that_is_not_read_and_sends_nothing_is_dropped(self):
        self.pause()
        self.protocol.onAutoPingTimeout()
        self.assertTrue(self.transport.is_aborted)

    def test_a_client_that_is_not_read_and_has_sent_something_is_pinged_again(self):
        self.pause()
        self.counts["unread"] = 1
        self.protocol.onAutoPingTimeout()
        self.sent()
        for number in range(2, 4):
            self.counts["unread"] = number
            self.reactor.advance(PING_INTERVAL)
            self.assertFalse(self.transport.is_aborted)
            self.assertEqual(self.sent()[0], 0x80 | PING)
        self.reactor.advance(PING_INTERVAL)
        self.assertTrue(self.transport.is_aborted)

    def test_a_client_whose_pong_may_find_no_room_is_dropped_only_if_its_kernel_is_silent(self):
        self.pause(unread=LITTLE_UNREAD + 1)
        self.protocol.onAutoPingTimeout()
        self.assertFalse(self.transport.is_aborted)
        self.counts["unacknowledged"] = 10
        self.reactor.advance(PING_INTERVAL)
        self.assertTrue(self.transport.is_aborted)

    def test_a_client_that_is_read_and_silent_is_dropped(self):
        self.ping()
        self.protocol.onAutoPingTimeout()
        self.assertTrue(self.transport.is_aborted)
