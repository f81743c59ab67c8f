"""Connections that are accepted, refused with a reason, or not to be had."""

import errno
import os
import socket

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from taskd.net.acceptor import Acceptor, Door
from taskd.net.descriptors import ConnectionLimits

REFUSAL = b"no room\n"


class FakeListener:
    """A listening socket with connections, or errors, that wait to be accepted."""

    family = socket.AF_INET

    def __init__(self, *waiting):
        self.waiting = list(waiting)
        self.closed = False

    def accept(self):
        if not self.waiting:
            raise BlockingIOError
        first = self.waiting.pop(0)
        if isinstance(first, OSError):
            raise first
        return first

    def _accept(self):  # as `socket.socket` has it
        sock, name = self.accept()
        return sock.detach(), name

    def fileno(self):
        return -1 if self.closed else 5


class FakeTransport:
    """A transport that the test closes."""

    def __init__(self, sock, protocol, name, port, number, reactor):
        self.sock = sock
        self.protocol = protocol
        self.when_closed = None
        port.transports.append(self)

    def close(self):
        self.sock.close()
        if self.when_closed is not None:
            self.when_closed()


class FakePort:
    """A Twisted port, as far as an acceptor needs it."""

    def __init__(self, listener, factory):
        self.socket = listener
        self.factory = factory
        self.transport = FakeTransport
        self.transports = []
        self.is_reading = True

    def stopReading(self):
        self.is_reading = False

    def logPrefix(self):
        return "port"


class AcceptorTestCase(SynchronousTestCase):
    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.reactor.addReader = lambda reader: self.readers.append(reader)
        self.reactor.removeReader = self.remove_reader
        self.readers = []
        self.door = Door(self.reactor, ConnectionLimits(4, 0, 4, 64))
        self.listener = FakeListener()
        self.port = FakePort(self.listener, Factory.forProtocol(Protocol))
        self.room = 0
        self.acceptor = Acceptor(self.reactor, self.port, self.door, "server", REFUSAL, self.make_room)
        self.addCleanup(self.acceptor.close)
        self.clients = []

    def remove_reader(self, reader):
        if reader in self.readers:
            self.readers.remove(reader)

    def make_room(self):
        if not self.room:
            return False
        self.room -= 1
        return True

    def arrive(self, host="192.0.2.1", port=1):
        """Let a connection arrive; return the client's end."""
        client, end = socket.socketpair()
        client.setblocking(False)
        self.addCleanup(client.close)
        self.addCleanup(end.close)
        name = (host, port)
        self.listener.waiting.append((end, name))
        self.acceptor.doRead()
        return client


