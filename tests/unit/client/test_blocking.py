"""The making of a `Client`: mistakes show at once, and nothing is connected."""

import ssl
from pathlib import Path

import trustme
from twisted.trial.unittest import SynchronousTestCase

from taskd.client import Client
from taskd.client.addresses import TlsFiles
from taskd.client.tls_context import tls_context, why_refused
from taskd.errors import Unreachable


class ClientTests(SynchronousTestCase):
    def test_a_mistake_is_reported_when_the_client_is_made(self):
        for address, options, words in (
            ("host", {}, "it has no port"),
            ("host:1", {"pool": -1}, "pool is a number of connections"),
            ("host:1", {"connect_timeout": 0}, "connect_timeout is a number of seconds above 0"),
            ("/a", {"tls": ssl.create_default_context()}, "is a unix socket, on which there is no TLS"),
            ("tls:host:1:trustRoots=/no/file", {}, "/no/file: No such file"),
        ):
            self.assertIn(words, str(self.assertRaises(ValueError, Client, address, **options)))

    def test_a_wrong_option_or_function_is_reported_before_anything_is_sent(self):
        client = Client("127.0.0.1:9")
        self.assertRaises(ValueError, client.with_options, timeout=-1)
        self.assertRaises(ValueError, client.map, "f", [1], concurrency=0)
        self.assertRaises(TypeError, client.map, Path, [1])
        self.assertRaises(ValueError, client.with_options(key="k").map, "f", [1])
        self.assertRaises(TypeError, client.submit, Path)

    def test_a_client_and_its_handles_show_what_they_are(self):
        client = Client("host:1")
        self.assertEqual(repr(client.with_options(timeout=1)), "<Client host:1>")
        self.assertEqual(repr(client.task("7")), "<Task 7>")
        self.assertEqual(repr(client.batch("7")), "<Batch 7>")

    def test_rows_that_cannot_be_sent_have_errors_in_place_of_results(self):
        client = Client("/no/socket", connect_timeout=0.01)
        found = list(client.map("f", [1, 2], return_exceptions=True))
        self.assertEqual([row for row, _ in found], [1, 2])
        for _, error in found:
            self.assertIsInstance(error, Unreachable)
            self.assertIs(error.data["sent"], False)


class TlsTests(SynchronousTestCase):
    def setUp(self):
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.ca = trustme.CA()
        self.ca_file = self.directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)

    def own(self, name, text):
        path = self.directory / name
        path.write_bytes(text)
        return str(path)

    def test_the_cas_are_in_a_file_or_in_a_directory(self):
        for path in (self.ca_file, self.directory):
            context = tls_context(TlsFiles(str(path)))
            self.assertTrue(context.check_hostname)
            self.assertEqual(context.cert_store_stats()["x509_ca"], 1)

    def test_without_cas_those_of_the_system_count(self):
        self.assertEqual(tls_context(TlsFiles()).verify_mode, ssl.CERT_REQUIRED)

    def test_a_certificate_of_the_client_has_its_key_beside_it_or_in_another_file(self):
        issued = self.ca.issue_cert("me@example.org")
        both = self.own("both.pem", issued.private_key_and_cert_chain_pem.bytes())
        certificate = self.own("cert.pem", issued.cert_chain_pems[0].bytes())
        key = self.own("key.pem", issued.private_key_pem.bytes())
        tls_context(TlsFiles(str(self.ca_file), both))
        tls_context(TlsFiles(str(self.ca_file), certificate, key))

    def test_files_that_cannot_be_used_are_named(self):
        empty = self.directory / "empty"
        empty.mkdir()
        text = self.own("text.pem", b"text")
        other = self.own("other.key", self.ca.issue_cert("a@b").private_key_pem.bytes())
        issued = self.own("cert.crt", self.ca.issue_cert("c@d").cert_chain_pems[0].bytes())
        for files, words in (
            (TlsFiles(text), f"there is no certificate in {text}"),
            (TlsFiles(str(empty)), f"there is no certificate in {empty}"),
            (TlsFiles("/no/file"), "/no/file: No such file"),
            (TlsFiles(str(self.ca_file), "/no/file"), "/no/file or /no/file: No such file"),
            (TlsFiles(str(self.ca_file), text), "is no certificate of a client"),
            (TlsFiles(str(self.ca_file), issued, other), "is no certificate of a client"),
        ):
            self.assertIn(words, str(self.assertRaises(ValueError, tls_context, files)))

    def test_an_error_of_tls_is_explained(self):
        error = ssl.SSLError(1, "[SSL: NO_SHARED_CIPHER] no shared cipher")
        error.reason = "NO_SHARED_CIPHER"
        self.assertEqual(why_refused(error, "host"), "TLS: no shared cipher")
