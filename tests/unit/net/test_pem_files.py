"""Keys and certificates from files: what is read, and what is refused without waiting."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from twisted.internet import ssl
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.pem_files import MAX_BYTES, load_certificates, load_key, load_trust
from taskd.net.tls import ssl_server, tls_client


class PemFileTests(SynchronousTestCase):
    def setUp(self):
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.leaf = trustme.CA().issue_cert("localhost")

    def file(self, name, data):
        path = self.directory / name
        path.write_bytes(data)
        return str(path)

    def key(self):
        return self.file("plain.key", self.leaf.private_key_pem.bytes())

    def certificate(self):
        return self.file("plain.pem", self.leaf.cert_chain_pems[0].bytes())

    def encrypted_key(self, form):
        key = serialization.load_pem_private_key(self.leaf.private_key_pem.bytes(), None)
        encryption = serialization.BestAvailableEncryption(b"secret")
        return self.file("encrypted.key", key.private_bytes(serialization.Encoding.PEM, form, encryption))

    def fifo(self):
        path = self.directory / "fifo.pem"
        os.mkfifo(path)
        return str(path)

    def refused(self, load, path):
        return str(self.assertRaises(ValueError, load, path))

    def test_keys_and_certificates_are_read(self):
        self.assertEqual(load_key(self.key()).bits(), 256)
        self.assertEqual(len(load_certificates(self.certificate())), 1)
        for path in (self.certificate(), str(self.directory)):
            ssl.CertificateOptions(trustRoot=load_trust(path)).getContext()

    def test_an_encrypted_key_is_refused_with_the_command_that_decrypts_it(self):
        for form in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
            path = self.encrypted_key(form)
            why = self.refused(load_key, path)
            self.assertIn("is encrypted", why)
            self.assertIn(f"openssl pkey -in {path} -out FILE", why)

    def test_the_key_of_a_server_and_of_a_client_is_refused_alike(self):
        encrypted = self.encrypted_key(serialization.PrivateFormat.PKCS8)
        own = self.certificate()
        for make in (
            lambda: ssl_server(Clock(), "0", privateKey=encrypted, certKey=own, backlog="5"),
            lambda: tls_client(Clock(), 1.0, "localhost", "1", certificate=own, privateKey=encrypted),
        ):
            self.assertIn("is encrypted", str(self.assertRaises(ValueError, make)))

    def test_an_encrypted_certificate_is_refused(self):
        text = Path(self.certificate()).read_bytes()
        header = b"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,000102030405060708090A0B0C0D0E0F\n\n"
        first, rest = text.split(b"\n", 1)
        path = self.file("encrypted.pem", first + b"\n" + header + rest)
        self.assertIn("is encrypted", self.refused(load_certificates, path))

    def test_nothing_but_a_regular_file_is_read(self):
        fifo = self.fifo()
        for load in (load_key, load_certificates, load_trust):
            for path in (fifo, "/dev/zero"):
                self.assertEqual(self.refused(load, path), f"{path} is not a regular file")
        self.assertIn("not a regular file", self.refused(load_trust, str(self.directory)))
        self.assertRaises(IsADirectoryError, load_certificates, str(self.directory))

    def test_a_file_that_is_far_too_long_is_refused(self):
        path = self.file("long.pem", b"")
        os.truncate(path, MAX_BYTES + 1)
        for load in (load_key, load_certificates):
            self.assertEqual(self.refused(load, path), f"{path} is over {MAX_BYTES} bytes")

    def test_a_missing_or_damaged_file_is_named(self):
        empty = self.file("empty", b"")
        damaged = self.file("damaged", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
        self.assertEqual(self.refused(load_key, empty), f"there is no private key in {empty}")
        self.assertEqual(self.refused(load_certificates, empty), f"there is no certificate in {empty}")
        self.assertEqual(
            self.refused(load_certificates, damaged), f"there is a damaged certificate in {damaged}"
        )
        with tempfile.TemporaryDirectory() as directory:
            self.assertEqual(self.refused(load_trust, directory), f"there is no certificate in {directory}")
        self.assertRaises(OSError, load_key, str(self.directory / "missing"))

    def test_nothing_asks_on_a_terminal(self):
        path = self.encrypted_key(serialization.PrivateFormat.PKCS8)
        program = (
            "import os, pty, sys\n"
            "pid, terminal = pty.fork()\n"
            "if pid == 0:\n"
            "    from taskd.net.pem_files import load_key\n"
            "    try: load_key(sys.argv[1])\n"
            "    except ValueError as error: print('refused')\n"
            "    os._exit(0)\n"
            "said = b''\n"
            "try:\n"
            "    while b'phrase:' not in said and b'refused' not in said: said += os.read(terminal, 1000)\n"
            "except OSError: pass\n"
            "os.close(terminal)\n"
            "print(said.decode())\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60
        )
        self.assertNotIn("pass phrase:", ended.stdout + ended.stderr)
