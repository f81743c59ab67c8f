"""A real `twistd taskd` for the tests, and raw sockets to talk to it."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
APPS = Path(__file__).parent / "apps"
TWISTD, TASKD = [str(BIN / "twistd")], [str(BIN / "taskd")]
if "COVERAGE_PROCESS_CONFIG" in os.environ:
    TWISTD = [sys.executable, str(Path(__file__).with_name("twistd.py"))]
    TASKD = [sys.executable, str(Path(__file__).with_name("taskd_command.py"))]

TIMEOUT = 30.0
"""Seconds after which a test that still waits has failed."""

SOON = 10.0
"""Seconds after which something that takes milliseconds will not happen any more."""

MARK = "TEST_OF_TASKD"
"""The environment variable with the name of the `Daemon` that started a process."""


class Daemon:
    """One `twistd -n taskd` on its own ports; its log is read as it is written.

    `tcp` and `ws` are the addresses for clients, where it listens there.
    """

    passed: Sequence[int] = ()
    """The descriptors that it inherits."""

    def __init__(
        self, *options: str, directory: Path, env: dict[str, str] | None = None, web: bool = False
    ) -> None:
        ports = ["--listen", "tcp:0:interface=127.0.0.1"] if "--listen" not in options else []
        ports += ["--websocket", "tcp:0:interface=127.0.0.1"] if "--websocket" not in options else []
        self.name = f"test-{os.getpid()}-{id(self)}"
        command = ["taskd", *ports, "--name", self.name, *options]
        if web:
            command = ["web", *options]
        self.process = subprocess.Popen(
            self.command(*TWISTD, "--nodaemon", "--pidfile=", *command),
            pass_fds=self.passed,
            cwd=directory,
            env={**os.environ, MARK: self.name, **(env or {})},
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

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that starts it; a subclass may start it by another program."""
        return list(arguments)

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
        """Everything that the daemon has logged."""
        with self._changed:
            return "\n".join(self._lines)

    def wait_for_log(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait for the `count`-th match in the log and return it; fail if the server ends without it."""

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
        """Return the port number of the `nth` TCP endpoint."""
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
        """Open a raw connection to the task server, without Nagle's algorithm."""
        sock = socket.create_connection(("127.0.0.1", self.port(1)), TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(sock)

    def must_serve(self) -> None:
        """Check that a task is still run; if not, kill stuck workers, so that the next test has a server."""
        connection = self.connect()
        connection.socket.settimeout(SOON)
        try:
            assert connection.ask(bare("hello")) == "Hello, World!"
        except TimeoutError:
            for pid in self.workers:
                os.kill(pid, signal.SIGKILL)
            raise
        finally:
            connection.close()

    def processes(self, kind: str = "") -> list[int]:
        """Return the ids of the daemon's processes whose title continues with `kind`."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                title = path.read_bytes()
            except OSError:
                continue
            if title.startswith(f"taskd[{self.name}]: {kind}".encode()):
                found.append(int(path.parent.name))
        return sorted(found)

    def family(self) -> list[int]:
        """Return the ids of all its processes, including untitled fork servers and children of tasks."""
        return processes_marked(self.name)

    def wait_for_family(self, size: int) -> list[int]:
        """Wait until `family` has so many members, and return it: a new process shows up a little later."""
        ending = time.monotonic() + TIMEOUT
        while len(found := self.family()) != size:
            assert time.monotonic() < ending, found
        return found

    @property
    def fork_server(self) -> int:
        """Wait for the one fork server, and return its id."""
        ending = time.monotonic() + TIMEOUT
        found: list[int] = []
        while len(found) != 1:
            assert time.monotonic() < ending, found
            found = [pid for pid in self.processes("fork server") if parent_of(pid) == self.process.pid]
        return found[0]

    @property
    def workers(self) -> list[int]:
        """Return the ids of its workers: the children of the fork server, ready or not."""
        fork_server = self.fork_server
        return [pid for pid in self.processes() if parent_of(pid) == fork_server]

    def descriptors(self) -> Counter[str]:
        """Return how many descriptors the daemon has open of each kind."""
        return descriptors_of(self.process.pid)

    def titles(self) -> list[str]:
        """Return its workers' titles, without the name."""
        return sorted(title_of(pid).removeprefix(f"taskd[{self.name}]: ") for pid in self.workers)

    def wait_for_end(self) -> int:
        """Wait until the daemon has ended by itself; return the exit status (or minus the signal)."""
        status = self.process.wait(TIMEOUT)
        with self._changed:
            assert self._changed.wait_for(lambda: self._ended, TIMEOUT), "its output is still held open"
        return status

    def wait_for_status(
        self, holds: Callable[[dict[str, Any]], bool], connection: Connection | None = None
    ) -> dict[str, Any]:
        """Ask for `taskd.status` until the condition holds, on a new connection or on one without other
        replies due.
        """
        asking = connection or self.connect()
        ending = time.monotonic() + TIMEOUT
        while not holds(status := asking.ask(rpc("status", "taskd.status"))["result"]):
            assert time.monotonic() < ending, status
        if connection is None:
            asking.close()
        return status

    def status(self) -> dict[str, Any]:
        """Return the current answer of `taskd.status`."""
        return self.wait_for_status(lambda _: True)

    def wait_for_workers(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many workers are idle and there are no others; return the status of each."""

        def all_idle(status: dict[str, Any]) -> bool:
            if [worker["state"] for worker in status["workers"]] != ["idle"] * count:
                return False
            # A worker that was killed just now may still be listed as idle.
            parents = [pid for pid in self.processes("fork server") if parent_of(pid) == self.process.pid]
            there = [pid for pid in self.processes() if parent_of(pid) in parents]
            return sorted(worker["pid"] or 0 for worker in status["workers"]) == there

        return self.wait_for_status(all_idle)["workers"]

    def wait_until_gone(self) -> None:
        """Return once none of its processes is left; fail after `TIMEOUT`."""
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
        """Send a signal and wait for the end; return the exit status (or minus the signal)."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class ServedDaemon(Daemon):
    """A `Daemon` that is started by `taskd serve`."""

    def command(self, *arguments: str) -> list[str]:
        """Return the command line, with the options that would follow `twistd taskd`."""
        return [*TASKD, "serve", *arguments[arguments.index("taskd") + 1 :]]


@contextmanager
def kept_daemon(*options: str, directory: Path, ready: str = r"functions: ") -> Iterator[Daemon]:
    """Run a server for many tests, once it has logged `ready`; at the end it must leave no process behind
    and must not have logged an internal error.
    """
    daemon = Daemon(*options, directory=directory)
    try:
        daemon.wait_for_log(ready)
        yield daemon
    finally:
        daemon.stop()
    daemon.wait_until_gone()
    assert "a bug in taskd" not in daemon.log
    assert "Unhandled" not in daemon.log


class Connection:
    """A socket that sends and receives lines, and waits at most `TIMEOUT` for one."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._file = sock.makefile("rb")

    def send(self, *messages: Any) -> Connection:
        """Send each message as a line: bytes unchanged, anything else as JSON."""
        lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in messages]
        self.socket.sendall(b"".join(line + b"\n" for line in lines))
        return self

    def receive(self) -> Any:
        """Return the next line, parsed as JSON; None at the end."""
        line = self._file.readline()
        return json.loads(line) if line else None

    def ask(self, message: Any) -> Any:
        """Send one message, and return the next line, parsed as JSON."""
        return self.send(message).receive()

    def end_sending(self) -> Connection:
        """Shut down the sending side."""
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def receive_lines(self) -> list[bytes]:
        """Return every line until the server closes, as bytes."""
        return [line.removesuffix(b"\n") for line in self._file]

    def receive_all(self) -> list[Any]:
        """Return every line until the server closes, parsed as JSON."""
        return [json.loads(line) for line in self.receive_lines()]

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self.socket.close()


def open_websocket(daemon: Daemon) -> socket.socket:
    """Return the socket of a new websocket of a daemon whose second port is the gateway's."""
    sock = socket.create_connection(("127.0.0.1", daemon.port(2)), TIMEOUT)
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert b" 101 " in head
    return sock


def bare(function: str, *args: Any, options: dict[str, Any] | None = None, **named: Any) -> dict[str, Any]:
    """Make a bare request, as Workerman's example sends it."""
    message: dict[str, Any] = {"function": function}
    if args or named:
        message["args"] = args or named
    if options is not None:
        message["options"] = options
    return message


def rpc(
    request_id: Any, method: str, *args: Any, options: dict[str, Any] | None = None, **named: Any
) -> dict[str, Any]:
    """Make a JSON-RPC request; without an id (None) a notification."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if request_id is not None:
        message["id"] = request_id
    if args or named:
        message["params"] = args or named
    if options is not None:
        message["options"] = options
    return message


def data_of(reply: Any, code: int) -> dict[str, Any]:
    """Return the data of a reply, which must be an error with this code."""
    assert isinstance(reply, dict), reply
    assert reply.get("error", {}).get("code") == code, reply
    return reply["error"].get("data") or {}


def cancel(request_id: Any, which: Any) -> dict[str, Any]:
    """Make the JSON-RPC request that cancels the request with the id `which` of the same connection."""
    return rpc(request_id, "taskd.cancel", id=which)


def cancel_task(request_id: Any, task: int) -> dict[str, Any]:
    """Make the JSON-RPC request that cancels the task with this number."""
    return rpc(request_id, "taskd.cancel", task=task)


def lines_of(path: Path) -> list[str]:
    """Return the lines that `note` (apps/misbehaving.py) has written to a file; [] if there is none."""
    return path.read_text().splitlines() if path.exists() else []


def connect_unix(path: Path | str) -> Connection:
    """Open a raw connection to a task server on a unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT)
    sock.connect(str(path))
    return Connection(sock)


class Gate:
    """A FIFO at which a task (`wait_for` in apps/plain.py) waits until the test releases it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._end: int | None = None

    def call(self, function: str = "wait_for") -> dict[str, Any]:
        """Make the bare request that has a task wait here."""
        return {"function": function, "args": {"path": self.path}}

    def rpc(self, request_id: Any, function: str = "wait_for") -> dict[str, Any]:
        """Make the JSON-RPC request that has a task wait here."""
        return {"jsonrpc": "2.0", "id": request_id, "method": function, "params": {"path": self.path}}

    def wait_until_entered(self) -> Gate:
        """Return once a task waits here; fail after `TIMEOUT`."""
        opened: list[int] = []
        opening = threading.Thread(target=lambda: opened.append(os.open(self.path, os.O_WRONLY)), daemon=True)
        opening.start()
        opening.join(TIMEOUT)
        if not opened:
            # A reader, so that the thread does not wait for ever.
            os.close(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK))
        assert opened, f"no task has come to {self.path}"
        self._end = opened[0]
        return self

    def release(self, text: str = "") -> None:
        """Let the task go on; `wait_for` returns `text`. Call it once."""
        if self._end is None:
            self.wait_until_entered()
        assert self._end is not None
        end, self._end = self._end, None
        try:
            if text:
                os.write(end, text.encode())
        finally:
            os.close(end)

    def tear_down(self) -> None:
        """Release the task that waits here, and make later ones fail."""
        with suppress(OSError):  # ENXIO: no task waits here
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
        os.unlink(self.path)
        if self._end is not None:
            os.close(self._end)


class Drop:
    """A FIFO that a task writes into: a side effect that the test can wait for."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def receive(self) -> str:
        """Wait until a task has written and closed the FIFO, and return what it wrote."""
        text = b""
        while True:
            ready, _, _ = select.select([self._end], [], [], TIMEOUT)
            assert ready, f"nothing was written to {self.path}"
            more = os.read(self._end, 65536)
            if not more:
                return text.decode()
            text += more

    def tear_down(self) -> None:
        """Close it."""
        os.close(self._end)


def run_twistd(directory: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run twistd until it ends or has become a daemon; `stdout` also has its errors.

    `name` is that of the pool, and marks its processes.
    """
    return subprocess.run(
        [str(BIN / "twistd"), *arguments, "--name", name],
        cwd=directory,
        env={**os.environ, MARK: name},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@contextmanager
def connected_to_one_worker(daemon: Daemon) -> Iterator[Connection]:
    """Connect to a server with one worker, which must be the same at the end."""
    client = daemon.connect()
    request = {"function": "pid"}
    before = client.ask(request)
    yield client
    assert client.ask(request) == before
    client.close()


def run_taskd(server: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run the command `taskd`, against the task server with this endpoint string."""
    return subprocess.run(
        [BIN / "taskd", *map(str, arguments)],
        env={**os.environ, "TASKD_SERVER": server},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def processes_marked(name: str) -> list[int]:
    """Return the ids of all descendants of the process that was started with this `MARK`."""
    mark, title = f"{MARK}={name}\0".encode(), f"taskd[{name}]: ".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            # A title overwrites the environment that the process was started with.
            if (path / "cmdline").read_bytes().startswith(title) or mark in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return sorted(found)


def wait_for_exit(pid: int) -> None:
    """Return once a process has ended, child of this process or not; fail after `TIMEOUT`."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ready, _, _ = select.select([descriptor], [], [], TIMEOUT)
    os.close(descriptor)
    assert ready, f"process {pid} ({title_of(pid)}) is still there"


def title_of(pid: int) -> str:
    """Return the title of a process, "" if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().rstrip()
    except OSError:
        return ""


def parent_of(pid: int) -> int:
    """Return the id of a process's parent, 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors_of(pid: int) -> Counter[str]:
    """Return how many descriptors a process has open of each kind: sockets, pipes, and files by name."""
    kinds: Counter[str] = Counter()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            kinds[re.sub(r"\d+", "N", os.readlink(descriptor))] += 1
    return kinds
