"""How a server ends: in order, at its time limit, at once; and a start that fails."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import (
    APPS,
    Connection,
    Daemon,
    Drop,
    Gate,
    connect_unix,
    processes_marked,
    run_twistd,
    wait_for_exit,
)

Start = Callable[..., Daemon]
MakeGate = Callable[[], Gate]
Apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "probes.py"))


def bare(function: str, *args: Any) -> dict[str, Any]:
    return {"function": function, **({"args": args} if args else {})}


def rpc(request_id: Any, method: str, *params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def code_of(reply: Any) -> int:
    return reply["error"]["code"]


def begin_stop(daemon: Daemon, number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal, and wait until the server is stopping and its ports are closed."""
    own = daemon.connect()
    # A connection that was not accepted yet is reset when the port is closed.
    assert own.ask(bare("taskd.ping")) == "pong"
    daemon.process.send_signal(number)
    daemon.wait_for_log(f"Received {number.name}")
    while not own.ask(bare("taskd.status"))["stopping"]:
        pass
    # The ports close in the next turn of the server's reactor: a round trip is one.
    assert own.ask(bare("taskd.ping")) == "pong"
    own.close()


def hold(daemon: Daemon, gate: Gate, request: Any = None) -> Connection:
    """A connection whose task waits at the gate."""
    client = daemon.connect().send(request or gate.call())
    gate.wait_until_entered()
    return client


# --- in order ----------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_tasks_are_finished_and_answered_and_then_nothing_is_left(
    start: Start, gate: Gate, number: signal.Signals
) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    client = hold(daemon, gate)
    begin_stop(daemon, number)
    gate.release("finished")
    assert client.receive() == "finished"
    assert client.receive() is None
    assert daemon.wait_for_end() == -number
    assert daemon.family() == []
    assert "Traceback" not in daemon.log
    assert "Unhandled" not in daemon.log


