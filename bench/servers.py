"""Starts taskd, Workerman and Redis as their users do, and stops them; each is a context manager."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from bench.processes import PAUSE, end, free_port, leaves, pss_kib, tree, wait_for_port
from bench.tools import BENCH, redis_server, workerman

TWISTD = Path(sys.executable).parent / "twistd"
PHP = BENCH / "peers" / "workerman"


class Server:
    """A process with its descendants; what it prints is kept, and shown if it does not start."""

    stop_signal = signal.SIGTERM

    def __init__(self, command: list[str], **environ: str) -> None:
        self.began = time.monotonic()
        self.directory = tempfile.TemporaryDirectory(prefix="taskd-bench-")
        self._log = Path(self.directory.name, "log")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=BENCH / "peers",
                env={**os.environ, "WORKERMAN_FILES": self.directory.name, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until it serves. Raises `TimeoutError`."""

    def __enter__(self) -> Self:
        try:
            self.wait_until_ready()
        except BaseException:
            print(self._log.read_text(errors="replace")[-4000:], file=sys.stderr)
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End all of its processes."""
        end(self.process, self.stop_signal)
        self.directory.cleanup()

    def weigh(self) -> tuple[float, float]:
        """PSS of all its processes, and of its workers alone, in MiB."""
        workers = set(leaves(self.process.pid))
        weights = {pid: pss_kib(pid) / 1024 for pid in tree(self.process.pid)}
        return sum(weights.values()), sum(weight for pid, weight in weights.items() if pid in workers)


def ask(port: int, function: str, *args: Any) -> Any:
    """One request on a connection of its own; the result. Raises `OSError` where nobody answers."""
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(json.dumps({"function": function, "args": args}).encode() + b"\n")
        return json.loads(sock.makefile("rb").readline() or "null")


def wait_for_answer(port: int, server: Server, patience: float = 60.0) -> None:
    """Wait until a task is answered. Raises `TimeoutError`, at once where the process has ended."""
    ending = time.monotonic() + patience
    while time.monotonic() < ending and server.process.poll() is None:
        with suppress(OSError):
            if ask(port, "echo", 1) == 1:
                return
        time.sleep(PAUSE)
    raise TimeoutError("it does not answer")


class Taskd(Server):
    """`twistd taskd` with bench/tasks.py: a task server, and a gateway unless `websocket` is False."""

    def __init__(
        self,
        *options: str,
        workers: int = 100,
        websocket: bool = True,
        app: Path = BENCH / "tasks.py",
        launcher: tuple[str, ...] = (str(TWISTD),),
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.workers = workers
        self.port = free_port()
        self.websocket = free_port() if websocket else 0
        where = f"tcp:{self.websocket}:interface=127.0.0.1" if websocket else "none"
        super().__init__(
            [
                *launcher, "-n", "--pidfile=", "taskd", "--app", str(app),
                "--workers", str(workers), "--listen", f"tcp:{self.port}:interface=127.0.0.1",
                "--websocket", where, *options,
            ],
            **environ,
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        """Wait until every worker is idle."""
        wait_for_answer(self.port, self)
        self.wait_for_workers("idle", self.workers)

    def wait_for_listening(self) -> None:
        """Wait until it accepts connections. Raises `TimeoutError`."""
        wait_for_port(self.port, self.process)

    def wait_for_workers(self, state: str, number: int, patience: float = 60.0) -> None:
        """Wait until so many workers are `idle` or `busy`. Raises `TimeoutError`."""
        ending = time.monotonic() + patience
        while time.monotonic() < ending:
            if sum(worker["state"] == state for worker in self.status()["workers"]) >= number:
                return
            time.sleep(PAUSE)
        raise TimeoutError(f"there are no {number} {state} workers")

    def status(self) -> Any:
        """What `taskd.status` tells."""
        return ask(self.port, "taskd.status")

    def done(self) -> int:
        """How many tasks have been done, all functions together."""
        return sum(function["done"] for function in self.status()["functions"])

    @property
    def daemon(self) -> int:
        """The process that dispatches."""
        return self.process.pid


class Gateway(Server):
    """taskd's gateway in a process of its own, in front of a task server."""

    def __init__(self, taskd: Taskd, *options: str) -> None:
        self.websocket = free_port()
        super().__init__(
            [
                str(TWISTD), "-n", "--pidfile=", "taskd", "--listen", "none",
                "--websocket", f"tcp:{self.websocket}:interface=127.0.0.1",
                "--task-server", f"tcp:127.0.0.1:{taskd.port}", *options,
            ]
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        """Wait until it listens."""
        wait_for_port(self.websocket, self.process)


class Workerman(Server):
    """The task service on Workerman with so many processes."""

    stop_signal = signal.SIGINT

    def __init__(self, count: int) -> None:
        self.count = count
        self.port = free_port()
        super().__init__(
            ["php", str(PHP / "tasks.php"), "start"],
            **workerman(),
            TASK_PORT=str(self.port),
            COUNT=str(count),
        )

    def wait_until_ready(self) -> None:
        """Wait until a task is answered, and every process is there."""
        wait_for_answer(self.port, self)
        while len(tree(self.process.pid)) <= self.count:
            time.sleep(PAUSE)


class WorkermanGateway(Server):
    """The websocket service of the page on Workerman, in front of its task service."""

    stop_signal = signal.SIGINT

    def __init__(self, tasks: Workerman, count: int) -> None:
        self.websocket = free_port()
        super().__init__(
            ["php", str(PHP / "gateway.php"), "start"],
            **workerman(), TASK_PORT=str(tasks.port), WEBSOCKET_PORT=str(self.websocket), COUNT=str(count),
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        """Wait until it listens."""
        wait_for_port(self.websocket, self.process)


class Redis(Server):
    """Redis that keeps nothing on the disk, unless `options` want that."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        kept = options or ("--appendonly", "no")
        super().__init__([redis_server(), "--port", str(self.port), "--save", "", *kept])

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    def wait_until_ready(self) -> None:
        """Wait until it listens."""
        wait_for_port(self.port, self.process)
