"""A real `twistd taskd` for the tests, and raw sockets to talk to it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
APPS = Path(__file__).parent / "apps"
TIMEOUT = 30.0
"""Seconds after which a test that still waits has failed."""


class Daemon:
    """One `twistd -n taskd` on ports of its own; its log is read as it is written.

    `tcp` and `ws` are the addresses for clients, where it listens there.
    """

    def __init__(self, *options: str, directory: Path, env: dict[str, str] | None = None, web: bool = False) -> None:
        ports = ["--listen", "tcp:0:interface=127.0.0.1"] if "--listen" not in options else []
        ports += ["--websocket", "tcp:0:interface=127.0.0.1"] if "--websocket" not in options else []
        self.name = f"test-{os.getpid()}-{id(self)}"
        command = ["taskd", *ports, "--name", self.name, *options]
        if web:
            command = ["web", *options]
        self.process = subprocess.Popen(
            [str(BIN / "twistd"), "--nodaemon", "--pidfile=", *command],
            cwd=directory,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def log(self) -> str:
        """Everything that it has logged so far."""
        with self._changed:
            return "\n".join(self._lines)

    def wait_for_log(self, pattern: str, count: int = 1) -> re.Match[str]:
        """The `count`-th place in the log that matches, once it is there. Fails when the server ends without it."""

        def found() -> re.Match[str] | None:
            matches = [match for line in self._lines if (match := re.search(pattern, line))]
            return matches[count - 1] if len(matches) >= count else None

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, TIMEOUT)
            match = found()
            assert match, f"{pattern!r} is not in the log:\n" + "\n".join(self._lines)
            return match

    def wait_until_ready(self) -> Daemon:
        """Wait until the app is imported; workers may still be starting."""
        self.wait_for_log(r"functions: ")
        return self

    def port(self, nth: int = 1) -> int:
        """The port number of the `nth` TCP endpoint that it listens on."""
        return int(self.wait_for_log(r"listening on .*port=(\d+)", nth)[1])

    @property
    def tcp(self) -> str:
        """The endpoint string of the task server (the first endpoint)."""
        return f"tcp:127.0.0.1:{self.port(1)}"

    @property
    def ws(self) -> str:
        """The URL of the gateway (the second endpoint)."""
        return f"ws://127.0.0.1:{self.port(2)}"

    def connect(self) -> Connection:
        """A raw connection to the task server."""
        return Connection(socket.create_connection(("127.0.0.1", self.port(1)), TIMEOUT))

    def processes(self, kind: str = "") -> list[int]:
        """The ids of its processes whose title goes on with `kind`, as the operating system has them."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                title = path.read_bytes()
            except OSError:
                continue
            if title.startswith(f"{self.name}: {kind}".encode()):
                found.append(int(path.parent.name))
        return sorted(found)

    def wait_until_gone(self) -> None:
        """Return once none of its processes is left; fails after `TIMEOUT`."""
        # The exit of a process that is not our child is seen through a pidfd.
        import select

        for pid in self.processes():
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            ready, _, _ = select.select([descriptor], [], [], TIMEOUT)
            os.close(descriptor)
            assert ready, f"process {pid} of {self.name} is still there"
        assert self.processes() == []

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status (minus the signal)."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class Connection:
    """A socket that speaks lines, and waits at most `TIMEOUT` for them."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._file = sock.makefile("rb")

    def send(self, *messages: Any) -> Connection:
        """Send each message as a line: bytes as they are, anything else as JSON."""
        lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in messages]
        self.socket.sendall(b"".join(line + b"\n" for line in lines))
        return self

    def receive(self) -> Any:
        """The next line, as JSON; None at the end."""
        line = self._file.readline()
        return json.loads(line) if line else None

    def ask(self, message: Any) -> Any:
        """Send one message, and get one line."""
        return self.send(message).receive()

    def end_sending(self) -> Connection:
        """Shut down the sending side."""
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def receive_all(self) -> list[Any]:
        """Every line until the server closes."""
        return [json.loads(line) for line in self._file]

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self.socket.close()
