"""Addresses as people write them, and the endpoint strings that they mean."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.client_addresses import endpoint_from, is_websocket, websocket_url
from taskd.net.endpoints import client_endpoint, plain_address


class EndpointTests(SynchronousTestCase):
    def test_an_address_as_people_write_it_is_completed(self):
        for address, endpoint in (
            ("localhost:12345", "tcp:localhost:12345"),
            ("10.0.0.7:1", "tcp:10.0.0.7:1"),
            ("12345", "tcp:127.0.0.1:12345"),
            (":12345", "tcp:127.0.0.1:12345"),
            ("tcp:12345", "tcp:127.0.0.1:12345"),
            ("tcp::12345", "tcp:127.0.0.1:12345"),
            ("[::1]:12345", "tcp:\\:\\:1:12345"),
            ("tls:[::1]:12345:trustRoots=a.pem", "tls:\\:\\:1:12345:trustRoots=a.pem"),
            ("tcp://host:1/", "tcp:host:1"),
            ("TCP:host:1", "tcp:host:1"),
            (" host:1\n", "tcp:host:1"),
            ("/run/taskd.sock", "unix:/run/taskd.sock"),
            ("./a:b", "unix:./a\\:b"),
            ("unix:///run/taskd.sock", "unix:/run/taskd.sock"),
            ("unix:sock", "unix:sock"),
            ("tcp:host:1:timeout=60", "tcp:host:1:timeout=60"),
            ("tcp:\\:\\:1:12345", "tcp:\\:\\:1:12345"),
            ("tcp:host=host:port=1", "tcp:host:1"),
            ("tcp:port=1:host=host", "tcp:host:1"),
            ("tcp:host:port=1", "tcp:host:1"),
            ("tcp:host=host:1:timeout=60", "tcp:host:1:timeout=60"),
            ("tcp:host:timeout=60:port=1", "tcp:host:1:timeout=60"),
        ):
            self.assertEqual(endpoint_from(address), endpoint)
            if not address.startswith("tls"):
                client_endpoint(MemoryReactorClock(), address)

    def test_an_address_of_numbers_is_connected_to_without_an_endpoint(self):
        for address in ("12345", "127.0.0.1:12345", "tcp:127.0.0.1:12345"):
            self.assertEqual(plain_address(address).name, ("127.0.0.1", 12345))

    def test_a_text_that_is_no_address_is_refused_with_the_reason(self):
        for address, words in (
            ("", "is empty"),
            ("localhost", "no port"),
            ("tcp:localhost", "no port"),
            ("tcp", "no port"),
            ("host:port", "number from 1 to 65535"),
            ("host:0", "number from 1 to 65535"),
            ("host:65536", "number from 1 to 65535"),
            ("tcp:host:-1", "number from 1 to 65535"),
            ("\uff12", "number from 1 to 65535"),
            ("::1:12345", "[::1]:12345"),
            ("[host]:1", "no IPv6 address"),
            ("a:b:c", "no kind of endpoint"),
            ("user@host:1", "no host"),
            ("a b:1", "no host"),
            ("*:1", "no host"),
            ("tls:12345", "no host"),
            ("tls::12345", "no host"),
            ("unix:", "no path"),
            ("tcp:host:1:", "NAME=VALUE"),
            ("tcp:1:interface=127.0.0.1", "tcp:127.0.0.1:1"),
            ("tcp:x\0y:1", "cannot be printed"),
            ("redis://host:1", "does not speak redis"),
            ("http://host:1", "address of a gateway"),
            ("ws://host:1", "address of a gateway"),
        ):
            self.assertIn(words, str(self.assertRaises(ValueError, endpoint_from, address)), address)
            error = self.assertRaises(ValueError, client_endpoint, MemoryReactorClock(), address)
            self.assertEqual(str(error).count("\n"), 0)

    @given(st.text(st.sampled_from("a1:/[]\\=.@ \n"), max_size=12))
    def test_any_text_is_an_endpoint_or_a_value_error(self, text):
        try:
            client_endpoint(MemoryReactorClock(), text)
        except ValueError:
            return
        plain_address(text)


class GatewayTests(SynchronousTestCase):
    def test_an_address_of_the_web_is_that_of_a_gateway(self):
        for address, url in (
            ("ws://a:1", "ws://a:1"),
            ("HTTP://a:1/b", "ws://a:1/b"),
            ("https://a", "wss://a"),
            (" wss://a ", "wss://a"),
        ):
            self.assertTrue(is_websocket(address))
            self.assertEqual(websocket_url(address), url)
        for address in ("tcp://a:1", "a:1", ""):
            self.assertFalse(is_websocket(address))
            self.assertRaises(ValueError, websocket_url, address)
