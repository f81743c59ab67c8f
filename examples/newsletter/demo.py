"""``make demo``: a newsletter to 1 000 users, and small requests meanwhile.

Starts ``twistd taskd``, sends the mails through its websocket with
``taskd map``, and asks for a small task all the while, over a websocket too:
how long do those requests take while the heavy work runs?
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure

from taskd.client import TaskClient
from taskd.errors import TaskdError
from taskd.net.reactor import Reactor

HERE = Path(__file__).resolve().parent
OUTBOX = HERE / "outbox"
LOG = HERE / "taskd.log"
BIN = Path(sys.executable).parent

WORKERS = 100
"""As many as Workerman's example has."""

START_TIMEOUT = 20.0
"""Seconds that the server has to answer its first request."""

STOP_TIMEOUT = 15.0
"""Seconds that the server has to stop, before it is killed."""


class Server:
    """The `twistd taskd` of this demo; a context manager that leaves no process behind."""

    def __init__(self, port: int, task_port: int) -> None:
        self.name = f"newsletter-{os.getpid()}"
        self._log = LOG.open("wb")
        self._process = subprocess.Popen(
            [
                str(BIN / "twistd"), "--nodaemon", "--pidfile=", "taskd",
                "--app", "taskd.apps.mail", "--app", str(HERE / "tasks.py"),
                "--name", self.name, "--workers", str(WORKERS),
                "--websocket", f"tcp:{port}:interface=127.0.0.1",
                "--listen", f"tcp:{task_port}:interface=127.0.0.1",
            ],
            cwd=HERE,
            env={**os.environ, "TASKD_MAIL_URL": f"maildir:{OUTBOX}"},
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
        lines = LOG.read_text(errors="replace").splitlines()
        reasons = [line.partition("taskd: ")[2] for line in lines if "taskd: " in line]
        if not reasons:
            return f"it ended with exit status {self._process.returncode}; see {LOG}"
        return reasons[-1] + (
            "\nmake demo PORT=… TASK_PORT=… moves it." if "listen" in reasons[-1] else f"; see {LOG}"
        )

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


class Sending(ProcessProtocol):
    """A `taskd map` that writes to this terminal; `ended` fires with its exit status."""

    def __init__(self) -> None:
        self.ended: Deferred[int] = Deferred()

    def processEnded(self, reason: Failure) -> None:
        """Fire `ended`."""
        self.ended.callback(reason.value.exitCode if reason.value.exitCode is not None else 1)


async def wait_until_ready(reactor: Reactor, server: Server, url: str) -> TaskClient:
    """Return a client of the server, once it answers."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        if (why := server.failed()) is not None:
            raise SystemExit(f"The server did not start: {why}")
        client = TaskClient(reactor, url)
        try:
            await client.call("hello", timeout=1.0)
        except TaskdError:
            client.close()
            if time.monotonic() > deadline:
                raise SystemExit(f"The server does not answer; see {LOG}") from None
            await deferLater(reactor, 0.05)
        else:
            return client


async def measure(reactor: Reactor, client: TaskClient, meanwhile: Deferred[int]) -> list[float]:
    """Make small requests from the first mail until `meanwhile` fires; return the seconds of each."""
    while not meanwhile.called:
        state = await client.request("taskd.status")
        if any(function["name"] == "send_mail" for function in state["functions"]):
            break
        await deferLater(reactor, 0.01)
    times = []
    while not meanwhile.called:
        begun = time.perf_counter()
        await client.call("hello", name="reader")
        times.append(time.perf_counter() - begun)
    return times


async def run(reactor: Reactor, server: Server, url: str) -> int:
    """Send the newsletter; return the exit status of the demo."""
    client = await wait_until_ready(reactor, server, url)
    sending = Sending()
    command = [str(BIN / "taskd"), "map", "send_mail", str(HERE / "users.csv"), "--via", url]
    print(f"taskd map send_mail {os.path.relpath(HERE / 'users.csv')} --via {url}\n", flush=True)
    began = time.monotonic()
    process = reactor.spawnProcess(
        sending, command[0], command, env=None, path=str(HERE), childFDs={0: 0, 1: 1, 2: 2}
    )
    reactor.addSystemEventTrigger("before", "shutdown", lambda: process.pid and process.signalProcess("KILL"))
    try:
        times = await measure(reactor, client, sending.ended)
    except TaskdError as error:
        raise SystemExit(f"\nThe demo was cut short: {error}") from None
    status = await sending.ended
    if len(times) < 2:
        raise SystemExit("\nThe demo was cut short: nothing was measured.")
    seconds = time.monotonic() - began
    state = await client.request("taskd.status")
    client.close()
    mail = next(function for function in state["functions"] if function["name"] == "send_mail")
    percentiles = statistics.quantiles(times, n=100)
    print(
        f"\nsent                {mail['done']} mails with {len(state['workers'])} processes\n"
        f"failed              {mail['failed'] + mail['lost']}\n"
        f"seconds             {seconds:.1f}\n"
        f"small requests      {len(times)} meanwhile: median {percentiles[49] * 1000:.1f} ms, "
        f"99th percentile {percentiles[98] * 1000:.1f} ms\n"
        f"the mails lie in    {os.path.relpath(OUTBOX)}/new",
        flush=True,
    )
    return status


def main() -> None:
    """Run the demo, and stop the server whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="of the websocket")
    parser.add_argument("--task-port", type=int, default=12345, help="of the task server")
    options = parser.parse_args()
    shutil.rmtree(OUTBOX, ignore_errors=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    url = f"ws://127.0.0.1:{options.port}"
    status: object = 1
    with Server(options.port, options.task_port) as server:
        try:
            react(lambda reactor: Deferred.fromCoroutine(run(reactor, server, url)))
        except SystemExit as ended:
            status = ended.code
            if isinstance(status, str):
                print(status, file=sys.stderr)
                status = 1
        except KeyboardInterrupt:
            status = 130
        finally:
            server.stop()
    left = server.processes()
    print(f"server stopped; {len(left)} of its processes left")
    sys.exit(1 if left else status)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
