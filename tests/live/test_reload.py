"""SIGHUP: new code takes over, running tasks finish in the old code, and nothing is lost."""

import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import (
    TIMEOUT,
    Connection,
    Daemon,
    Drop,
    Gate,
    bare,
    cancel,
    data_of,
    parent_of,
    processes_marked,
    rpc,
    run_taskd,
    wait_for_exit,
)

Start = Callable[..., Daemon]
MakeGate = Callable[[], Gate]

TIMED_OUT, CANCELLED, LOST, NOT_FOUND = -32001, -32002, -32003, -32601

APP = """
import os, time
from taskd import TaskStopped, on_worker_start, on_worker_stop, task

VERSION = {version!r}

@task
def version():
    return VERSION

@task
def pid():
    return os.getpid()

@task
def stand(path):
    with open(path) as fifo:
        fifo.read()
    return VERSION

@task
def stand_and_tell(path, target):
    try:
        with open(path) as fifo:
            return fifo.read()
    except TaskStopped as stopped:
        with open(target, "w") as fifo:
            fifo.write(type(stopped).__name__)
        raise

@task(grace=0.3)
def stand_deaf(path):
    os.open(path, os.O_RDONLY)
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass
"""

ONLY_OLD = "\n@task\ndef only_old():\n    return 'old'\n"
NAP = "\n@task\ndef nap(seconds):\n    time.sleep(seconds)\n"
ONLY_NEW = "\n@task\ndef only_new():\n    return 'new'\n"

ENV = {"PYTHONDONTWRITEBYTECODE": "1"}
"""Text for a different size: Python takes old byte code for a new file of the same second and size."""


class Reloading:
    """A daemon whose only app the test can rewrite."""

    def __init__(self, start: Start, directory: Path, *options: str, more: str = "") -> None:
        self._file = directory / "app.py"
        self.write("one", more)
        self.daemon = start("--app", "app.py", *options, env=ENV).wait_until_ready()

    def write(self, version: str, more: str = "") -> None:
        """Write the app."""
        self.write_text(APP.format(version=version) + more)

    def write_text(self, text: str) -> None:
        """Write an arbitrary text as the app."""
        self._file.write_text(text)

    def tell(self) -> None:
        """Send the daemon the signal to reload."""
        self.daemon.process.send_signal(signal.SIGHUP)

    def reload(self, version: str, more: str = "", count: int = 1) -> None:
        """Rewrite the app and wait until it is loaded, as the `count`-th successful reload."""
        self.write(version, more)
        self.tell()
        self.wait_until_reloaded(count)

    def wait_until_reloaded(self, count: int = 1) -> re.Match[str]:
        """Return the log line of the reload."""
        return self.daemon.wait_for_log(r"\breloaded: (\d+) functions, generation (\d+)", count)

    def wait_until_refused(self, count: int = 1) -> None:
        """Return when the log reports the reload."""
        self.daemon.wait_for_log(r"\bnot reloaded: ", count)

    def wait_until_the_old_is_gone(self) -> None:
        """Return when there is one fork server."""
        assert self.daemon.fork_server in self.fork_servers()

    def fork_servers(self) -> list[int]:
        """Return the ids of all fork servers, including old ones."""
        return [
            pid for pid in self.daemon.processes("fork server") if parent_of(pid) == self.daemon.process.pid
        ]


@pytest.fixture
def make_app(clean_start: Start, tmp_path: Path) -> Callable[..., Reloading]:
    """Start a daemon whose app can be rewritten."""
    return lambda *options, **more: Reloading(clean_start, tmp_path, *options, **more)


# --- new code ----------------------------------------------------------------


def test_new_code_answers_after_a_reload_and_the_old_processes_end(make_app: Any) -> None:
    app = make_app("--workers", "2")
    client = app.daemon.connect()
    assert client.ask(bare("version")) == "one"
    before = [app.daemon.fork_server, *app.daemon.workers]
    app.reload("two")
    assert client.ask(bare("version")) == "two"
    for pid in before:
        wait_for_exit(pid)
    app.daemon.wait_for_workers(2)
    assert app.daemon.family() == sorted(
        [app.daemon.process.pid, app.daemon.fork_server, *app.daemon.workers]
    )


