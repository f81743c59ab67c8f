"""A log that nobody reads, a reactor that is blocked, exceptions that stay in the log, stopped workers."""

import json
import os
import re
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.live.support import (
    APPS,
    MARK,
    TIMEOUT,
    TWISTD,
    Connection,
    Daemon,
    Gate,
    bare,
    connect_unix,
    processes_marked,
    rpc,
    wait_for_exit,
)

Start = Callable[..., Daemon]

FLOOD = 900
"""Lines that a worker prints: more than the pipe and the buffer hold together, and fewer than are
logged of one process at any rate."""

TALKING_APP = """
from taskd import task

@task
def hello():
    return "Hello, World!"

@task
def talk(number):
    print("line", number, "x" * 2000)

@task
def boom(text):
    raise ValueError(text)
"""

AT_ONCE = 100
"""Of these, how many are in flight together."""

BLOCKING_OBSERVER = """
import os, threading
from twisted.logger import ILogObserver
from zope.interface import provider

def observer():
    reader, writer = os.pipe()

    @provider(ILogObserver)
    def observe(event):
        while "failed after" in str(event.get("log_format")):
            os.write(writer, bytes(100_000))

    return observe
"""


@contextmanager
def quiet_daemon(
    directory: Path, name: str, *twistd: str, app: Path | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Connection]]:
    """Run a server whose log is a pipe that is read until the server is ready, and no further."""
    environment = {**os.environ, MARK: name, "PYTHONPATH": str(directory)}
    if app is None:
        app = directory / "talking.py"
        app.write_text(TALKING_APP)
    options = ["--app", str(app), "--workers", "1", "--name", name]
    process = subprocess.Popen(
        [
            *TWISTD,
            "-n",
            "--pidfile=",
            *twistd,
            "taskd",
            *options,
            "--listen",
            "unix:s",
            "--websocket",
            "none",
        ],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    )
    try:
        client = None
        while client is None:  # the socket is there before anybody listens on it
            assert process.poll() is None
            with suppress(FileNotFoundError, ConnectionRefusedError):
                client = connect_unix(directory / "s")
        assert client.ask(bare("hello")) == "Hello, World!"
        yield process, client
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        for pid in processes_marked(name):
            wait_for_exit(pid)


def talk_much(client: Connection) -> None:
    for first in range(0, FLOOD, AT_ONCE):
        client.send(*[bare("talk", first + number) for number in range(AT_ONCE)])
        assert all(client.receive() is None for _ in range(AT_ONCE))


def test_a_log_that_nobody_reads_stops_nobody_and_says_later_what_was_lost(
    tmp_path: Path, pool_name: str
) -> None:
    with quiet_daemon(tmp_path, pool_name) as (process, client):
        talk_much(client)
        lost = client.ask(rpc(1, "taskd.status"))["result"]["log_lines_lost"]
        assert lost > 0
        text = b""
        while b"lines of the log were lost" not in text:
            ready, _, _ = select.select([process.stdout], [], [], TIMEOUT)
            assert ready, text[-1000:]
            text += os.read(process.stdout.fileno(), 65536)
        assert f"[taskd#warn] {lost} lines of the log were lost: they came faster".encode() in text
        logged = sorted(int(number) for number in re.findall(rb"line (\d+) x", text))
        assert logged == list(range(len(logged)))
        assert len(logged) < FLOOD
        # Once it flows again, nothing is missing, up to the last line of an orderly end.
        client.send(bare("boom", "the last one"))
        client.receive()
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == -signal.SIGTERM
        assert b"the last one" in rest
        assert rest.endswith(b"Server Shut Down.\n")


@pytest.mark.parametrize("is_closed", [False, True], ids=["unread", "closed"])
def test_a_log_that_nobody_reads_does_not_keep_a_server_from_ending(
    tmp_path: Path, pool_name: str, is_closed: bool
) -> None:
    with quiet_daemon(tmp_path, pool_name) as (process, client):
        if is_closed:
            process.stdout.close()
        talk_much(client)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == -signal.SIGTERM


