"""Workerman's example under Workerman itself: each half works with the other half from taskd.

Runs where PHP is installed, WORKERMAN_DIR is a checkout of walkor/workerman, and
that of workerman-php/coroutine is in WORKERMAN_COROUTINE_DIR, or beside it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
import pytest_twisted

from tests.live.peers import bare, in_thread, rpc, within
from tests.live.support import APPS, TIMEOUT, wait_for_exit

PROGRAMS = Path(__file__).parent / "workerman"


def why_not():
    """Return why these tests cannot run here, "" if they can."""
    if shutil.which("php") is None:
        return "php is not installed"
    if "WORKERMAN_DIR" not in os.environ:
        return "WORKERMAN_DIR does not name a checkout of walkor/workerman"
    for directory, file in ((workerman_directory(), "Worker.php"), (coroutine_directory(), "Coroutine.php")):
        if not (directory / "src" / file).is_file():
            return f"there is no src/{file} in {directory}"
    return ""


def workerman_directory():
    return Path(os.environ["WORKERMAN_DIR"]).resolve()


def coroutine_directory():
    beside = workerman_directory().parent / "coroutine"
    return Path(os.environ.get("WORKERMAN_COROUTINE_DIR", beside)).resolve()


pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not())


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Workerman:
    """One of the PHP programs, run in the foreground; what it prints is read as it comes."""

    def __init__(self, program, directory, **ports):
        environ = {
            "WORKERMAN_DIR": str(workerman_directory()),
            "WORKERMAN_COROUTINE_DIR": str(coroutine_directory()),
            "WORKERMAN_FILES": str(directory),
            **{name: str(port) for name, port in ports.items()},
        }
        self.process = subprocess.Popen(
            ["php", PROGRAMS / program, "start"],
            cwd=directory,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._text = ""
        self._changed = threading.Condition()
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            with self._changed:
                self._text += line
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, pattern, count=1):
        """Wait until the output matches `count` times; return the last match."""

        def found():
            return len(list(re.finditer(pattern, self._text))) >= count

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, TIMEOUT)
            assert found(), f"{pattern!r} is not in what it printed:\n{self._text}"
            return list(re.finditer(pattern, self._text))[count - 1]

    def processes(self):
        """Return the ids of the processes of its session: the master and its workers."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[3] == str(self.process.pid) and fields[0] != "Z":
                found.append(int(path.parent.name))
        return found

    def stop(self):
        """Kill all of its processes, and wait until they have ended."""
        processes = self.processes()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(TIMEOUT)
        finally:
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)
        for pid in processes:
            wait_for_exit(pid)
        assert self.processes() == []


@pytest.fixture
def run_workerman(tmp_path):
    """Run a program until it serves; it is stopped at the end."""
    programs = []

    def run(program, **ports):
        programs.append(Workerman(program, tmp_path, **ports))
        programs[-1].wait_for(r"Start success")
        return programs[-1]

    yield run
    for program in programs:
        program.stop()


@pytest.fixture
def start(clean_start):
    return clean_start


@pytest_twisted.ensureDeferred
async def test_workermans_websocket_example_works_with_the_task_server(start, run_workerman, websocket):
    daemon = start("--app", str(APPS / "page.py"), "--workers", "4").wait_until_ready()
    port = free_port()
    caller = run_workerman("caller.php", WEBSOCKET_PORT=port, TASK_PORT=daemon.port(1))
    ws = await websocket(f"ws://127.0.0.1:{port}")
    assert await ws.send("anything").receive() == "task complete"
    printed = await in_thread(caller.wait_for, r'string\(\d+\) "(\{.*\})"\n')
    assert json.loads(printed[1]) == {"from": "xxx", "to": "xxx", "contents": "xxx", "sent": "yes"}
    for _ in range(20):
        ws.send("once more")
    for _ in range(20):
        assert await ws.receive() == "task complete"
    status = await in_thread(daemon.connect().ask, {"function": "taskd.status"})
    assert [(one["name"], one["done"]) for one in status["functions"]] == [("send_mail", 21)]


@pytest_twisted.ensureDeferred
async def test_workermans_websocket_example_can_show_an_error(start, run_workerman, websocket):
    daemon = start("--workers", "1").wait_until_ready()  # which has no send_mail
    port = free_port()
    caller = run_workerman("caller.php", WEBSOCKET_PORT=port, TASK_PORT=daemon.port(1))
    ws = await websocket(f"ws://127.0.0.1:{port}")
    assert await ws.send("anything").receive() == "task complete"
    printed = await in_thread(caller.wait_for, r'string\(\d+\) "(\{.*\})"\n')
    assert json.loads(printed[1])["error"]["code"] == -32601


@pytest_twisted.ensureDeferred
async def test_the_gateway_works_with_workermans_task_example(start, run_workerman, websocket):
    port = free_port()
    service = run_workerman("task_service.php", TASK_PORT=port)
    daemon = start("--listen", "none", "--task-server", f"tcp:127.0.0.1:{port}")
    ws = await websocket(f"ws://127.0.0.1:{daemon.port(1)}")
    mail = {"from": "a@x", "to": "b@y", "contents": "hi"}
    assert await ws.send(bare("send_mail", mail)).receive() == "task complete"
    await in_thread(service.wait_for, r'\["contents"\]=>\s+string\(2\) "hi"')
    long = {"from": "a@x", "to": "b@y", "contents": "x" * 1_000_000}
    for _ in range(20):
        ws.send(bare("send_mail", mail))
    ws.send(bare("send_mail", long))
    assert [await ws.receive() for _ in range(21)] == ["task complete"] * 21
    # It does not know JSON-RPC: its reply is not JSON-RPC, but the gateway's is.
    assert (await ws.ask(rpc("send_mail", mail)))["error"]["code"] == -32007
    assert await ws.send(bare("send_mail", mail)).receive() == "task complete"


@pytest_twisted.ensureDeferred
async def test_the_gateway_answers_when_workermans_task_example_has_stopped(start, run_workerman, websocket):
    port = free_port()
    service = run_workerman("task_service.php", TASK_PORT=port)
    daemon = start("--listen", "none", "--task-server", f"tcp:127.0.0.1:{port}")
    ws = await websocket(f"ws://127.0.0.1:{daemon.port(1)}")
    assert await ws.send(bare("send_mail", {})).receive() == "task complete"
    await in_thread(service.stop)
    assert (await within(ws.send(bare("send_mail", {})).receive())).startswith("task failed: ")
