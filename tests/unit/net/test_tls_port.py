"""A TLS port's answer to clients that begin without TLS, and what clients make of such answers."""

import contextlib
from functools import partial

import trustme
from OpenSSL import SSL
from twisted.internet import ssl
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.strangers import REFUSED_BY_TLS, not_a_task_server
from taskd.net.time_limits import OPENING_SECONDS
from taskd.net.tls_port import (
    KEY_UPDATE_SECONDS,
    MAX_KEY_UPDATES,
    PIECE,
    RefusingPlain,
    note_handshakes,
)


class RefusingPlainTests(SynchronousTestCase):
    def setUp(self):
        leaf = trustme.CA().issue_cert("localhost")
        options = ssl.PrivateCertificate.loadPEM(leaf.private_key_and_cert_chain_pem.bytes()).options()
        note_handshakes(options.getContext())
        self.inner = Protocol()
        factory = TLSMemoryBIOFactory(options, False, Factory.forProtocol(lambda: self.inner))
        self.clock = Clock()
        factory.protocol = partial(RefusingPlain, self.clock)
        self.port = factory.buildProtocol(None)
        self.transport = StringTransport()
        self.port.makeConnection(self.transport)

    def shake_hands(self):
        """Return a client whose handshake with the port is finished."""
        client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        client.set_connect_state()
        for _ in range(3):
            with contextlib.suppress(SSL.WantReadError):
                client.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                self.port.dataReceived(client.bio_read(65536))
            if self.transport.value():
                client.bio_write(self.transport.value())
                self.transport.clear()
        return client

    def send(self, client, data):
        """Have the port receive `data` from the client, all at once."""
        ciphertext = b""
        while data:
            data = data[client.send(data) :]
            ciphertext += client.bio_read(65536)
        self.port.dataReceived(ciphertext)

    def test_text_is_answered_with_an_alert_and_a_sentence(self):
        self.port.dataReceived(b'{"function":"hello"}\n')
        self.assertEqual(self.transport.value(), REFUSED_BY_TLS)
        self.assertTrue(self.transport.disconnecting)
        self.assertIn("tls:", not_a_task_server(self.transport.value()))

    def test_http_is_answered_with_http(self):
        self.port.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 400 "))
        self.assertIn(b"this port speaks TLS", self.transport.value())

    def test_data_after_a_refusal_is_dropped(self):
        self.port.dataReceived(b"hello\n")
        self.port.dataReceived(b"\x16 and whatever follows")
        self.assertEqual(self.transport.value(), REFUSED_BY_TLS)

    def test_tls_is_passed_on(self):
        self.port.dataReceived(b"\x16\x03\x01\0\x05")
        self.assertEqual(self.transport.value(), b"")
        self.assertFalse(self.transport.disconnecting)

    def test_a_handshake_that_trickles_in_has_an_absolute_limit(self):
        for byte in b"\x16\x03\x01\x01\0\x01":
            self.port.dataReceived(bytes([byte]))
            self.assertFalse(self.transport.disconnected)
            self.clock.advance(OPENING_SECONDS / 6)
        self.assertTrue(self.transport.disconnected)

    def test_a_finished_handshake_has_no_limit_any_more(self):
        self.shake_hands()
        self.clock.advance(OPENING_SECONDS)
        self.assertFalse(self.transport.disconnected)

    def test_many_handshake_messages_in_a_short_time_end_the_connection(self):
        client = self.shake_hands()
        for _ in range(2 * MAX_KEY_UPDATES):
            self.port.handshake_rests()
        self.send(client, b"x")
        self.assertFalse(self.transport.disconnected)
        self.port.handshake_rests()
        self.send(client, b"x")
        self.assertTrue(self.transport.disconnected)

    def test_rare_handshake_messages_are_forgotten(self):
        client = self.shake_hands()
        for _ in range(2):
            for _ in range(2 * MAX_KEY_UPDATES):
                self.port.handshake_rests()
            self.clock.advance(KEY_UPDATE_SECONDS + 1)
            self.send(client, b"x")
        self.assertFalse(self.transport.disconnected)

    def test_the_first_handshake_is_not_counted(self):
        for _ in range(4 * MAX_KEY_UPDATES):
            self.port.handshake_rests()
        client = self.shake_hands()
        self.send(client, b"x")
        self.assertFalse(self.transport.disconnected)

    def test_openssl_reports_its_handshakes_to_the_connection_that_they_are_of(self):
        counted = []
        self.port.handshake_rests = lambda: counted.append(1)
        self.port.getHandle().set_app_data(self.port)
        self.shake_hands()
        self.assertTrue(counted)

    def test_long_ciphertext_is_passed_on_in_pieces_and_nothing_is_lost(self):
        received = []
        self.inner.dataReceived = received.append
        data = bytes(range(256)) * 500
        self.assertGreater(len(data), 4 * PIECE)
        self.send(self.shake_hands(), data)
        self.assertEqual(b"".join(received), data)

    def test_no_timer_is_left_of_a_client_that_has_gone(self):
        self.port.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StrangersTests(SynchronousTestCase):
    def test_a_port_of_another_protocol_is_recognised(self):
        for data, word in (
            (b"\x15\x03\x03\0\x02\x02\x28", "TLS"),
            (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        ):
            self.assertIn(word, not_a_task_server(data))

    def test_a_reply_and_nothing_at_all_are_not_taken_for_a_stranger(self):
        for data in (b"", b'{"jsonrpc":"2.0"}', b"null", b'"HTTP/"'):
            self.assertEqual(not_a_task_server(data), "")
