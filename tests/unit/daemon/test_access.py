"""Tests of the access to a daemon: which ports are refused, and how its files are read."""

from pathlib import Path

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from taskd.auth.access_config import AccessConfig
from taskd.auth.tokens import hash_of, new_token
from taskd.daemon.access import (
    PublicPorts,
    is_public,
    open_sealer,
    open_verifier,
    read_tokens_again,
    static_address,
)
from taskd.daemon.checking import problems
from taskd.errors import StartError
from taskd.settings.settings import on_command_line, settle


def port(host: str) -> IPv4Address | IPv6Address:
    return IPv6Address("TCP", host, 1) if ":" in host else IPv4Address("TCP", host, 1)


class PublicPortTests(SynchronousTestCase):
    def test_only_ports_for_this_machine_and_those_with_client_certificates_are_not_public(self) -> None:
        for host in "127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1":
            self.assertFalse(is_public("systemd:web", port(host)), host)
        for host in "0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0", "::ffff:10.0.0.1", "no address":
            self.assertTrue(is_public("tcp:1", port(host)), host)
        self.assertFalse(is_public("unix:/run/x", UNIXAddress("/run/x")))
        self.assertTrue(is_public("onion:80", object()))
        self.assertTrue(is_public("ssl:1:privateKey=k", port("0.0.0.0")))
        self.assertFalse(is_public("ssl:1:privateKey=k:clientCA=ca", port("0.0.0.0")))

    def test_an_endpoint_string_tells_where_it_would_be_bound(self) -> None:
        public = {
            "tcp:1": True,
            "ssl:1:privateKey=k": True,
            "tcp6:1": True,
            "tcp:1:interface=localhost": False,
            r"tcp:1:interface=\:\:1": False,
            r"tcp6:1:interface=\:\:1": False,
            "unix:/run/x": False,
        }
        for description, expected in public.items():
            self.assertEqual(is_public(description, static_address(description)), expected, description)
        self.assertIsNone(static_address("systemd:web"))

    def test_a_public_port_is_refused_with_what_to_do(self) -> None:
        ports = PublicPorts(asks_for_tokens=False, is_insecure=False)
        ports.check("--listen", "tcp:1", port("127.0.0.1"))
        error = self.assertRaises(StartError, ports.check, "--websocket", "tcp:1", port("0.0.0.0"))
        for text in (
            "--websocket tcp:1",
            "--tokens",
            "--jwt-key",
            "clientCA=",
            "127.0.0.1",
            "--insecure-public",
        ):
            self.assertIn(text, str(error))

    def test_a_public_port_is_allowed_with_tokens_and_logged_if_it_is_insecure(self) -> None:
        with capturedLogs() as events:
            PublicPorts(asks_for_tokens=True, is_insecure=False).check("--listen", "tcp:1", port("::"))
            self.assertEqual(events, [])
            PublicPorts(asks_for_tokens=False, is_insecure=True).check("--listen", "tcp:1", port("::"))
        [event] = events
        self.assertIn("--insecure-public", event["log_format"])


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def test_files_that_cannot_be_used_end_the_start(self) -> None:
        error = self.assertRaises(StartError, open_verifier, AccessConfig(str(self.path)))
        self.assertIn("cannot be read", str(error))
        self.assertIn("--secret-key", str(self.assertRaises(StartError, open_sealer, str(self.path))))
        self.assertIsNone(open_sealer(None))
        self.assertIsNone(open_verifier(AccessConfig()))

    def test_a_broken_file_keeps_the_tokens_that_there_were(self) -> None:
        token = new_token()
        self.path.write_text(f'[tokens.ci]\nhash = "{hash_of(token)}"\n')
        verifier = open_verifier(AccessConfig(str(self.path)))
        self.assertTrue(read_tokens_again(verifier))
        self.path.write_text("broken")
        with capturedLogs() as events:
            self.assertFalse(read_tokens_again(verifier))
        self.assertIn("the old ones stay in use", events[0]["log_format"])
        self.assertEqual(verifier.verify(token, 0).name, "ci")

    def found(self, **options: list[str]) -> list[str]:
        given = {name.replace("_", "-"): on_command_line(name, texts) for name, texts in options.items()}
        return list(problems(settle(given, {}, ".")))

    def test_a_check_of_the_options_finds_public_ports_and_wrong_files(self) -> None:
        missing = [str(self.path)]
        [port_, tokens, keys, secrets] = [
            *self.found(websocket=["tcp:0"]),
            *self.found(tokens=missing),
            *self.found(jwt_key=missing),
            *self.found(secret_key=missing),
        ]
        self.assertIn("--websocket tcp:0 is open to other machines", port_)
        for text in tokens, keys, secrets:
            self.assertIn("cannot be read", text)
        self.assertEqual(self.found(websocket=["tcp:0"], insecure_public=["true"]), [])
        self.assertEqual(self.found(), [])
