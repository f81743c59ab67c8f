"""What a connection may hold, by its budget: whether it is read, whether its tasks start, what is left."""

import json
from types import SimpleNamespace

from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.listeners.budgeted_peer import FEW
from taskd.listeners.tcp import TaskFactory, TcpLimits
from taskd.model import Result
from taskd.net.buffered_socket import READ_SIZE, SMALL_READ_SIZE
from taskd.net.pressure import watch_budget
from taskd.net.server_transport import ServerTransport
from taskd.protocol.session import SHORT
from taskd.scheduler.budget import STUCK_SECONDS, TICK, Budget
from tests.unit.listeners.test_tcp import FakeServer
from tests.unit.sockets import FakeReactor, FakeSocket

MIB = 1024 * 1024
LIMIT = 16 * MIB
LONGEST = MIB


class Reactor(FakeReactor):
    """A reactor for many descriptors."""

    def __init__(self):
        super().__init__()
        self.readers = set()

    def addReader(self, reader):
        self.readers.add(reader)

    def removeReader(self, reader):
        self.readers.discard(reader)

    def readable(self, descriptor):
        self.reading = True
        super().readable(descriptor)


class HeldCase(SynchronousTestCase):
    def setUp(self):
        self.reactor = Reactor()
        self.server = FakeServer()
        self.budget = self.server.budget = Budget(LIMIT, LONGEST)
        watch_budget(self.reactor, self.budget)
        self.factory = TaskFactory(self.reactor, self.server, TcpLimits(max_message=LONGEST))
        self.resumed = []
        self.server.resume = self.resumed.append
        self.detached = []
        self.server.detach = lambda *work: self.detached.append(work)

    def connect(self, host="192.0.2.7"):
        sock = FakeSocket()
        protocol = self.factory.buildProtocol(None)
        transport = ServerTransport(sock, protocol, (host, 1), None, 0, self.reactor)
        protocol.makeConnection(transport)
        return SimpleNamespace(
            socket=sock, protocol=protocol, transport=transport, peer=protocol.client, server=self.server
        )

    def receive(self, connection, data):
        """Receive data, if the connection is read; return whether it was read to the end."""
        while data and connection.transport in self.reactor.readers:
            piece, data = data[: connection.transport.read_size], data[connection.transport.read_size :]
            connection.socket.incoming.append(piece)
            self.reactor.readable(connection.transport)
            self.reactor.advance(0)
        return not data

    def end_sending(self, connection):
        connection.socket.incoming.append(b"")
        self.reactor.readable(connection.transport)
        self.reactor.advance(0)

    def start_work(self):
        for number, (request, _) in enumerate(self.server.waiting):
            request.work = number

    def request(self, size=2):
        return b'{"function":"f","args":["%b"]}\n' % (b"x" * size)


