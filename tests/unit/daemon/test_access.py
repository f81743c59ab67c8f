"""Tests of the access to a daemon: which ports are refused, and how its files are read."""

from pathlib import Path

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from taskd.auth.access_config import AccessConfig
from taskd.daemon.access import (
    PublicPorts,
    is_public,
    open_sealer,
    open_server_token,
    open_verifier,
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
        error = self.assertRaises(StartError, open_server_token, str(self.path))
        self.assertIn("--task-server-token", str(error))
        self.assertIsNone(open_sealer(None))
        self.assertIsNone(open_server_token(None))
        self.assertIsNone(open_verifier(AccessConfig()))

    def found(self, **options: list[str]) -> list[str]:
        given = {name.replace("_", "-"): on_command_line(name, texts) for name, texts in options.items()}
        return list(problems(settle(given, {}, ".")))

    def test_a_check_of_the_options_finds_public_ports_and_wrong_files(self) -> None:
        missing = [str(self.path)]
        [port_, tokens, keys, secrets, shown] = [
            *self.found(websocket=["tcp:0"]),
            *self.found(tokens=missing),
            *self.found(jwt_key=missing),
            *self.found(secret_key=missing),
            *self.found(task_server_token=missing, task_server=["tcp:localhost:1"]),
        ]
        self.assertIn("--websocket tcp:0 is open to other machines", port_)
        for text in tokens, keys, secrets, shown:
            self.assertIn("cannot be read", text)
        self.assertEqual(self.found(websocket=["tcp:0"], insecure_public=["true"]), [])
        self.assertEqual(self.found(), [])
