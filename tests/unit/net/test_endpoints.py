"""Endpoint strings: the endpoints that they make, and how invalid ones are refused."""

import os
import socket
import ssl
import warnings
from ssl import TLSVersion

import trustme
from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactor, MemoryReactorClock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from taskd.net.endpoints import CONNECT_TIMEOUT, client_description, client_endpoint, server_endpoint
from taskd.net.server_transport import ServerTransport
from taskd.net.tls_port import RefusingPlain

TIMEOUT = round(CONNECT_TIMEOUT)


class ServerEndpointTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = MemoryReactor()
        self.factory = Factory.forProtocol(Protocol)

    def listen(self, description):
        endpoint = server_endpoint(self.reactor, description)
        verifyObject(IStreamServerEndpoint, endpoint)
        self.successResultOf(endpoint.listen(self.factory))

    def files(self):
        ca = trustme.CA()
        leaf = ca.issue_cert("localhost")
        paths = {}
        for name, blob in [
            ("key", leaf.private_key_pem),
            ("cert", leaf.cert_chain_pems[0]),
            ("ca", ca.cert_pem),
        ]:
            paths[name] = self.mktemp()
            blob.write_to_path(paths[name])
        return paths

    def test_a_tcp_endpoint_listens_at_its_port_and_interface(self):
        self.listen("tcp:12345:interface=127.0.0.1")
        self.assertEqual(self.reactor.tcpServers, [(12345, self.factory, 1024, "127.0.0.1")])

    def test_many_connections_may_wait_unless_an_option_limits_them(self):
        self.listen("tcp:1")
        self.listen("tcp:2:backlog=7")
        self.listen("unix:/some/socket")
        self.assertEqual([server[2] for server in self.reactor.tcpServers], [1024, 7])
        self.assertEqual([server[2] for server in self.reactor.unixServers], [1024])

    def test_a_unix_endpoint_listens_at_its_path(self):
        self.listen("unix:/run/a\\:b:mode=660")
        (path, factory, _, mode, _) = self.reactor.unixServers[0]
        self.assertEqual((path, factory, mode), ("/run/a:b", self.factory, 0o660))

    def test_an_ssl_endpoint_listens_with_a_certificate(self):
        files = self.files()
        self.listen("ssl:443:privateKey={key}:certKey={cert}:interface=127.0.0.1".format(**files))
        port, factory, options, backlog, interface = self.reactor.sslServers[0]
        self.assertEqual((port, factory, backlog, interface), (443, self.factory, 1024, "127.0.0.1"))
        self.assertFalse(options.options.verify)

    def test_an_ssl_endpoint_with_a_ca_requires_client_certificates(self):
        files = self.files()
        self.listen("ssl:443:privateKey={key}:certKey={cert}:clientCA={ca}".format(**files))
        options = self.reactor.sslServers[0][2].options
        self.assertTrue(options.verify)
        self.assertTrue(options.requireCertificate)

    def test_a_tls_port_takes_no_version_before_1_2(self):
        self.listen("ssl:443:privateKey={key}:certKey={cert}".format(**self.files()))
        options = self.reactor.sslServers[0][2].options
        for version, is_taken in ((TLSVersion.TLSv1_1, False), (TLSVersion.TLSv1_2, True)):
            client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                client.minimum_version = client.maximum_version = version
            client.set_ciphers("DEFAULT:@SECLEVEL=0")
            sent, received = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.assertRaises(ssl.SSLWantReadError, client.wrap_bio(received, sent).do_handshake)
            server = SSL.Connection(options.getContext(), None)
            server.set_accept_state()
            server.bio_write(sent.read())
            error = self.assertRaises(SSL.Error, server.do_handshake)
            self.assertEqual(isinstance(error, SSL.WantReadError), is_taken, version)

    def test_a_file_with_a_colon_in_its_name_is_quoted(self):
        files = self.files()
        os.rename(files["key"], files["key"] + ":1")
        self.listen("ssl:443:privateKey={key}\\:1:certKey={cert}".format(**files))
        self.assertEqual(len(self.reactor.sslServers), 1)

    def test_an_invalid_endpoint_is_refused_with_the_valid_forms(self):
        files = self.files()
        for description in (
            "",
            "tcp",
            "tcp:",
            "tcp:port",
            "nonsense:1",
            "12345:nonsense=1",
            "tcp:1:nonsense=1",
            "tcp:interface=127.0.0.1",
            "ssl:443",
            "ssl:443:privateKey=/no/such/file",
            "ssl:443:privateKey={key}".format(**files),
            "ssl:443:privateKey={cert}:certKey={cert}".format(**files),
            "ssl:443:privateKey={key}:certKey={cert}:clientCA={key}".format(**files),
            "ssl:443:privateKey={key}:certKey={cert}:nonsense=1".format(**files),
            "ssl:port:privateKey={key}:certKey={cert}".format(**files),
            "tcp:\x00",
        ):
            error = self.assertRaises(ValueError, server_endpoint, self.reactor, description)
            self.assertIn("tcp:PORT", str(error), description)
            self.assertIn(repr(description), str(error), description)
            self.assertNotIn("_ssl_server", str(error))


