"""The task server's protocol on the transport of plain connections."""

import gc
import socket
import tracemalloc
import weakref
from errno import ECONNRESET

from msgspec import Raw
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from taskd.listeners.tcp import TaskFactory, TcpLimits
from taskd.model import Result
from taskd.net.backpressure import MAX_UNSENT, STALL_GRACE
from taskd.net.buffered_socket import HIGH_WATER
from taskd.net.server_transport import ServerTransport
from taskd.server.unanswered import Unanswered
from tests.unit.sockets import MUCH, FakeReactor, FakeSocket

IDLE_BYTES = 6 * 1024
"""What an idle connection may cost: ten thousand of them, 60 MB."""


class FakeServer:
    """Keeps requests until the test answers them."""

    def __init__(self):
        self.connections = 0
        self.waiting = []
        self.unanswered = Unanswered(Clock())

    def submit(self, requests, requester):
        self.waiting += [(request, requester) for request in requests]

    def answer(self, result=b"1"):
        waiting, self.waiting = self.waiting, []
        for request, requester in waiting:
            requester.task_ended(request, Result(Raw(result)))
            requester.flush()

    def resume(self):
        pass

    def cancel(self, work):
        pass

    def detach(self, work):
        pass


class EagerServer(FakeServer):
    """Answers at once."""

    def submit(self, requests, requester):
        for request in requests:
            requester.task_ended(request, Result(Raw(b"1")))


class TaskProtocolTests(SynchronousTestCase):
    def setUp(self):
        self.connect(FakeServer())

    def connect(self, server, **limits):
        self.reactor = FakeReactor()
        self.server = server
        self.factory = TaskFactory(self.reactor, server, TcpLimits(**limits))
        self.socket = FakeSocket()
        self.protocol = self.factory.buildProtocol(None)
        self.connection = ServerTransport(self.socket, self.protocol, ("127.0.0.1", 1), None, 0, self.reactor)
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
        self.assertEqual(self.server.connections, 0)

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
        self.assertTrue(self.protocol.client.is_full)
        self.socket.room = MUCH
        self.reactor.writable(self.connection)
        self.assertEqual(self.socket.sent, reply + b"\n" + reply + b"\n")
        self.assertFalse(self.protocol.client.is_full)
        self.assertFalse(self.reactor.writing)

    def test_outcomes_for_a_client_that_is_gone_are_dropped(self):
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
            protocol.makeConnection(ServerTransport(sock, protocol, ("127.0.0.1", 1), None, 0, reactor))
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
        finished = self.factory.close()
        self.assertNoResult(finished)
        self.server.answer()
        self.assertNoResult(finished)
        self.reactor.writable(self.connection)
        self.successResultOf(finished)

    def test_the_end_of_a_server_without_connections_is_there_at_once(self):
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.successResultOf(self.factory.close())

    def test_connections_can_be_dropped_at_the_end(self):
        self.receive(b'{"function":"f"}\n')
        finished = self.factory.close()
        self.factory.abort()
        self.assertNoResult(finished)
        self.reactor.advance(0)
        self.successResultOf(finished)
        self.assertTrue(self.socket.closed)
