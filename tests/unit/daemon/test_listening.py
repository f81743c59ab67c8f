"""Ports that are bound first and served later, and the errors for those that cannot be bound."""

import errno

from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import ILoggingContext, IProtocolFactory, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface.verify import verifyObject

from taskd.daemon.listening import LateFactory, bind
from taskd.errors import StartError
from taskd.net.acceptor import Door
from taskd.net.descriptors import NO_FILES, connection_limits

PEER = IPv4Address("TCP", "127.0.0.1", 1)


class CountingFactory(Factory):
    """A factory that counts its starts and stops."""

    noisy = False
    protocol = Protocol
    starts = stops = 0

    def doStart(self):
        self.starts += 1

    def doStop(self):
        self.stops += 1


class LateFactoryTests(SynchronousTestCase):
    def test_a_late_factory_provides_the_interface_of_a_factory(self):
        for interface in IProtocolFactory, IProtocolNegotiationFactory, ILoggingContext:
            verifyObject(interface, LateFactory("x"))

    def test_connections_go_to_the_factory_that_serves(self):
        late, factory = LateFactory("x"), CountingFactory()
        late.serve(factory)
        self.assertIs(late.buildProtocol(PEER).factory, factory)

    def test_connections_are_closed_before_a_factory_serves(self):
        self.assertIsNone(LateFactory("x").buildProtocol(PEER))

    def test_the_factory_is_started_when_it_serves_and_stopped_with_the_port(self):
        late, factory = LateFactory("x"), CountingFactory()
        late.doStart()
        late.serve(factory)
        self.assertEqual((factory.starts, factory.stops), (1, 0))
        late.doStop()
        self.assertEqual((factory.starts, factory.stops), (1, 1))

    def test_a_port_that_was_never_served_can_be_closed(self):
        late = LateFactory("x")
        late.doStart()
        late.doStop()

    def test_tls_negotiates_what_the_factory_accepts(self):
        late = LateFactory("x")
        self.assertEqual(late.acceptableProtocols(), [])
        late.serve(CountingFactory())
        self.assertEqual(late.acceptableProtocols(), [])
        late = LateFactory("x")
        site = Site(Resource(), reactor=MemoryReactorClock())
        site.noisy = False
        late.serve(site)
        self.assertIn(b"http/1.1", late.acceptableProtocols())
        late.doStop()

    def test_the_log_prefix_is_the_name_of_the_factory(self):
        self.assertEqual(LateFactory("task server").logPrefix(), "task server")


class BindTests(SynchronousTestCase):
    def test_a_port_is_bound_and_then_served_and_closed(self):
        reactor = MemoryReactorClock()
        port = bind(reactor, "tcp:8080:interface=127.0.0.1", "gateway")
        ((number, late, _, interface),) = reactor.tcpServers
        self.assertEqual((number, interface), (8080, "127.0.0.1"))
        self.assertEqual(port.address.port, 8080)
        factory = CountingFactory()
        port.serve(factory, Door(reactor, connection_limits(64, 9, NO_FILES, 0)), b"busy")
        self.assertIs(late.buildProtocol(PEER).factory, factory)
        self.successResultOf(port.close())

    def test_an_invalid_endpoint_fails_the_start_and_is_named(self):
        for description in "nonsense", "tcp:nonsense", "ssl:1:privateKey=/no/such/file":
            error = self.assertRaises(StartError, bind, MemoryReactorClock(), description, "x")
            self.assertIn(description, str(error))

    def test_a_port_that_cannot_be_bound_fails_the_start_with_the_reason(self):
        for failure, reason in (
            (CannotListenError("", 1, OSError(errno.EADDRINUSE, "in use")), "in use"),
            (CannotListenError("", 1, "a text"), "a text"),
            (PermissionError(errno.EACCES, "not permitted"), "not permitted"),
            (OverflowError("port must be 0-65535"), "0-65535"),
        ):
            reactor = MemoryReactorClock()

            def refuse(*_, failure=failure, **__):
                raise failure

            reactor.listenTCP = refuse
            error = self.assertRaises(StartError, bind, reactor, "tcp:1", "x")
            self.assertIn("cannot listen on tcp:1: ", str(error))
            self.assertIn(reason, str(error))
