"""The `twistd taskd` of the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from twisted.internet.task import deferLater

from taskd.client import TaskClient
from taskd.errors import TaskdError
from taskd.net.reactor import Reactor

HERE = Path(__file__).resolve().parent
LOG = HERE / "taskd.log"
STORE = HERE / "newsletter.db"
BIN = Path(sys.executable).parent

WORKERS = 100
"""As many as Workerman's example has."""

START_TIMEOUT = 20.0
"""Seconds that the server has to answer its first request."""

STOP_TIMEOUT = 15.0
"""Seconds that the server has to stop, before it is killed."""


class Server:
    """A `twistd taskd` that sends mails to `mail_url`; a context manager that leaves no process behind."""

    def __init__(self, port: int, task_port: int, mail_url: str) -> None:
        self.name = f"newsletter-{os.getpid()}"
        self.url = f"ws://127.0.0.1:{port}"
        self._log = LOG.open("ab")
        self._begin = self._log.tell()
        self._process = subprocess.Popen(
            [
                str(BIN / "twistd"), "--nodaemon", "--pidfile=", "taskd",
                "--app", "taskd.apps.mail", "--app", str(HERE / "tasks.py"),
                "--name", self.name, "--workers", str(WORKERS), "--store", f"sqlite:{STORE}",
                "--websocket", f"tcp:{port}:interface=127.0.0.1",
                "--listen", f"tcp:{task_port}:interface=127.0.0.1",
            ],
            cwd=HERE,
            env={**os.environ, "TASKD_MAIL_URL": mail_url},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the demo, which stops the server
        )  # fmt: skip

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def failed(self) -> str | None:
        """Return why the server is not running; None while it is."""
        if self._process.poll() is None:
            return None
        lines = LOG.read_bytes()[self._begin :].decode(errors="replace").splitlines()
        reasons = [line.partition("taskd: ")[2] for line in lines if "taskd: " in line]
        if not reasons:
            return f"it ended with exit status {self._process.returncode}; see {LOG}"
        return reasons[-1] + (
            "\nmake demo PORT=… TASK_PORT=… moves it." if "listen" in reasons[-1] else f"; see {LOG}"
        )

    async def wait_until_ready(self, reactor: Reactor) -> TaskClient:
        """Return a client of the server, once it answers."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if (why := self.failed()) is not None:
                raise SystemExit(f"The server did not start: {why}")
            client = TaskClient(reactor, self.url)
            try:
                await client.with_options(wait=1.0).call("hello")
            except TaskdError:
                client.close()
                if time.monotonic() > deadline:
                    raise SystemExit(f"The server does not answer; see {LOG}") from None
                await deferLater(reactor, 0.05)
            else:
                return client

    def kill(self) -> None:
        """End the daemon as a crash would, with SIGKILL."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT)
        self._log.close()

    def stop(self) -> None:
        """Stop the server, and make sure that all of it is gone."""
        try:
            if self._process.poll() is None:
                self._process.terminate()
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def processes(self) -> list[int]:
        """Return the ids of the server's processes, by their titles."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if path.read_bytes().startswith(f"taskd[{self.name}]: ".encode()):
                    found.append(int(path.parent.name))
            except OSError:
                continue  # it has just ended
        return found