class AcceptorTests(AcceptorTestCase):
    def test_an_acceptor_is_read_in_place_of_its_port(self):
        verifyObject(IReadDescriptor, self.acceptor)
        self.assertFalse(self.port.is_reading)
        self.assertEqual(self.readers, [self.acceptor])
        self.assertEqual(self.acceptor.logPrefix(), "port")

    def test_connections_are_accepted_until_a_share_is_used_and_then_told_why(self):
        clients = [self.arrive() for _ in range(4)]
        self.assertEqual(len(self.port.transports), 3)
        self.assertEqual(clients[3].recv(100), REFUSAL)
        self.assertEqual(clients[3].recv(100), b"")
        self.assertRaises(BlockingIOError, clients[0].recv, 100)

    def test_a_connection_that_is_closed_makes_room(self):
        for _ in range(3):
            self.arrive()
        self.port.transports[0].close()
        self.arrive()
        self.assertEqual(len(self.port.transports), 4)

    def test_another_address_gets_in(self):
        for _ in range(5):
            self.arrive()
        self.arrive("192.0.2.2")
        self.assertEqual(len(self.port.transports), 4)

    def test_an_idle_connection_makes_room_for_another(self):
        for _ in range(3):
            self.arrive()
        self.room = 1
        self.arrive()
        self.assertEqual(len(self.port.transports), 4)
        self.arrive()
        self.assertEqual(len(self.port.transports), 4)

    def test_the_connections_of_the_process_itself_are_let_in_and_do_not_count(self):
        self.door.own.add((("127.0.0.1", 7), ""))
        for _ in range(9):
            self.arrive("127.0.0.1", 7)
        self.assertEqual((len(self.port.transports), self.door.admission.used), (9, 0))
        self.port.transports[0].close()

    def test_an_address_with_as_many_connections_as_one_may_have_displaces_nobody(self):
        self.door.admission.most_each = 2
        self.room = 9
        for _ in range(3):
            self.arrive()
        self.assertEqual((len(self.port.transports), self.room), (2, 9))
        self.arrive("192.0.2.2")
        self.assertEqual(len(self.port.transports), 3)

    def test_refusals_are_logged_once_a_second(self):
        warnings = []
        self.patch_log(warnings)
        for _ in range(9):
            self.arrive()
        self.assertEqual(len(warnings), 1)
        self.reactor.advance(1)
        self.assertEqual(len(warnings), 2)
        self.assertIn("5 refused, 0 idle ones closed", warnings[1])
        self.assertIn("ulimit -n 64", warnings[1])

    def patch_log(self, lines):
        def observe(event):
            lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def test_a_factory_that_refuses_a_connection_leaves_its_place(self):
        self.port.factory.buildProtocol = lambda _: None
        client = self.arrive()
        self.assertEqual(self.door.admission.used, 0)
        self.assertEqual(client.recv(1), b"")

    def test_a_connection_that_fails_to_begin_leaves_its_place(self):
        def fail(_):
            raise RuntimeError("broken")

        self.port.factory.buildProtocol = fail
        client = self.arrive()
        self.assertEqual(self.door.admission.used, 0)
        self.assertEqual(client.recv(1), b"")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_client_that_is_gone_is_passed_over(self):
        self.listener.waiting.append(OSError(errno.ECONNABORTED, "gone"))
        self.arrive()
        self.assertEqual(len(self.port.transports), 1)

    def test_a_port_that_is_being_closed_is_left_alone(self):
        self.listener.waiting.append(OSError(errno.EINVAL, "closing"))
        self.acceptor.doRead()
        self.assertEqual(self.readers, [self.acceptor])
        self.acceptor.close()
        self.assertEqual(self.readers, [])


class ExhaustionTests(AcceptorTestCase):
    def test_without_descriptors_the_reserved_one_serves_to_refuse(self):
        client, end = socket.socketpair()
        self.addCleanup(client.close)
        self.listener.waiting += [OSError(errno.EMFILE, "too many"), (end, ("192.0.2.1", 1))]
        self.acceptor.doRead()
        self.assertEqual(client.recv(100), REFUSAL)
        self.assertEqual(self.port.transports, [])
        self.assertEqual(self.readers, [self.acceptor])

    def test_if_that_does_not_help_the_port_rests_and_the_reactor_does_not_spin(self):
        for number in errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS:
            self.listener.waiting += [OSError(number, "none"), OSError(number, "none")]
            self.acceptor.doRead()
            self.assertEqual(self.readers, [])
            self.reactor.advance(0.5)
            self.assertEqual(self.readers, [self.acceptor])

    def test_a_reserve_that_cannot_be_had_again_is_taken_later(self):
        def refuse(*_):
            raise OSError(errno.EMFILE, "too many")

        client, end = socket.socketpair()
        self.addCleanup(client.close)
        self.listener.waiting += [OSError(errno.EMFILE, "too many"), (end, ("192.0.2.1", 1))]
        patched = self.patch(os, "open", refuse)
        self.acceptor.doRead()
        patched.restore()
        self.listener.waiting += [OSError(errno.EMFILE, "too many")]
        self.acceptor.doRead()
        self.assertEqual(self.readers, [])

    def test_a_resting_port_can_be_closed(self):
        self.listener.waiting += [OSError(errno.EMFILE, "none"), OSError(errno.EMFILE, "none")]
        self.acceptor.doRead()
        self.acceptor.close()
        self.reactor.advance(1)
        self.assertEqual(self.readers, [])