def test_waiting_tasks_are_answered_too(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    client = hold(daemon, gate)
    client.send(*(bare("echo", number) for number in range(100)))
    daemon.wait_for_status(lambda status: status["waiting"] == 100)
    begin_stop(daemon)
    gate.release("finished")
    assert client.receive_all() == ["finished", *range(100)]
    daemon.wait_for_end()


def test_new_requests_are_refused_on_open_connections(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    other = daemon.connect()
    assert other.ask(bare("hello")) == "Hello, World!"
    client = hold(daemon, gate, gate.rpc("held"))
    begin_stop(daemon)
    for connection in (other, client):
        reply = connection.ask(rpc(1, "hello"))
        assert (reply["id"], code_of(reply)) == (1, -32005)
    assert code_of(other.ask(bare("hello"))) == -32005
    assert other.ask(bare("taskd.ping")) == "pong"
    gate.release("finished")
    assert client.receive()["result"] == "finished"
    assert [client.receive(), other.receive()] == [None, None]
    daemon.wait_for_end()


def test_a_refused_bare_request_is_answered_after_the_task_before_it(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    client = hold(daemon, gate)
    begin_stop(daemon)
    client.send(bare("hello"))
    gate.release("finished")
    first, *rest = client.receive_all()
    assert first == "finished"
    assert [code_of(reply) for reply in rest] in ([], [-32005])  # [] if it came after the end
    daemon.wait_for_end()


def test_new_connections_are_refused(start: Start, tmp_path: Path, gate: Gate) -> None:
    path = tmp_path / "socket"
    endpoints = ("--listen", "tcp:0:interface=127.0.0.1", "--listen", f"unix:{path}")
    daemon = start(*endpoints, "--workers", "1").wait_until_ready()
    client = hold(daemon, gate)
    begin_stop(daemon)
    with pytest.raises(ConnectionRefusedError):
        daemon.connect()
    with pytest.raises(FileNotFoundError):
        connect_unix(path)
    gate.release("finished")
    assert client.receive() == "finished"


def test_a_half_closed_client_still_gets_its_replies(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    client = hold(daemon, gate)
    client.send(bare("echo", 1)).end_sending()
    daemon.wait_for_status(lambda status: status["waiting"] == 1)
    begin_stop(daemon)
    gate.release("finished")
    assert client.receive_all() == ["finished", 1]


def test_a_task_whose_client_is_gone_is_finished(start: Start, gate: Gate, drop: Drop) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    request = {"function": "pass_on", "args": [gate.path, drop.path]}
    hold(daemon, gate, request).close()
    begin_stop(daemon)
    gate.release("finished")
    assert drop.receive() == "finished"
    daemon.wait_for_end()
    assert daemon.family() == []


def test_an_idle_server_ends_soon_and_closes_idle_connections(start: Start) -> None:
    daemon = start("--workers", "4").wait_until_ready()
    daemon.wait_for_workers(4)
    clients = [daemon.connect() for _ in range(10)]
    assert [client.ask(bare("taskd.ping")) for client in clients] == ["pong"] * 10
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    assert [client.receive() for client in clients] == [None] * 10
    assert daemon.wait_for_end() == -signal.SIGTERM
    assert time.monotonic() - began < 3
    assert daemon.family() == []


def test_a_large_reply_is_flushed_before_the_end(start: Start, gate: Gate) -> None:
    """The reply is far larger than the kernel takes at once."""
    daemon = start("--workers", "2").wait_until_ready()
    client = hold(daemon, gate)
    size = 9 * 1024 * 1024
    client.send(*[bare("big", size)] * 3)
    daemon.wait_for_status(lambda status: status["waiting"] == 0 and status["running"] == 1)
    begin_stop(daemon)
    gate.release("finished")
    replies = client.receive_all()
    assert replies[0] == "finished"
    assert [len(reply) for reply in replies[1:]] == [size] * 3
    daemon.wait_for_end()


def test_a_worker_that_dies_during_the_stop_does_not_delay_it(start: Start, make_gate: MakeGate) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    gates = [make_gate(), make_gate()]
    clients = [hold(daemon, gate) for gate in gates]
    begin_stop(daemon)
    (victim,) = [each["pid"] for each in status_of(clients)["workers"] if each["task"] == 1]
    os.kill(victim, signal.SIGKILL)
    assert code_of(clients[0].receive()) == -32003
    gates[1].release("finished")
    # The reply of the task comes after that of the status request on the same connection.
    assert clients[1].receive() == "finished"
    daemon.wait_for_end()
    assert daemon.family() == []


def status_of(clients: list[Connection]) -> dict[str, Any]:
    return clients[1].ask(rpc("status", "taskd.status"))["result"]


def test_a_fork_server_that_dies_during_the_stop_does_not_delay_it(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    client = hold(daemon, gate)
    begin_stop(daemon)
    os.kill(daemon.fork_server, signal.SIGKILL)
    assert code_of(client.receive()) == -32003
    daemon.wait_for_end()
    assert daemon.family() == []


def test_a_process_left_behind_by_a_task_ends_with_the_server(start: Start) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    sleeper = daemon.connect().ask(bare("spawn_sleeper"))
    assert sleeper in daemon.wait_for_family(4)
    daemon.stop()
    wait_for_exit(sleeper)
    assert daemon.family() == []


# --- ended early ---------------------------------------------------------------


def test_tasks_that_still_run_at_the_stop_timeout_are_ended_and_answered(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1", "--stop-timeout", "0.3").wait_until_ready()
    client = hold(daemon, gate)
    client.send(bare("hello"))
    daemon.wait_for_status(lambda status: status["waiting"] == 1)
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    replies = client.receive_all()
    assert len(replies) == 2
    assert code_of(replies[0]) in (-32003, -32005)
    assert code_of(replies[1]) == -32005  # it was never started
    daemon.wait_for_end()
    assert 0.3 <= time.monotonic() - began < 4
    assert daemon.family() == []
    daemon.wait_for_log(
        r"waiting up to 0\.3 s for 2 tasks \(hello: 1, wait_for: 1\); a second Ctrl-C or SIGTERM"
    )
    daemon.wait_for_log(r"still run after 0\.3 s: they are ended: 2 tasks")


def test_a_task_that_ignores_sigterm_is_killed(start: Start, tmp_path: Path, drop: Drop) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import signal, time\nfrom taskd import task\n"
        "@task\ndef stay(target):\n"
        "    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "        signal.signal(number, signal.SIG_IGN)\n"
        "    open(target, 'w').write('deaf')\n"
        "    while True:\n        time.sleep(600)\n"
    )
    daemon = start("--app", "stubborn", "--workers", "1", "--stop-timeout", "0.2").wait_until_ready()
    client = daemon.connect().send(bare("stay", drop.path))
    assert drop.receive() == "deaf"
    daemon.process.send_signal(signal.SIGTERM)
    assert code_of(client.receive()) in (-32003, -32005)
    daemon.wait_for_end()
    assert daemon.family() == []


def test_a_child_process_of_a_task_that_is_ended_ends_too(start: Start, gate: Gate) -> None:
    daemon = start(*Apps, "--workers", "1", "--stop-timeout", "0.2").wait_until_ready()
    client = hold(daemon, gate, gate.call("sleeper_and_stand"))
    daemon.wait_for_family(4)
    daemon.process.send_signal(signal.SIGTERM)
    assert code_of(client.receive()) in (-32003, -32005)
    daemon.wait_for_end()
    assert daemon.family() == []


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_server_at_once(
    start: Start, make_gate: MakeGate, second: signal.Signals
) -> None:
    daemon = start("--workers", "3").wait_until_ready()
    for gate in (make_gate(), make_gate()):
        hold(daemon, gate)
    begin_stop(daemon, signal.SIGINT)
    began = time.monotonic()
    daemon.process.send_signal(second)
    assert daemon.wait_for_end() < 0
    assert time.monotonic() - began < 3
    assert daemon.family() == []
    assert "Unhandled" not in daemon.log


def test_a_client_that_does_not_read_its_replies_delays_the_stop_by_seconds_only(start: Start) -> None:
    daemon = start("--workers", "2", "--stop-timeout", "0.3").wait_until_ready()
    client = daemon.connect().send(*[rpc(1, "big", 9_000_000)] * 4)
    # All tasks may run, or some may be throttled until the client reads: either is right here.
    daemon.wait_for_status(lambda status: status["running"] == 0 and status["functions"] != [])
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for_end()
    assert time.monotonic() - began < 10
    assert daemon.family() == []
    client.close()


def test_a_stop_while_the_app_is_imported_leaves_nothing(
    start: Start, tmp_path: Path, make_gate: MakeGate
) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        gate = make_gate()
        # Each app is a file of its own: Python would take the byte code of the old file for one
        # that was rewritten within a second and has the same size.
        (tmp_path / f"slow_{number.name}.py").write_text(f"open({gate.path!r}).read()\n")
        daemon = start("--app", f"slow_{number.name}")
        gate.wait_until_entered()
        family = daemon.wait_for_family(2)
        daemon.process.send_signal(number)
        assert daemon.wait_for_end() != 0
        for pid in family:
            wait_for_exit(pid)
        assert daemon.family() == []


def test_a_stop_while_workers_are_starting_leaves_nothing(start: Start, tmp_path: Path, gate: Gate) -> None:
    (tmp_path / "slow.py").write_text(
        "from taskd import on_worker_start, task\n"
        f"@on_worker_start\ndef connect():\n    open({gate.path!r}).read()\n"
        "@task\ndef one():\n    return 1\n"
    )
    daemon = start("--app", "slow", "--workers", "2", "--stop-timeout", "0.2").wait_until_ready()
    client = daemon.connect().send(bare("one"))
    gate.wait_until_entered()
    daemon.wait_for_status(lambda status: status["waiting"] == 1)
    daemon.process.send_signal(signal.SIGTERM)
    assert code_of(client.receive()) == -32005
    daemon.wait_for_end()
    assert daemon.family() == []


# --- a start that fails -------------------------------------------


def last_words(output: str) -> list[str]:
    """Return the lines of a log, without times, that are not about an ordinary start or end."""
    lines = [line.partition("] ")[2] or line for line in output.splitlines()]
    noise = (
        *("twistd ", "reactor class", "task server starting", "gateway starting", "listening on"),
        *("Main loop", "Server Shut"),
    )
    return [line for line in lines if not line.startswith(noise)]


def test_a_port_in_use_fails_the_start_with_one_sentence_that_names_the_endpoint(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        daemon = start("--listen", endpoint)
        assert daemon.wait_for_end() == 1
    (sentence,) = last_words(daemon.log)
    assert endpoint in sentence
    assert "in use" in sentence
    assert daemon.family() == []


def test_a_websocket_port_in_use_fails_the_start_too(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        daemon = start("--websocket", endpoint)
        assert daemon.wait_for_end() == 1
    (sentence,) = last_words(daemon.log)
    assert endpoint in sentence
    assert daemon.family() == []


def test_a_unix_socket_in_use_fails_the_start_and_its_server_keeps_serving(
    start: Start, tmp_path: Path
) -> None:
    endpoint = f"unix:{tmp_path}/socket"
    first = start("--listen", endpoint, "--workers", "1").wait_until_ready()
    second = start("--listen", endpoint, "--workers", "1")
    assert second.wait_for_end() == 1
    (sentence,) = last_words(second.log)
    assert endpoint in sentence
    assert connect_unix(tmp_path / "socket").ask(bare("hello")) == "Hello, World!"
    assert first.process.poll() is None


@pytest.mark.parametrize(
    "endpoint",
    [
        "nonsense",
        "tcp:nonsense",
        "tcp:1:interface=192.0.2.1",
        "unix:/there/is/no/such/directory",
        "tcp:70000",
    ],
)
def test_an_endpoint_that_cannot_be_bound_fails_the_start_and_is_named(start: Start, endpoint: str) -> None:
    daemon = start("--listen", endpoint)
    assert daemon.wait_for_end() == 1
    (sentence,) = last_words(daemon.log)
    assert endpoint in sentence
    assert daemon.family() == []


@pytest.mark.parametrize(
    "options",
    [
        ("--workers", "0"), ("--stop-timeout", "-1"),
        ("--stop-timeout", "nan"), ("--max-message", "1"),
        ("--nonsense",), ("--listen", "none", "--websocket", "none"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_invalid_option_fails_the_start_and_is_named(start: Start, options: tuple[str, ...]) -> None:
    daemon = start(*options)
    assert daemon.wait_for_end() == 1
    (line,) = daemon.log.splitlines()
    assert options[0].lstrip("-") in line
    assert "Traceback" not in daemon.log
    assert daemon.family() == []


@pytest.mark.parametrize("daemonised", [False, True], ids=["nodaemon", "daemonised"])
def test_the_pid_file_of_a_failed_start_is_removed(tmp_path: Path, pool_name: str, daemonised: bool) -> None:
    mode = [] if daemonised else ["--nodaemon"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        options = [*mode, "--pidfile=own.pid", "taskd", *Apps, "--listen", endpoint, "--websocket", "none"]
        ended = run_twistd(tmp_path, pool_name, *options)
    assert ended.returncode == 1, ended.stdout
    for pid in processes_marked(pool_name):
        wait_for_exit(pid)  # twistd reports the failure before the daemon has quite ended
    assert not (tmp_path / "own.pid").exists()
    reason = f"taskd: cannot listen on {endpoint}: Address already in use"
    assert reason in ended.stdout
    if daemonised:
        # The whole reason on stderr, and not only what twistd lets through to it.
        assert f"{reason}\ntaskd: not started; the log is {tmp_path}/twistd.log\n" in ended.stdout
        assert reason in (tmp_path / "twistd.log").read_text()


def test_the_pid_file_exists_only_while_the_server_runs(tmp_path: Path, pool_name: str) -> None:
    endpoints = ["--listen", f"unix:{tmp_path}/socket", "--websocket", "none"]
    ended = run_twistd(tmp_path, pool_name, "--pidfile=own.pid", "taskd", *Apps, *endpoints, "--workers", "1")
    assert ended.returncode == 0, ended.stdout
    pid = int((tmp_path / "own.pid").read_text())
    assert connect_unix(tmp_path / "socket").ask(bare("taskd.ping")) == "pong"
    os.kill(pid, signal.SIGTERM)
    wait_for_exit(pid)
    assert not (tmp_path / "own.pid").exists()
    assert processes_marked(pool_name) == []