class BoundPort(Port):
    """A Twisted port with a socket that does not listen."""

    def __init__(self, family, factory):
        super().__init__(0, factory, reactor=object())
        self.socket = socket.socket(family)


class PortReactor(MemoryReactor):
    """A reactor that makes ports of Twisted's own kind."""

    def __init__(self):
        super().__init__()
        self.ports = []

    def listenTCP(self, port, factory, backlog=50, interface=""):
        self.ports.append(BoundPort(socket.AF_INET6 if ":" in interface else socket.AF_INET, factory))
        return self.ports[-1]

    def listenSSL(self, port, factory, contextFactory, backlog=50, interface=""):  # noqa: N803
        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface)

    def listenUNIX(self, address, factory, **options):
        self.ports.append(BoundPort(socket.AF_UNIX, factory))
        return self.ports[-1]


class OwnTransportTests(SynchronousTestCase):
    """Servers whose connections have taskd's own transport."""

    def setUp(self):
        self.reactor = PortReactor()
        self.factory = Factory.forProtocol(Protocol)

    def listen(self, description, reactor=None):
        endpoint = server_endpoint(reactor or self.reactor, description, ServerTransport)
        verifyObject(IStreamServerEndpoint, endpoint)
        port = self.successResultOf(endpoint.listen(self.factory))
        if reactor is None:
            self.addCleanup(port.socket.close)
        return port

    def test_plain_connections_have_the_transport_of_taskd(self):
        for description in ("tcp:1", "tcp:1:interface=\\:\\:1", "unix:/some/socket"):
            self.assertIs(self.listen(description).transport, ServerTransport, description)
        self.assertIs(self.reactor.ports[0].factory, self.factory)

    def test_tcp_connections_have_nagles_algorithm_turned_off(self):
        for interface in ("127.0.0.1", "\\:\\:1"):
            port = self.listen(f"tcp:1:interface={interface}")
            self.assertTrue(port.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def test_tls_connections_have_the_transport_of_taskd_below(self):
        pem = self.mktemp()
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
        port = self.listen(f"ssl:1:privateKey={pem}")
        self.assertIs(port.transport, ServerTransport)
        self.assertIsInstance(port.factory.buildProtocol(None), RefusingPlain)

    def test_a_reactor_with_ports_of_another_kind_keeps_its_transports(self):
        self.assertFalse(hasattr(self.listen("tcp:1", MemoryReactor()), "transport"))

    def test_an_invalid_endpoint_is_refused_with_this_transport_too(self):
        self.assertRaises(ValueError, server_endpoint, self.reactor, "tcp:port", ServerTransport)


class ClientEndpointTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = MemoryReactorClock()

    def connect(self, description):
        endpoint = client_endpoint(self.reactor, description)
        verifyObject(IStreamClientEndpoint, endpoint)
        return endpoint.connect(Factory.forProtocol(Protocol))

    def test_a_tcp_connection_attempt_times_out_after_five_seconds(self):
        self.connect("tcp:127.0.0.1:12345")
        host, port, _, timeout, _ = self.reactor.tcpClients[0]
        self.assertEqual((host, port, timeout), ("127.0.0.1", 12345, 5))
        self.assertEqual(TIMEOUT, 5)

    def test_a_timeout_in_the_endpoint_is_used(self):
        self.connect("tcp:127.0.0.1:12345:timeout=60")
        self.assertEqual(self.reactor.tcpClients[0][3], 60)

    def test_a_unix_endpoint_connects_to_its_path(self):
        self.connect("unix:/some/socket")
        self.assertEqual(self.reactor.unixClients[0][0], "/some/socket")

    def test_a_tls_endpoint_trusts_the_certificates_of_a_file_or_directory(self):
        directory = self.mktemp()
        os.mkdir(directory)
        trustme.CA().cert_pem.write_to_path(os.path.join(directory, "ca.pem"))
        for roots in (os.path.join(directory, "ca.pem"), directory):
            client_endpoint(self.reactor, f"tls:localhost:1:trustRoots={roots}")
        client_endpoint(self.reactor, "tls:localhost:1")

    def test_an_invalid_endpoint_is_refused_with_the_valid_forms(self):
        empty = self.mktemp()
        os.mkdir(empty)
        text = self.mktemp()
        with open(text, "w") as file:
            file.write("no certificate")
        for description in (
            "",
            "tcp",
            "tcp:localhost",
            "tcp:localhost:port",
            "nonsense:localhost:1",
            "tcp:localhost:1:nonsense=1",
            "tls:localhost",
            "tls:localhost:port",
            "tls:localhost:1:nonsense=1",
            "tls:localhost:1:trustRoots=/no/such/file",
            f"tls:localhost:1:trustRoots={empty}",
            f"tls:localhost:1:trustRoots={text}",
            f"tls:localhost:1:certificate={text}",
        ):
            error = self.assertRaises(ValueError, client_endpoint, self.reactor, description)
            self.assertIn("tcp:HOST:PORT", str(error), description)
            self.assertIn(repr(description), str(error), description)
            self.assertNotIn("_tls_client", str(error))

    def test_a_key_that_does_not_match_the_certificate_is_refused(self):
        ca = trustme.CA()
        paths = {}
        for name, blob in [
            ("cert", ca.issue_cert("a@x").cert_chain_pems[0]),
            ("key", ca.issue_cert("b@x").private_key_pem),
        ]:
            paths[name] = self.mktemp()
            blob.write_to_path(paths[name])
        description = "tls:localhost:1:certificate={cert}:privateKey={key}".format(**paths)
        self.assertRaises(ValueError, client_endpoint, self.reactor, description)
        server = "ssl:1:certKey={cert}:privateKey={key}".format(**paths)
        self.assertRaises(ValueError, server_endpoint, self.reactor, server)


class ClientDescriptionTests(SynchronousTestCase):
    def test_an_address_becomes_the_endpoint_that_reaches_it(self):
        for address, description in [
            (IPv4Address("TCP", "127.0.0.1", 12345), "tcp:127.0.0.1:12345"),
            (IPv4Address("TCP", "10.0.0.7", 1), "tcp:10.0.0.7:1"),
            (UNIXAddress("/run/taskd"), "unix:/run/taskd"),
            (UNIXAddress(b"/run/taskd"), "unix:/run/taskd"),
        ]:
            self.assertEqual(client_description(address), description)

    def test_a_wildcard_address_becomes_the_loopback_address(self):
        self.assertEqual(client_description(IPv4Address("TCP", "0.0.0.0", 7)), "tcp:127.0.0.1:7")
        described = client_description(IPv6Address("TCP", "::", 7))
        self.assertEqual(described.replace("\\", ""), "tcp:::1:7")

    def test_paths_and_addresses_with_special_characters_are_quoted(self):
        reactor = MemoryReactorClock()
        factory = Factory.forProtocol(Protocol)
        for path in ("/a:b", "/a\\b", "/a=b", "/a b", "/ไทย"):
            client_endpoint(reactor, client_description(UNIXAddress(path))).connect(factory)
            self.assertEqual(reactor.unixClients.pop()[0], path)
        client_endpoint(reactor, client_description(IPv6Address("TCP", "::", 7))).connect(factory)
        self.assertEqual(reactor.tcpClients.pop()[:2], ("::1", 7))

    def test_an_address_without_an_endpoint_gives_none(self):
        self.assertIsNone(client_description(UNIXAddress(None)))
        self.assertIsNone(client_description(UNIXAddress("")))
        self.assertIsNone(client_description(object()))