def test_the_log_and_the_status_report_a_reload(make_app: Any) -> None:
    app = make_app("--workers", "2")
    status = app.daemon.status()
    assert (status["generation"], status["reloading"]) == (1, False)
    app.reload("two", ONLY_NEW)
    match = app.wait_until_reloaded()
    assert (int(match[1]), int(match[2])) == (6, 2)
    app.daemon.wait_for_workers(2)
    status = app.daemon.status()
    assert (status["generation"], status["reloading"]) == (2, False)
    assert [worker["generation"] for worker in status["workers"]] == [2, 2]
    assert "generation 2" in run_taskd(app.daemon.tcp, "status").stdout
    app.reload("three", count=2)
    assert app.daemon.status()["generation"] == 3


def test_new_functions_can_be_called_and_removed_ones_are_refused(make_app: Any) -> None:
    app = make_app("--workers", "1", more=ONLY_OLD)
    client = app.daemon.connect()
    assert client.ask(bare("only_old")) == "old"
    data_of(client.ask(bare("only_new")), NOT_FOUND)
    app.reload("two", ONLY_NEW)
    data_of(client.ask(bare("only_old")), NOT_FOUND)
    assert client.ask(bare("only_new")) == "new"
    names = {function["name"] for function in client.ask(bare("taskd.functions"))}
    assert "only_new" in names
    assert "only_old" not in names


def test_new_limits_and_signatures_apply_after_a_reload(make_app: Any) -> None:
    limited = "\n@task(timeout={0})\ndef wait({1}):\n    time.sleep({1})\n    return {1}\n"
    app = make_app("--workers", "1", more=limited.format(60, "before"))
    client = app.daemon.connect()
    assert client.ask(bare("wait", before=0.4)) == 0.4
    app.reload("two", limited.format(0.2, "after"))
    assert data_of(client.ask(bare("wait", after=600)), TIMED_OUT)["seconds"] == 0.2
    data_of(client.ask(bare("wait", before=0)), -32602)


