"""systemd's notify protocol, received on a real socket from a real daemon."""

from __future__ import annotations

import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.live.support import APPS, TIMEOUT, Connection, Daemon, Gate, bare

Start = Callable[..., Daemon]

ENVIRONMENT_APP = """
import os
from taskd import task

@task
def variables():
    return sorted(os.environ)

@task
def links():
    return [os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")[:-1]]
"""


class Supervisor:
    """A receiver of what a daemon reports; `environment` is for the daemon."""

    def __init__(self) -> None:
        name = f"taskd-{secrets.token_hex(8)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name}")
        self._socket.settimeout(TIMEOUT)
        self.environment = {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "400000"}
        self.received: list[dict[str, str]] = []

    def receive(self) -> dict[str, str]:
        """Return the next datagram."""
        lines = self._socket.recv(4096).decode().split("\n")
        self.received.append(dict(line.split("=", 1) for line in lines))
        return self.received[-1]

    def wait_for(self, name: str) -> dict[str, str]:
        """Return the next datagram that assigns to `name`."""
        while name not in (received := self.receive()):
            pass
        return received

    def pending(self) -> list[dict[str, str]]:
        """Return the datagrams that have come."""
        self._socket.setblocking(False)
        count = len(self.received)
        with suppress(BlockingIOError):
            while True:
                self.receive()
        return self.received[count:]

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """A supervisor that listens."""
    listening = Supervisor()
    yield listening
    listening.close()


def test_a_supervisor_follows_a_daemon_from_its_start_to_its_end(
    start: Start, supervisor: Supervisor, tmp_path: Path, gate: Gate
) -> None:
    path = tmp_path / "environment.py"
    path.write_text(ENVIRONMENT_APP)
    apps = ("--app", str(path), "--app", str(APPS / "plain.py"))
    daemon = start(*apps, "--workers", "2", env=supervisor.environment)
    assert "the app is imported" in supervisor.receive()["STATUS"]
    # Whoever knows that the daemon is ready can call at once.
    assert supervisor.receive() == {"READY": "1", "STATUS": "ready"}
    client = daemon.connect()
    variables = client.ask(bare("variables"))
    assert "PATH" in variables
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(variables)
    for _ in range(2):
        assert supervisor.receive() == {"WATCHDOG": "1"}

    os.kill(daemon.process.pid, signal.SIGHUP)
    reloading = supervisor.wait_for("RELOADING")
    assert int(reloading["MONOTONIC_USEC"]) > 0
    assert supervisor.wait_for("READY")["STATUS"].endswith("functions, generation 2")
    path.write_text("raise ValueError('no')")
    os.kill(daemon.process.pid, signal.SIGHUP)
    supervisor.wait_for("RELOADING")
    assert "not reloaded, the old code goes on" in supervisor.wait_for("READY")["STATUS"]

    client.send(gate.call())
    gate.wait_until_entered()
    daemon.process.send_signal(signal.SIGTERM)
    assert supervisor.wait_for("STOPPING")["STATUS"] == "stopping"
    assert int(supervisor.wait_for("EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) == 15_000_000
    assert "waiting up to 30 s for 1 task" in supervisor.wait_for("STATUS")["STATUS"]
    gate.release("done")
    assert supervisor.wait_for("STATUS")["STATUS"] == "stopping: all tasks have ended"
    assert client.receive() == "done"
    daemon.wait_for_end()
    assert sum("STOPPING" in each for each in supervisor.received) == 1


def test_an_app_that_cannot_be_imported_is_never_ready(
    start: Start, supervisor: Supervisor, tmp_path: Path
) -> None:
    path = tmp_path / "broken.py"
    path.write_text("raise ValueError('no')")
    daemon = start("--app", str(path), env=supervisor.environment)
    assert daemon.wait_for_end() == 1
    assert all("READY" not in each for each in supervisor.pending())


def test_a_daemon_serves_for_the_drain_time_and_a_second_signal_skips_the_rest_of_it(start: Start) -> None:
    daemon = start("--workers", "1", "--drain-time", "3600").wait_until_ready()
    client = daemon.connect()
    assert client.ask(bare("hello")) == "Hello, World!"
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for_log("draining: everything is served for 3600 s more")
    status = daemon.status()  # over a new connection
    assert (status["unready"]["reason"], status["stopping"]) == ("draining", False)
    assert client.ask(bare("hello")) == "Hello, World!"
    with socket.create_connection(("127.0.0.1", daemon.port(2)), TIMEOUT) as checking:
        checking.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = checking.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"draining"' in answer
    daemon.process.send_signal(signal.SIGTERM)
    assert client.receive() is None
    assert daemon.wait_for_end() == -signal.SIGTERM
    assert "ending at once" not in daemon.log


class Activated(Daemon):
    """A daemon to which the sockets are passed that systemd would have opened; they stay open here."""

    def __init__(self, sockets: list[socket.socket], *options: str, directory: Path) -> None:
        self.passed = [sock.fileno() for sock in sockets]
        super().__init__(*options, directory=directory)

    def command(self, *arguments: str) -> list[str]:
        """Have a shell number the descriptors, since it knows the id of the process."""
        numbered = " ".join(f"{3 + place}<&{descriptor}" for place, descriptor in enumerate(self.passed))
        variables = f"LISTEN_PID=$$ LISTEN_FDS={len(self.passed)} LISTEN_FDNAMES=tasks:web"
        return ["bash", "-c", f'exec {numbered}; {variables} exec "$@"', "sh", *super().command(*arguments)]


def test_connections_wait_while_a_daemon_is_restarted_whose_sockets_are_passed_to_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tasks, socket.socket(socket.AF_UNIX) as web:
        web.bind(str(tmp_path / "web"))
        web.listen()
        mode = (tmp_path / "web").stat().st_mode
        options = ("--listen", "systemd:tasks", "--websocket", "systemd:web", "--workers", "1")
        app = ("--app", str(APPS / "plain.py"), "--app", str(tmp_path / "environment.py"))
        (tmp_path / "environment.py").write_text(ENVIRONMENT_APP)

        def run() -> Activated:
            return Activated([tasks, web], *app, *options, directory=tmp_path)

        waiting = connect(tasks).send(bare("hello"))  # before anybody accepts it
        daemon = run()
        assert waiting.receive() == "Hello, World!"
        links = connect(tasks).ask(bare("links"))
        own = {os.readlink(f"/proc/self/fd/{sock.fileno()}") for sock in (tasks, web)}
        assert own.isdisjoint(links)
        assert not {"LISTEN_FDS", "LISTEN_PID"} & set(connect(tasks).ask(bare("variables")))
        assert daemon.stop() == -signal.SIGTERM
        assert (tmp_path / "web").stat().st_mode == mode
        between = connect(tasks).send(bare("hello"))
        daemon = run()
        assert between.receive() == "Hello, World!"
        assert daemon.stop() == -signal.SIGTERM


def connect(listening: socket.socket) -> Connection:
    return Connection(socket.create_connection(listening.getsockname(), TIMEOUT))
