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
from taskd.listeners.wire import UnsentLimits
from taskd.model import Result
from taskd.net.backpressure import MAX_UNSENT, STALL_GRACE
from taskd.net.buffered_socket import HIGH_WATER
from taskd.net.server_transport import ServerTransport
from taskd.scheduler.budget import Budget
from taskd.scheduler.parties import Parties
from taskd.server.unanswered import Unanswered
from tests.unit.sockets import MUCH, FakeReactor, FakeSocket

IDLE_BYTES = 6 * 1024
"""Bytes that an idle connection may take: 60 MB for ten thousand."""


class FakeServer:
    """A server that keeps requests until the test answers them."""

    copies = 1

    def __init__(self):
        self.connections = 0
        self.waiting = []
        self.unanswered = Unanswered(Clock())
        self.budget = Budget()
        self.parties = Parties()

    def known_functions(self):
        return {}

    def read_again(self, requester):
        pass

    def gone(self, requester):
        requester.watches = 0

    def submit(self, requests, requester):
        self.waiting += [(request, requester) for request in requests]

    def answer(self, result=b"1"):
        waiting, self.waiting = self.waiting, []
        for request, requester in waiting:
            requester.task_ended(request, Result(Raw(result)))
            requester.flush()

    def resume(self, requester):
        pass

    def cancel(self, work):
        pass

    def detach(self, work, account=None, held=0):
        pass


class EagerServer(FakeServer):
    """A server that answers at once."""

    def submit(self, requests, requester):
        for request in requests:
            requester.task_ended(request, Result(Raw(b"1")))


class CancellingServer(FakeServer):
    """A server that ends what is cancelled at once, and flushes, as for a waiting task."""

    def submit(self, requests, requester):
        for request in requests:
            if request.function == "taskd.cancel":
                requester.cancel_request(request, bytes(request.args)[1:-1])
            else:
                request.work = (request, requester)

    def cancel(self, work):
        request, requester = work
        requester.task_ended(request, Result(Raw(b"0")))
        requester.flush()


class ProtocolCase(SynchronousTestCase):
    """A connection to a server in memory."""

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


class TaskProtocolTests(ProtocolCase):
    def test_replies_are_sent_without_the_reactor(self):
        self.receive(b'{"function":"f"}\n{"function":"g"}\n')
        before = self.reactor.changes
        self.server.answer()
        self.assertEqual(self.socket.sent, b"1\n1\n")
        self.assertEqual(self.reactor.changes, before)

    def test_replies_that_are_ready_together_are_sent_together(self):
        self.connect(EagerServer())
        self.receive(b'{"function":"f"}\n' * 3)
        self.assertEqual((self.socket.sent, self.socket.sends), (b"1\n" * 3, 1))

    def test_a_client_that_closes_after_its_reply_needs_no_timer_and_no_turn(self):
        self.connect(EagerServer())
        before = self.reactor.changes
        self.receive(b'{"function":"f"}\n')
        self.receive(b"")
        self.assertTrue(self.socket.closed)
        self.assertEqual(self.reactor.changes, before)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.server.connections, 0)

    def test_a_half_closed_client_gets_its_replies_and_then_the_close(self):
        self.receive(b'{"function":"f"}\n')
        self.receive(b"")
        self.assertFalse(self.socket.closed)
        self.server.answer()
        self.assertEqual(self.socket.sent, b"1\n")
        self.reactor.writable(self.connection)
        self.assertTrue(self.socket.closed)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_client_that_never_reads_its_last_reply_is_dropped(self):
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

    def test_a_closed_connection_leaves_nothing_for_the_garbage_collector(self):
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

    def test_a_factory_has_closed_when_its_last_connection_is_gone(self):
        self.receive(b'{"function":"f"}\n')
        finished = self.factory.close()
        self.assertNoResult(finished)
        self.server.answer()
        self.assertNoResult(finished)
        self.reactor.writable(self.connection)
        self.successResultOf(finished)

    def test_a_factory_without_connections_has_closed_at_once(self):
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.successResultOf(self.factory.close())

    def test_open_connections_can_be_dropped(self):
        self.receive(b'{"function":"f"}\n')
        finished = self.factory.close()
        self.factory.abort()
        self.assertNoResult(finished)
        self.reactor.advance(0)
        self.successResultOf(finished)
        self.assertTrue(self.socket.closed)


class StepsTests(ProtocolCase):
    """What one read brings is begun in steps, so that others have their turn between them."""

    MANY = 500
    REQUESTS = b"".join(b'{"function":"f","args":[%d]}\n' % number for number in range(MANY))

    def turn(self):
        self.reactor.advance(0)

    def test_the_first_step_is_taken_at_once_and_the_others_in_turns(self):
        self.receive(self.REQUESTS)
        begun = len(self.server.waiting)
        self.assertTrue(0 < begun < 100)
        self.turn()
        self.assertEqual(len(self.server.waiting), self.MANY)
        self.assertEqual(
            [bytes(request.args) for request, _ in self.server.waiting],
            [b"[%d]" % number for number in range(self.MANY)],
        )

    def test_every_request_before_a_half_close_is_answered_in_order(self):
        self.receive(self.REQUESTS)
        self.receive(b"")
        self.turn()
        self.server.answer()
        self.assertEqual(self.socket.sent, b"1\n" * self.MANY)

    def test_nothing_is_begun_for_a_client_that_leaves_too_much_unread(self):
        begun = []

        class VerboseServer(FakeServer):
            def submit(self, requests, requester):
                begun.extend(requests)
                for request in requests:
                    requester.task_ended(request, Result(Raw(b"1" * HIGH_WATER)))

        self.connect(VerboseServer(), unsent=UnsentLimits(max_unsent=0))
        self.socket.room = 0
        self.receive(self.REQUESTS)
        for _ in range(3):
            self.turn()
        self.assertTrue(0 < len(begun) < 100)
        self.assertFalse(self.reactor.reading)
        self.socket.room = MUCH
        while self.reactor.writing:
            self.reactor.writable(self.connection)
            self.turn()
        self.assertEqual(len(begun), self.MANY)
        self.assertEqual(self.socket.sent.count(b"\n"), self.MANY)

    def test_a_connection_that_is_lost_between_two_steps_begins_nothing_more(self):
        self.receive(self.REQUESTS)
        begun = len(self.server.waiting)
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.turn()
        self.assertEqual(len(self.server.waiting), begun)

    def test_requests_that_cancel_each_other_do_not_begin_one_another(self):
        """Each would be begun from within the one before it, until the interpreter's stack is used up."""
        self.connect(CancellingServer())
        pair = (
            b'{"jsonrpc":"2.0","id":%d,"method":"f"}\n'
            b'{"jsonrpc":"2.0","id":"c","method":"taskd.cancel","params":[%d]}\n'
        )
        self.receive(b"".join(pair % (number, number) for number in range(550)))
        self.turn()
        self.assertEqual(self.socket.sent.count(b"\n"), 1100)

    def test_a_connection_has_drained_when_everything_received_is_answered(self):
        self.receive(self.REQUESTS)
        drained = self.factory.drain()
        self.server.answer()
        self.assertNoResult(drained)
        self.turn()
        self.server.answer()
        self.successResultOf(drained)
