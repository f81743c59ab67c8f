"""Certificates that are replaced while a daemon runs, and read again at SIGHUP."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess

import pytest

from tests.live.support import APPS, TIMEOUT, run_taskd
from tests.live.test_tls import Files

APP = ("--app", str(APPS / "plain.py"), "--workers", "1")

TASK_SERVER, WEBSOCKETS = 1, 2
"""The ports of a daemon, in the order in which they listen."""


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.fixture
def used(tmp_path, files):
    """The paths that are in use; `replace` puts the contents of others there."""
    return Used(tmp_path, files.issue())


class Used:
    """A certificate and its key under names that stay."""

    def __init__(self, directory, pair):
        self.certificate, self.key = directory / "used.pem", directory / "used.key"
        self.replace(pair)

    def replace(self, pair):
        shutil.copy(pair[0], self.certificate)
        shutil.copy(pair[1], self.key)

    def encrypt(self):
        """Encrypt the key, for which OpenSSL would ask on the terminal."""
        command = ("openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", self.key)
        self.key.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)

    @property
    def pair(self):
        return self.certificate, self.key


def number_of(files, port):
    """Return the serial number of the certificate of a port, after one exchange over TLS."""
    with open_tls(files, port) as connection:
        return connection.getpeercert()["serialNumber"]


def open_tls(files, port):
    context = ssl.create_default_context(cafile=files.trust())
    sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    return context.wrap_socket(sock, server_hostname="localhost")


def hang_up(daemon):
    daemon.process.send_signal(signal.SIGHUP)


def test_new_connections_get_the_new_certificate_and_a_bad_file_changes_nothing(start, files, used):
    listening = files.listening(used.pair)
    daemon = start("--workers", "1", "--listen", listening, "--websocket", listening, "--link", "local")
    daemon.wait_until_ready()
    ports = daemon.port(TASK_SERVER), daemon.port(WEBSOCKETS)
    before = [number_of(files, port) for port in ports]
    kept = open_tls(files, ports[0])
    used.replace(files.issue())
    hang_up(daemon)
    daemon.wait_for_log("certificates read again: 2 of 2")
    after = [number_of(files, port) for port in ports]
    assert set(before).isdisjoint(after)
    kept.sendall(b'{"function": "hello"}\n')
    assert kept.recv(100) == b'"Hello, World!"\n'
    kept.close()
    daemon.wait_for_log("reloaded: ")  # the code, too
    for number, (damage, why) in enumerate(
        (
            (lambda: used.certificate.write_text("nothing"), "no certificate in .*used.pem"),
            (lambda: used.replace((files.issue()[0], files.issue()[1])), "key in .*used.key does not belong"),
            (used.encrypt, "private key in .*used.key is encrypted"),
            (used.key.unlink, "No such file.*used.key"),
            (
                lambda: used.certificate.unlink() or os.mkfifo(used.certificate),
                "used.pem is not a regular file",
            ),
            (
                lambda: used.certificate.unlink() or os.mkfifo(used.certificate),
                "used.pem is not a regular file",
            ),
        ),
        start=1,
    ):
        damage()
        hang_up(daemon)
        daemon.wait_for_log(f"certificates are not read again: .*{why}.*; the old ones stay in use", 2)
        daemon.wait_for_log("reloaded: ", number + 1)
        assert [number_of(files, port) for port in ports] == after


def test_the_clients_that_are_accepted_are_read_again_too(start, files, tmp_path):
    trusted = tmp_path / "clients.pem"
    shutil.copy(files.trust(), trusted)
    certificate, key = files.issue()
    listening = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}:clientCA={trusted}"
    daemon = start(*APP, "--listen", listening, "--websocket", "none").wait_until_ready()
    client = files.client(daemon.port(TASK_SERVER), certificate=files.issue(ca=files.other_ca))
    assert run_taskd(client, "call", "hello").returncode != 0
    shutil.copy(files.trust(files.other_ca), trusted)
    hang_up(daemon)
    daemon.wait_for_log("certificates read again: 1 of 1")
    assert (ended := run_taskd(client, "call", "hello")).stdout == '"Hello, World!"\n', ended.stderr


@pytest.mark.parametrize("link", ["per-message", "pooled"])
def test_a_gateway_alone_reads_the_certificates_of_its_links_again(start, files, tmp_path, link):
    used = Used(tmp_path, files.issue(ca=files.other_ca))
    listening = files.listening(ca=files.ca)
    server = start(*APP, "--listen", listening, "--websocket", "none").wait_until_ready()
    address = files.client(server.port(TASK_SERVER), certificate=used.pair)
    gateway = start("--listen", "none", "--task-server", address, "--link", link)
    via = f"ws://127.0.0.1:{gateway.port(1)}"
    assert run_taskd("", "call", "hello", "--via", via).returncode != 0
    used.replace(files.issue())
    hang_up(gateway)
    gateway.wait_for_log("certificates read again: 1 of 1")
    assert (ended := run_taskd("", "call", "hello", "--via", via)).stdout == '"Hello, World!"\n', ended.stderr
    used.certificate.unlink()
    hang_up(gateway)
    gateway.wait_for_log("certificates are not read again: .*used.pem.*; the old ones stay in use")
    assert (ended := run_taskd("", "call", "hello", "--via", via)).stdout == '"Hello, World!"\n', ended.stderr


def test_a_gateway_without_certificates_says_that_there_is_nothing_to_reload(start, shared):
    gateway = start("--listen", "none", "--task-server", shared.tcp)
    via = f"ws://127.0.0.1:{gateway.port(1)}"
    assert run_taskd("", "call", "hello", "--via", via).returncode == 0
    hang_up(gateway)
    gateway.wait_for_log("there is nothing to reload")