def test_modules_imported_by_the_app_are_reloaded_too(make_app: Any, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("NAME = 'old'\n")
    more = "\nimport helper\n@task\ndef helped():\n    return helper.NAME\n"
    app = make_app("--workers", "1", more=more)
    client = app.daemon.connect()
    assert client.ask(bare("helped")) == "old"
    (tmp_path / "helper.py").write_text("NAME = 'new'\n")
    app.reload("two", more)
    assert client.ask(bare("helped")) == "new"


def test_stop_hooks_of_the_old_code_and_start_hooks_of_the_new_are_run(make_app: Any) -> None:
    hooks = (
        "\n@on_worker_start\ndef up():\n    print('up', VERSION)\n"
        "\n@on_worker_stop\ndef down():\n    print('down', VERSION)\n"
    )
    app = make_app("--workers", "1", more=hooks)
    app.daemon.wait_for_log("up one$")
    app.reload("two", hooks)
    app.daemon.wait_for_log("up two$")
    app.daemon.wait_for_log("down one$")
    assert app.daemon.connect().ask(bare("version")) == "two"
    assert "down two" not in app.daemon.log


# --- running and waiting tasks -----------------------------------------------


def test_running_tasks_finish_in_the_old_code_while_new_calls_use_the_new(
    make_app: Any, make_gate: MakeGate
) -> None:
    app = make_app("--workers", "2")
    gates = [make_gate(), make_gate()]
    old = app.daemon.connect()
    for gate in gates:
        old.send(gate.rpc(gate.path, "stand"))
        gate.wait_until_entered()
    app.reload("two")
    # Every worker of the old code is busy; the new ones do not wait for them.
    client = app.daemon.connect()
    assert [client.ask(bare("version")) for _ in range(5)] == ["two"] * 5
    status = app.daemon.status()
    left = [worker for worker in status["workers"] if worker["generation"] == 1]
    assert [(worker["state"], worker["function"]) for worker in left] == [("leaving", "stand")] * 2
    for gate in gates:
        gate.release()
        assert old.receive() == {"jsonrpc": "2.0", "id": gate.path, "result": "one"}
    for worker in left:
        wait_for_exit(worker["pid"])
    app.daemon.wait_for_workers(2)
    app.wait_until_the_old_is_gone()


def test_waiting_tasks_are_run_once_and_those_of_removed_functions_are_refused(
    make_app: Any, make_gate: MakeGate
) -> None:
    app = make_app("--workers", "1", more=ONLY_OLD)
    gate = make_gate()
    client = app.daemon.connect().send(gate.rpc("held", "stand"))
    gate.wait_until_entered()
    client.send(rpc("waits", "version"), rpc("in vain", "only_old"))
    app.daemon.wait_for_status(lambda status: status["waiting"] == 2)
    app.reload("two")
    replies = {reply["id"]: reply for reply in (client.receive(), client.receive())}
    assert replies["waits"]["result"] == "two"
    data_of(replies["in vain"], NOT_FOUND)
    gate.release()
    assert client.receive()["result"] == "one"


def test_a_task_of_the_old_code_still_has_its_limit_and_can_be_cancelled(
    make_app: Any, make_gate: MakeGate, drop: Drop
) -> None:
    app = make_app("--workers", "3")
    client = app.daemon.connect()
    first, second, third = make_gate(), make_gate(), make_gate()
    client.send(rpc("told", "stand_and_tell", first.path, drop.path), second.rpc("deaf", "stand_deaf"))
    client.send(third.rpc("limited", "stand_deaf") | {"options": {"timeout": 1.0}})
    for gate in (first, second, third):
        gate.wait_until_entered()
    (old,) = app.fork_servers()
    app.reload("two")
    client.send(cancel("c", "told"), cancel("d", "deaf"))
    assert drop.receive() == "TaskCancelled"
    replies = {reply["id"]: reply for reply in (client.receive() for _ in range(5))}
    assert not data_of(replies["told"], CANCELLED)["killed"]
    assert data_of(replies["deaf"], CANCELLED)["killed"]
    assert data_of(replies["limited"], TIMED_OUT)["killed"]
    assert [replies[name]["result"]["was"] for name in "cd"] == ["running"] * 2
    assert client.ask(bare("version")) == "two"
    app.daemon.wait_for_workers(3)
    wait_for_exit(old)
    app.wait_until_the_old_is_gone()


def test_a_dead_worker_of_the_old_code_is_reported_and_not_replaced(make_app: Any, gate: Gate) -> None:
    app = make_app("--workers", "1")
    client = app.daemon.connect().send(gate.rpc("held", "stand"))
    gate.wait_until_entered()
    app.reload("two")
    (old,) = [each["pid"] for each in app.daemon.status()["workers"] if each["generation"] == 1]
    os.kill(old, signal.SIGKILL)
    assert data_of(client.receive(), LOST)["signal"] == "SIGKILL"
    app.daemon.wait_for_workers(1)
    assert client.ask(bare("version")) == "two"
    app.wait_until_the_old_is_gone()


def test_a_dead_fork_server_of_the_old_code_loses_only_its_own_workers(make_app: Any, gate: Gate) -> None:
    app = make_app("--workers", "1")
    client = app.daemon.connect().send(gate.rpc("held", "stand"))
    gate.wait_until_entered()
    old = app.daemon.fork_server
    app.reload("two")
    assert old in app.fork_servers()
    os.kill(old, signal.SIGKILL)
    data_of(client.receive(), LOST)
    assert client.ask(bare("version")) == "two"
    app.daemon.wait_for_workers(1)
    app.wait_until_the_old_is_gone()


def test_a_fork_server_that_dies_after_a_reload_is_replaced_by_one_with_the_new_code(make_app: Any) -> None:
    app = make_app("--workers", "1")
    app.reload("two")
    client = app.daemon.connect()
    assert client.ask(bare("version")) == "two"
    app.daemon.wait_for_workers(1)
    old = app.daemon.fork_server
    os.kill(old, signal.SIGKILL)
    wait_for_exit(old)
    assert client.ask(bare("version")) == "two"


def test_a_reload_under_load_loses_nothing(make_app: Any) -> None:
    app = make_app("--workers", "2")
    stop = threading.Event()
    seen: list[list[Any]] = [[], []]

    def call(client: Connection, answers: list[Any]) -> None:
        in_flight = 50
        client.send(*[rpc(1, "version")] * in_flight)
        while not stop.is_set():
            answers.append(client.receive())
            client.send(rpc(1, "version"))
        answers.extend(client.receive() for _ in range(in_flight))

    clients = [app.daemon.connect() for _ in seen]
    callers = [
        threading.Thread(target=call, args=each, daemon=True) for each in zip(clients, seen, strict=True)
    ]
    for caller in callers:
        caller.start()
    versions = ["two", "three", "four"]
    for count, version in enumerate(versions, 1):
        app.reload(version, count=count)
        # Until no process of the old code is left.
        app.daemon.wait_for_status(
            lambda status, wanted=count + 1: (
                [worker["generation"] for worker in status["workers"]] == [wanted] * 2
            )
        )
    stop.set()
    for caller in callers:
        caller.join(TIMEOUT)
        assert not caller.is_alive()
    for answers in seen:
        assert [answer for answer in answers if "result" not in answer] == []
        order = [answer["result"] for answer in answers]
        assert {"one", *versions} >= set(order)
        assert order[0] == "one"
    assert clients[0].ask(bare("version")) == "four"
    assert app.daemon.status()["counts"]["lost"] == 0


@pytest.mark.parametrize("workers", ["0:2", "1:3"])
def test_a_pool_of_variable_size_reloads_too(make_app: Any, gate: Gate, workers: str) -> None:
    app = make_app("--workers", workers, "--idle", "60")
    client = app.daemon.connect().send(gate.rpc("held", "stand"))
    gate.wait_until_entered()
    app.reload("two")
    assert app.daemon.connect().ask(bare("version")) == "two"
    gate.release()
    assert client.receive()["result"] == "one"
    assert client.ask(bare("version")) == "two"


# --- code that does not load -------------------------------------------------

HOOKED = """
import os
from taskd import on_worker_start, task

@on_worker_start
def connect():
    {}

@task
def version():
    return 'broken'
"""

BAD = {
    "syntax error": ("def (\n", "SyntaxError"),
    "exception": ("1 / 0\n", "ZeroDivisionError"),
    "no tasks": ("def version():\n    return 'none'\n", "no function is registered"),
    "exit": ("import sys\nsys.exit(0)\n", "SystemExit"),
    "end": ("import os\nos._exit(0)\n", "not reloaded"),
    "crash": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "not reloaded"),
    "two of one name": (
        "from taskd import task\n@task(name='x')\ndef a(): pass\n@task(name='x')\ndef b(): pass\n",
        "two functions are named 'x'",
    ),
    "start hook": (
        HOOKED.format("raise RuntimeError('no database')"),
        "RuntimeError: no database",
    ),
    "start hook that ends": (
        HOOKED.format("os._exit(3)"),
        "not reloaded",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_code_that_does_not_load_leaves_the_old_in_place_and_the_reason_is_logged(
    make_app: Any, make_gate: MakeGate, kind: str
) -> None:
    text, reason = BAD[kind]
    app = make_app("--workers", "2")
    gate = make_gate()
    client = app.daemon.connect().send(gate.rpc("held", "stand"))
    gate.wait_until_entered()
    workers, fork_server = app.daemon.workers, app.daemon.fork_server
    app.write_text(text)
    app.tell()
    app.wait_until_refused()
    app.daemon.wait_for_log(re.escape(reason))
    app.daemon.wait_for_status(lambda status: not status["reloading"])
    assert app.daemon.connect().ask(bare("version")) == "one"
    # The processes are the same, and the attempt has left none behind.
    app.daemon.wait_for_family(4)
    assert (app.daemon.workers, app.daemon.fork_server) == (workers, fork_server)
    assert app.daemon.status()["generation"] == 1
    gate.release()
    assert client.receive()["result"] == "one"
    # Once repaired, it loads.
    app.reload("two")
    assert client.ask(bare("version")) == "two"
    if "Error" in reason:
        app.daemon.wait_for_log(r"[#]error\]")


def test_repaired_code_is_used_at_once_although_no_worker_could_start(make_app: Any) -> None:
    app = make_app("--workers", "2", more="\n@on_worker_start\ndef end():\n    os._exit(3)\n")
    client = app.daemon.connect().send(bare("version"))
    app.daemon.wait_for_log("ended: exit status 3", 9)  # 3.2 s until the next two
    app.reload("two")
    # The task that waited for a worker of the old code gets one of the new.
    assert client.receive() == "two"
    app.daemon.wait_for_workers(2)


def lose_code(app: Any) -> None:
    """Break the app and kill its fork server: three more fail to load it, and the next starts after 0.8 s."""
    app.write_text("def (")
    os.kill(app.daemon.fork_server, signal.SIGKILL)
    app.daemon.wait_for_log(r"another one starts in 0\.8 s")


def test_a_reload_replaces_the_pending_restart_of_a_fork_server(make_app: Any) -> None:
    app = make_app("--workers", "1")
    lose_code(app)
    app.reload("two", NAP)
    client = app.daemon.connect()
    assert client.ask(bare("version")) == "two"
    client.ask(bare("nap", 1.0))  # the time at which it would have started is over
    generation = app.daemon.status()["generation"]
    assert [worker["generation"] for worker in app.daemon.wait_for_workers(1)] == [generation]
    app.daemon.wait_for_family(3)


def test_a_failed_reload_without_a_fork_server_is_retried(make_app: Any) -> None:
    app = make_app("--workers", "1")
    lose_code(app)
    app.tell()
    app.wait_until_refused()
    app.write("two")
    assert app.daemon.connect().ask(bare("version")) == "two"
    app.daemon.wait_for_family(3)


def test_a_stop_during_the_delay_before_a_fork_server_restarts_leaves_nothing(make_app: Any) -> None:
    app = make_app("--workers", "1")
    lose_code(app)
    app.tell()
    app.wait_until_refused()
    assert app.daemon.stop() == -signal.SIGTERM
    app.daemon.wait_for_family(0)


def test_a_missing_app_file_leaves_the_old_code_in_place(make_app: Any, tmp_path: Path) -> None:
    app = make_app("--workers", "1")
    (tmp_path / "app.py").unlink()
    app.tell()
    app.wait_until_refused()
    assert app.daemon.connect().ask(bare("version")) == "one"


# --- again, and in between ---------------------------------------------------


def test_the_server_answers_while_the_new_code_is_imported(make_app: Any, gate: Gate) -> None:
    app = make_app("--workers", "2")
    app.write("two", f"\nopen({gate.path!r}).read()\n")
    app.tell()
    gate.wait_until_entered()
    client = app.daemon.connect()
    assert [client.ask(bare("version")) for _ in range(3)] == ["one"] * 3
    assert app.daemon.status()["reloading"]
    gate.release()
    app.wait_until_reloaded()
    assert client.ask(bare("version")) == "two"
    assert not app.daemon.status()["reloading"]


def test_a_signal_during_a_reload_leads_to_the_newest_code(make_app: Any, make_gate: MakeGate) -> None:
    app = make_app("--workers", "2")
    gate = make_gate()
    app.write("two", f"\nopen({gate.path!r}).read()\n")
    app.tell()
    gate.wait_until_entered()
    app.write("three")
    app.tell()
    app.tell()
    gate.release()
    client = app.daemon.connect()
    app.daemon.wait_for_status(
        lambda status: not status["reloading"] and client.ask(bare("version")) == "three"
    )
    app.daemon.wait_for_workers(2)
    app.daemon.wait_for_family(4)
    assert client.ask(bare("version")) == "three"


def test_many_reloads_in_a_row_leave_one_generation(make_app: Any) -> None:
    app = make_app("--workers", "1")
    for _ in range(10):
        app.tell()
    app.write("last")
    app.wait_until_reloaded()
    app.tell()
    client = app.daemon.connect()
    app.daemon.wait_for_status(
        lambda status: not status["reloading"] and client.ask(bare("version")) == "last"
    )
    app.daemon.wait_for_workers(1)
    app.daemon.wait_for_family(3)


def test_an_ended_generation_leaves_no_descriptor_open(make_app: Any) -> None:
    app = make_app("--workers", "1")
    app.daemon.wait_for_workers(1)
    client = app.daemon.connect()
    assert client.ask(bare("version")) == "one"
    before = app.daemon.descriptors()
    app.reload("two")
    os.kill(app.daemon.wait_for_workers(1)[0]["pid"], signal.SIGKILL)
    app.write_text("def")
    app.tell()
    app.wait_until_refused()
    app.daemon.wait_for_workers(1)
    app.daemon.wait_for_family(3)
    # The turn that reports a process's end closes its descriptors.
    assert client.ask(bare("version")) == "two"
    assert app.daemon.descriptors() == before


def test_a_stop_during_a_reload_leaves_nothing(make_app: Any, gate: Gate) -> None:
    app = make_app("--workers", "1")
    app.write("two", f"\nopen({gate.path!r}).read()\n")
    app.tell()
    gate.wait_until_entered()
    family = app.daemon.family()
    app.daemon.process.send_signal(signal.SIGTERM)
    assert app.daemon.wait_for_end() == -signal.SIGTERM
    for pid in family:
        wait_for_exit(pid)
    assert app.daemon.family() == []


def test_a_stop_waits_for_tasks_that_the_old_code_still_runs(make_app: Any, gate: Gate) -> None:
    app = make_app("--workers", "1")
    client = app.daemon.connect().send(gate.rpc("held", "stand"))
    gate.wait_until_entered()
    app.reload("two")
    app.daemon.process.send_signal(signal.SIGTERM)
    app.daemon.wait_for_status(lambda status: status["stopping"], client)
    gate.release()
    assert [reply["result"] for reply in client.receive_all()] == ["one"]
    assert app.daemon.wait_for_end() == -signal.SIGTERM
    assert app.daemon.family() == []


def test_a_reload_signal_during_a_stop_is_ignored(make_app: Any, gate: Gate) -> None:
    app = make_app("--workers", "1")
    client = app.daemon.connect().send(gate.rpc("held", "stand"))
    gate.wait_until_entered()
    app.daemon.process.send_signal(signal.SIGTERM)
    app.daemon.wait_for_status(lambda status: status["stopping"], client)
    app.tell()
    gate.release()
    assert [reply["result"] for reply in client.receive_all()] == ["one"]
    assert app.daemon.wait_for_end() == -signal.SIGTERM
    assert app.daemon.family() == []


def test_nothing_survives_a_daemon_that_is_killed_during_a_reload(make_app: Any, make_gate: MakeGate) -> None:
    app = make_app("--workers", "1")
    held, importing = make_gate(), make_gate()
    app.daemon.connect().send(held.rpc("held", "stand"))
    held.wait_until_entered()
    app.write("two", f"\nopen({importing.path!r}).read()\n")
    app.tell()
    importing.wait_until_entered()
    family = app.daemon.wait_for_family(4)  # daemon, old fork server and worker, new fork server
    app.daemon.process.kill()
    for pid in family:
        wait_for_exit(pid)
    assert processes_marked(app.daemon.name) == []


def test_a_gateway_without_a_task_server_ignores_the_reload_signal(start: Start) -> None:
    daemon = start("--listen", "none", "--task-server", "tcp:127.0.0.1:9")
    with socket.create_connection(("127.0.0.1", daemon.port()), TIMEOUT) as page:
        page.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert page.recv(4).startswith(b"HTTP")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.wait_for_end() == -signal.SIGTERM