class HeldTests(HeldCase):
    def test_a_few_short_requests_need_no_account(self):
        connection = self.connect()
        self.receive(connection, self.request() * 30)
        self.assertEqual(self.budget.held, 0)
        self.receive(connection, self.request() * 3)
        self.assertGreater(self.budget.held, 33 * 2048 - 1)
        self.server.answer()
        self.assertEqual((self.budget.held, self.budget.biggest()), (0, []))

    def test_an_incomplete_line_counts_until_it_is_complete_and_answered(self):
        connection = self.connect()
        line = self.request(300_000)
        self.receive(connection, line[:-1])
        self.assertEqual(self.budget.held, len(line) - 1)
        self.receive(connection, line[-1:])
        self.assertGreaterEqual(self.budget.held, len(line) - 1)
        self.server.answer()
        self.assertEqual(self.budget.held, 0)

    def test_a_connection_over_its_share_is_not_read_until_there_is_room(self):
        connection = self.connect()
        while self.receive(connection, self.request(300_000)):
            pass
        self.assertNotIn(connection.transport, self.reactor.readers)
        self.assertLess(self.budget.held, LIMIT // 4)
        self.assertFalse(connection.peer.is_full, "arguments stop no task")
        self.server.answer()
        self.assertIn(connection.transport, self.reactor.readers)

    def test_another_connection_makes_room(self):
        first, second = self.connect(), self.connect()
        while self.receive(first, self.request(300_000)):
            pass
        while self.receive(second, self.request(300_000)):
            pass
        mine = [(request, requester) for request, requester in self.server.waiting if requester is first.peer]
        for request, requester in mine:
            requester.task_ended(request, Result(Raw(b"1")))
        first.peer.flush()
        self.assertFalse(second.peer.is_reading)
        self.reactor.advance(TICK)
        self.assertTrue(second.peer.is_reading)

    def test_results_that_wait_for_an_earlier_one_stop_all_tasks_but_the_oldest(self):
        connection = self.connect()
        self.receive(connection, self.request() * 20)
        (oldest, _), *others = self.server.waiting
        for request, requester in others[:15]:
            requester.task_ended(request, Result(Raw(b'"%b"' % (b"x" * 300_000))))
            requester.flush()
        self.assertTrue(connection.peer.is_full)
        self.assertTrue(connection.peer.needs(oldest))
        self.assertFalse(connection.peer.needs(others[-1][0]))
        self.resumed.clear()
        connection.peer.task_ended(oldest, Result(Raw(b"1")))
        connection.peer.flush()
        self.assertFalse(connection.peer.is_full)
        self.assertIn(connection.peer, self.resumed)

    def test_a_client_that_leaves_too_much_unread_gets_no_task_started_at_all(self):
        connection = self.connect()
        connection.socket.room = 0
        self.receive(connection, self.request() * 2)
        [(first, requester), (second, _)] = self.server.waiting
        requester.task_ended(first, Result(Raw(b'"%b"' % (b"x" * 2 * MIB))))
        requester.flush()
        self.assertTrue(connection.peer.is_full)
        self.assertFalse(connection.peer.needs(second))
        self.assertGreater(self.budget.held, 2 * MIB)

    def test_a_message_that_finds_no_room_is_refused_after_a_time(self):
        connections = [self.connect() for _ in range(60)]
        for connection in connections:
            self.receive(connection, self.request(LONGEST - 100)[:-1])
        stuck = [each for each in connections if not each.peer.is_reading]
        for _ in range(round(STUCK_SECONDS / TICK) + 5):
            self.reactor.advance(TICK)
        refused = [each for each in stuck if each.socket.sent]
        self.assertGreater(len(refused), 30)
        for connection in refused:
            error = json.loads(connection.socket.sent)["error"]
            self.assertEqual((error["code"], error["data"]), (-32004, {"retry_after": 1.0}))
            self.assertTrue(connection.transport.disconnecting)
        self.assertLess(self.budget.held, LIMIT // 2)

    def test_a_line_that_is_refused_or_cut_off_is_not_held(self):
        connection = self.connect()
        self.receive(connection, self.request(2 * MIB))
        self.assertEqual(self.budget.held, 0)
        connection = self.connect()
        self.receive(connection, self.request())
        self.receive(connection, self.request(300_000)[:-1])
        self.end_sending(connection)
        self.assertEqual(self.budget.held, 0)

    def test_a_connection_that_is_gone_holds_only_the_arguments_of_tasks_that_go_on(self):
        connection = self.connect()
        self.receive(connection, self.request(300_000) * 2 + self.request() + self.request(300_000)[:-1])
        self.start_work()
        self.server.waiting[0][0].work = None  # answered later by the server itself
        connection.transport.abortConnection()
        self.reactor.advance(0)
        self.assertTrue(300_000 < self.budget.held < 400_000)
        for _, account, held in self.detached:
            account.release(held)
        self.assertEqual(self.budget.held, 0)
        connection.peer.budget_changed()
        self.assertFalse(connection.peer.wants_result(self.server.waiting[0][0], 1))

    def test_many_small_tasks_of_a_connection_that_is_gone_count_until_they_end(self):
        for count, held in ((FEW, 0), (FEW + 1, (FEW + 1) * SHORT)):
            connection = self.connect()
            self.receive(connection, self.request() * count)
            self.start_work()
            connection.transport.abortConnection()
            self.reactor.advance(0)
            self.assertEqual(self.budget.held, held)
        for _, account, held in self.detached[-count:]:
            account.release(held)
        self.assertEqual(self.budget.held, 0)

    def test_while_memory_is_scarce_little_is_read_at_once(self):
        connection, holder = self.connect(), self.budget.account("holder", None)
        holder.update(LIMIT)
        self.assertEqual(connection.transport.read_size, SMALL_READ_SIZE)
        self.assertEqual(self.connect().transport.read_size, SMALL_READ_SIZE)
        holder.close()
        self.assertEqual(connection.transport.read_size, READ_SIZE)

    def test_the_account_of_a_connection_is_opened_for_a_long_result(self):
        connection = self.connect()
        self.receive(connection, self.request())
        [(request, _)] = self.server.waiting
        self.assertTrue(connection.peer.wants_result(request, 1))
        arrival = connection.peer.account().arrival(print, print, print)
        self.assertIs(connection.peer.account(), arrival.account)
        arrival.grow(100_000)
        self.server.answer()
        self.assertEqual(self.budget.held, 100_000)
        arrival.end()
        self.receive(connection, self.request())
        self.assertEqual(self.budget.biggest(), [])
