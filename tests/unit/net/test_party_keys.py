"""Which party is at the other end of a connection, and whether it may name callers."""

import os
import socket

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.party_keys import UNKNOWN, is_trusted, party_key
from taskd.net.server_transport import ServerTransport
from tests.unit.net.test_server_transport import Recorder
from tests.unit.sockets import FakeReactor, FakeSocket


def accepted(client, sock=None):
    """Return the transport of an accepted connection from a socket's name."""
    return ServerTransport(sock or FakeSocket(), Recorder(), client, None, 0, FakeReactor())


class TlsTransport(StringTransport):
    """A transport as TLS provides it."""

    def __init__(self, host, certificate):
        super().__init__(peerAddress=IPv4Address("TCP", host, 50000))
        self.certificate = certificate

    def getPeerCertificate(self):
        return self.certificate


class PartyKeyTests(SynchronousTestCase):
    def test_the_party_of_an_ipv4_connection_is_its_address(self):
        self.assertEqual(party_key(accepted(("192.0.2.7", 50000))), "192.0.2.7")

    def test_an_ipv4_address_that_is_mapped_into_ipv6_is_the_same_party(self):
        self.assertEqual(party_key(accepted(("::ffff:192.0.2.7", 50000, 0, 0))), "192.0.2.7")

    def test_the_party_of_an_ipv6_connection_is_its_network(self):
        for host in "2001:db8:0:1::1", "2001:db8:0:1:ffff::2":
            self.assertEqual(party_key(accepted((host, 50000, 0, 0))), "2001:db8:0:1::/64")
        self.assertEqual(party_key(accepted(("fe80::1%eth0", 50000, 0, 2))), "fe80::/64")
        self.assertEqual(party_key(accepted(("::1", 50000, 0, 0))), "::1")

    def test_the_party_of_a_unix_socket_is_its_user(self):
        one, other = socket.socketpair()
        self.addCleanup(other.close)
        self.addCleanup(one.close)
        self.assertEqual(party_key(accepted("", one)), f"uid {os.getuid()}")

    def test_other_transports_are_asked_for_their_peer(self):
        peer = IPv6Address("TCP", "2001:db8::1", 50000)
        self.assertEqual(party_key(StringTransport(peerAddress=peer)), "2001:db8::/64")
        self.assertEqual(party_key(StringTransport(peerAddress=UNIXAddress(None))), UNKNOWN)


class TrustTests(SynchronousTestCase):
    def test_connections_from_this_machine_may_name_callers(self):
        for client in ("127.0.0.1", 1), ("127.9.9.9", 1), ("::1", 1, 0, 0), ("::ffff:127.0.0.1", 1, 0, 0):
            self.assertTrue(is_trusted(accepted(client)), client)
        one, other = socket.socketpair()
        self.addCleanup(other.close)
        self.addCleanup(one.close)
        self.assertTrue(is_trusted(accepted(None, one)))

    def test_others_may_not(self):
        for client in ("192.0.2.7", 1), ("1.127.0.0", 1), ("::1:1", 1, 0, 0), ("::ffff:192.0.2.7", 1, 0, 0):
            self.assertFalse(is_trusted(accepted(client)), client)
        self.assertFalse(is_trusted(StringTransport(peerAddress=UNIXAddress(None))))

    def test_a_client_certificate_is_trusted(self):
        self.assertTrue(is_trusted(TlsTransport("192.0.2.7", object())))
        self.assertFalse(is_trusted(TlsTransport("192.0.2.7", None)))
        self.assertTrue(is_trusted(TlsTransport("127.0.0.1", None)))