def test_a_second_signal_ends_a_server_whose_reactor_is_blocked_with_all_of_its_processes(
    tmp_path: Path, pool_name: str
) -> None:
    (tmp_path / "blocking.py").write_text(BLOCKING_OBSERVER)
    with quiet_daemon(tmp_path, pool_name, "--logger=blocking.observer", app=APPS / "plain.py") as (
        process,
        client,
    ):
        sleeper = client.ask(bare("spawn_sleeper"))
        (fork_server,) = [pid for pid in processes_marked(pool_name) if is_fork_server(pid)]
        os.kill(fork_server, signal.SIGSTOP)  # so that it cannot end its workers itself
        client.send(bare("boom"))
        while Path(f"/proc/{process.pid}/wchan").read_text() not in ("pipe_write", "anon_pipe_write"):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)  # as somebody who is impatient does
        assert process.returncode == -signal.SIGTERM
        wait_for_exit(sleeper)
        for pid in processes_marked(pool_name):
            wait_for_exit(pid)


def is_fork_server(pid: int) -> bool:
    return b": fork server" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_text_of_an_exception_stays_in_the_log_if_callers_should_get_its_type_alone(start: Start) -> None:
    daemon = start("--error-details", "type", "--workers", "1").wait_until_ready()
    error = daemon.connect().ask(bare("boom", "a secret"))["error"]
    number = error["data"]["task"]
    assert error == {
        "code": -32000,
        "message": f"ValueError: see #{number} in the server's log",
        "data": {"type": "ValueError", "task": number},
    }
    daemon.wait_for_log(f"boom #{number} failed after")
    daemon.wait_for_log("ValueError: a secret")


def test_a_log_for_programs_has_an_object_on_each_line_with_what_a_task_printed_and_raised(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    options = ("--log-format", "json", "--log-file", str(path), "--workers", "1", "--listen", "unix:s")
    daemon = start(*options, "--websocket", "none", "--app", str(APPS / "plain.py"))
    client = None
    while client is None:
        assert daemon.process.poll() is None
        with suppress(FileNotFoundError, ConnectionRefusedError):
            client = connect_unix(tmp_path / "s")
    client.ask(bare("say", "a line"))
    client.ask(bare("boom", "so it is"))
    daemon.stop()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert all({"time", "level", "namespace", "message"} <= each.keys() for each in events)
    (said,) = [each for each in events if each["message"] == "a line"]
    assert (said["level"], said["function"], said["task"], said["worker"]) == ("info", "say", 1, 1)
    (failed,) = [each for each in events if each.get("function") == "boom"]
    assert (failed["level"], failed["task"]) == ("warn", 2)
    assert failed["traceback"].endswith("ValueError: so it is")
    assert "Traceback" not in failed["message"]


def test_idle_workers_that_are_stopped_are_replaced_and_their_tasks_run_elsewhere(start: Start) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    daemon.wait_for_workers(2)
    stopped = daemon.workers
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    client = daemon.connect()
    assert client.ask(bare("pid")) not in stopped
    for pid in stopped:
        wait_for_exit(pid)
    daemon.wait_for_workers(2)
    daemon.wait_for_log("killed by SIGKILL, since it was stopped by a signal for 5 s", 2)
    assert daemon.status()["counts"]["lost"] == 0


def test_a_stopped_fork_server_is_replaced_with_its_stopped_workers_and_their_tasks_run_elsewhere(
    start: Start, gate: Gate
) -> None:
    """Only the fork server could have reported that the workers are stopped."""
    daemon = start("--workers", "3").wait_until_ready()
    daemon.wait_for_workers(3)
    running = daemon.connect().send(gate.call())
    gate.wait_until_entered()
    fork_server, workers = daemon.fork_server, daemon.workers
    os.kill(fork_server, signal.SIGSTOP)
    for worker in daemon.status()["workers"]:
        if worker["state"] == "idle":
            os.kill(worker["pid"], signal.SIGSTOP)
    waiting = [daemon.connect().send(bare("pid")) for _ in range(3)]
    assert all(client.receive() not in workers for client in waiting)
    daemon.wait_for_log("the fork server has read nothing for 10 s")
    assert running.receive()["error"]["code"] == -32003
    for pid in fork_server, *workers:
        wait_for_exit(pid)
    daemon.wait_for_workers(3)
    assert daemon.status()["counts"]["lost"] == 1


def test_idle_workers_and_a_fork_server_that_are_stopped_are_replaced_though_nobody_calls(
    start: Start,
) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    daemon.wait_for_workers(2)
    stopped = [daemon.fork_server, *daemon.workers]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    for pid in stopped:
        wait_for_exit(pid)
    daemon.wait_for_workers(2)
    assert daemon.connect().ask(bare("pid")) not in stopped
