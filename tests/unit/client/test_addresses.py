"""Addresses of servers, as the clients without Twisted use them."""

import os

from twisted.trial.unittest import SynchronousTestCase

from taskd.client.addresses import TcpAddress, TlsFiles, UnixAddress, WebSocketAddress, server_address


class ServerAddressTests(SynchronousTestCase):
    def setUp(self):
        self.patch(os, "environ", {})

    def test_each_form_of_an_address_is_understood(self):
        for text, address in (
            ("host:1", TcpAddress("host:1", "host", 1)),
            ("tcp:host:1", TcpAddress("tcp:host:1", "host", 1)),
            ("12345", TcpAddress("12345", "127.0.0.1", 12345)),
            ("[::1]:1", TcpAddress("[::1]:1", "::1", 1)),
            ("/run/a:b", UnixAddress("/run/a:b", "/run/a:b")),
            ("unix:/run/a\\:b", UnixAddress("unix:/run/a\\:b", "/run/a:b")),
            ("tls:host:1", TcpAddress("tls:host:1", "host", 1, TlsFiles())),
            ("ws://host", WebSocketAddress("ws://host", "host", 80)),
            ("http://host:1/a?b=c", WebSocketAddress("http://host:1/a?b=c", "host", 1, "/a?b=c")),
            ("wss://[::1]/", WebSocketAddress("wss://[::1]/", "::1", 443, "/", TlsFiles())),
        ):
            self.assertEqual(server_address(text), address)

    def test_the_files_of_tls_are_named_in_the_address(self):
        address = server_address("tls:host:1:trustRoots=ca.pem:certificate=a.pem:privateKey=b.pem")
        self.assertEqual(address.tls, TlsFiles("ca.pem", "a.pem", "b.pem"))

    def test_without_an_address_that_of_the_environment_counts_or_the_default(self):
        self.assertEqual(server_address(None), TcpAddress("127.0.0.1:12345", "127.0.0.1", 12345))
        os.environ["TASKD_SERVER"] = "host:1"
        self.assertEqual(server_address(None), TcpAddress("host:1", "host", 1))
        self.assertEqual(server_address("2"), TcpAddress("2", "127.0.0.1", 2))

    def test_a_wrong_address_names_what_is_wrong_and_the_right_forms(self):
        for text, words in (
            ("", "it is empty"),
            ("host", "it has no port"),
            ("host:0", "the port must be a number from 1 to 65535"),
            ("tcp:host:1:timeout=5", "tcp: has no option timeout"),
            ("tcp:host:1:trustRoots=a", "tcp: has no option trustRoots"),
            ("unix:/a:mode=600", "unix: has no option mode"),
            ("unix:path=/a", "it has no path"),
            ("tls:host:1:trust=a", "tls: has no option trust; there are trustRoots"),
            ("tls:host:1:privateKey=a", "privateKey= needs certificate="),
            ("ssl:host:1", "write tls:host:1"),
            ("ws://", "it has no host"),
            ("ws://user@host", "it has a user name"),
            ("ws://host:0", "the port must be a number from 1 to 65535"),
            ("ws://host:99999", "Port out of range"),
            ("ws://host/a b", "must be quoted"),
        ):
            error = self.assertRaises(ValueError, server_address, text)
            self.assertIn(words, str(error))
            self.assertIn("write HOST:PORT, ", str(error))

    def test_a_wrong_address_in_the_environment_says_where_it_is(self):
        os.environ["TASKD_SERVER"] = "host"
        error = self.assertRaises(ValueError, server_address, None)
        self.assertIn("'host' in the environment (TASKD_SERVER) is no server address", str(error))
