"""`taskd.status` and `taskd status`: everything that happens is reported, and nothing delays the answer."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.live.support import (
    APPS,
    SOON,
    TIMEOUT,
    Daemon,
    Gate,
    bare,
    cancel,
    data_of,
    rpc,
    run_taskd,
)

Start = Callable[..., Daemon]
MakeGate = Callable[[], Gate]
Apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "misbehaving.py"))

PROMPT = 1.0
"""Seconds: half of the answers take less, even on a busy machine."""


def timed(ask: Callable[[], Any]) -> tuple[Any, float]:
    """Return the answer, and how long it took."""
    began = time.monotonic()
    answer = ask()
    return answer, time.monotonic() - began


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server to which one of everything has happened, and which is idle now."""
    directory = tmp_path_factory.mktemp("eventful")
    daemon = Daemon(*Apps, "--workers", "1", "--max-queue", "2", directory=directory).wait_until_ready()
    client = daemon.connect()
    gate = Gate(directory / "gate")
    assert client.ask(bare("hello")) == "Hello, World!"
    assert client.ask(bare("hello")) == "Hello, World!"
    data_of(client.ask(bare("boom")), -32000)
    data_of(client.ask(rpc(1, "limited", 600)), -32001)
    data_of(client.ask(rpc(1, "vanish", 3)), -32003)
    client.send(gate.rpc("held"))
    gate.wait_until_entered()
    data_of(client.ask(rpc(1, "hello", options={"deadline": 0.1})), -32001)
    client.send(rpc("waits", "hello"), rpc("waits too", "hello"))
    for _ in range(3):
        data_of(client.ask(rpc(1, "hello")), -32004)
    client.send(cancel("c", "waits"), cancel("d", "waits too"), cancel("e", "held"))
    for _ in range(6):
        client.receive()
    daemon.wait_for_workers(1)
    client.close()
    yield daemon
    gate.tear_down()
    daemon.stop()
    daemon.wait_until_gone()
    assert "a bug in taskd" not in daemon.log
    assert "Unhandled" not in daemon.log


def test_everything_that_happens_is_counted(eventful: Daemon) -> None:
    counts = eventful.status()["counts"]
    # Whether the worker was killed is told apart from whether its task was.
    replaced = counts.pop("workers_replaced")
    assert replaced in (0, 1)
    assert counts == {
        "done": 2, "failed": 1, "timed_out": 1, "expired": 1, "cancelled": 3, "lost": 1, "refused": 3,
        "reclaimed": 0, "workers_started": 2,
    }  # fmt: skip


def test_functions_are_listed_with_how_their_calls_ended(eventful: Daemon) -> None:
    functions = {function.pop("name"): function for function in eventful.status()["functions"]}
    keys = {"done", "failed", "lost", "timed_out", "cancelled", "mean", "longest", "short", "timeout"}
    keys |= {"wait_p50", "wait_p95", "run_p50", "run_p95"}
    for function in functions.values():
        assert function.keys() == keys
    ended = ("done", "failed", "lost", "timed_out", "cancelled")
    assert [functions["hello"][key] for key in ended[:4]] == [2, 0, 0, 0]
    assert [functions["boom"][key] for key in ended] == [0, 1, 0, 0, 0]
    assert [functions["vanish"][key] for key in ended] == [0, 0, 1, 0, 0]
    assert [functions["limited"][key] for key in ended] == [0, 0, 0, 1, 0]
    assert [functions["wait_for"][key] for key in ended] == [0, 0, 0, 0, 1]
    assert functions["limited"]["timeout"] == 0.3
    assert functions["hello"]["timeout"] is None
    assert functions["hello"]["short"] in (True, False)


def test_the_status_has_the_documented_members(eventful: Daemon) -> None:
    status = eventful.status()
    assert {
        "name", "version", "uptime", "stopping", "waiting", "running", "max_queue", "workers", "functions",
        "generation", "code", "reloading", "min_workers", "max_workers", "connections", "oldest_waiting",
        "counts", "unanswered", "budget", "store", "schedules", "parties", "log_lines_lost", "unready",
        "labels",
    } == status.keys()  # fmt: skip
    assert (status["generation"], status["reloading"], status["stopping"]) == (1, False, False)
    assert (status["min_workers"], status["max_workers"]) == (1, 1)
    assert (status["waiting"], status["running"], status["oldest_waiting"]) == (0, 0, None)
    assert status["connections"] >= 1
    (worker,) = status["workers"]
    assert worker.keys() == {
        "number", "pid", "state", "seconds", "function", "task", "done",
        "generation", "memory_kib", "tasks", "stopping", "owner",
    }  # fmt: skip
    assert (worker["state"], worker["tasks"], worker["stopping"], worker["generation"]) == (
        "idle",
        0,
        None,
        1,
    )
    assert (worker["function"], worker["task"]) == (None, None)


def test_the_command_shows_the_status_as_readable_text(eventful: Daemon) -> None:
    text = run_taskd(eventful.tcp, "status").stdout.lower()
    for word in (
        "generation 1", "timed out", "cancelled", "lost", "refused", "expired", "idle", "hello", "limited",
        "memory",
    ):  # fmt: skip
        assert word in text, text
    assert "limited" in run_taskd(eventful.tcp, "status", "--json").stdout


def test_status_shows_what_a_worker_runs_and_what_it_uses(start: Start, make_gate: MakeGate) -> None:
    daemon = start(*Apps, "--workers", "2").wait_until_ready()
    gate = make_gate()
    client = daemon.connect().send(rpc("held", "use_and_stand", 100, gate.path))
    gate.wait_until_entered()
    status = daemon.wait_for_status(
        lambda status: max(worker["memory_kib"] or 0 for worker in status["workers"]) > 100 * 1024
    )
    (busy,) = [worker for worker in status["workers"] if worker["state"] == "busy"]
    (idle,) = [worker for worker in status["workers"] if worker["state"] == "idle"]
    assert (busy["function"], busy["task"], busy["tasks"]) == ("use_and_stand", 1, 1)
    assert busy["memory_kib"] > 100 * 1024 > (idle["memory_kib"] or 0)
    gate.release()
    assert client.receive()["id"] == "held"


def test_status_shows_how_long_the_oldest_task_waits(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    client = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    assert daemon.status()["oldest_waiting"] is None
    client.send(rpc(1, "hello"))
    daemon.wait_for_status(lambda status: (status["oldest_waiting"] or 0) > 0.2)
    client.send(rpc(2, "hello", options={"priority": 0}))
    status = daemon.wait_for_status(lambda status: status["waiting"] == 2)
    assert status["oldest_waiting"] > 0.2
    gate.release()
    assert {client.receive()["id"] for _ in range(3)} == {"held", 1, 2}
    daemon.wait_for_status(lambda status: status["oldest_waiting"] is None)  # it may be 0.1 s old


@pytest.mark.parametrize("why", ["timeout", "cancelled"])
def test_a_task_that_is_being_stopped_is_shown_as_stopping(
    start: Start, tmp_path: Path, make_gate: MakeGate, why: str
) -> None:
    (tmp_path / "slow.py").write_text(
        "from taskd import TaskStopped, task\n"
        "@task\ndef stand(first, second):\n"
        "    try:\n        open(first).read()\n"
        "    except TaskStopped:\n        open(second).read()\n"
    )
    daemon = start("--app", "slow", "--workers", "1").wait_until_ready()
    running, ending = make_gate(), make_gate()
    options = {"timeout": 0.5} if why == "timeout" else {}
    client = daemon.connect().send(rpc("a", "stand", running.path, ending.path, options=options))
    running.wait_until_entered()
    if why == "cancelled":
        client.send(cancel("c", "a"))
    ending.wait_until_entered()
    (worker,) = daemon.status()["workers"]
    assert (worker["stopping"], worker["task"]) == (why, 1)
    ending.release()
    assert client.receive()["error"]["code"] == (-32001 if why == "timeout" else -32002)
    daemon.wait_for_workers(1)
    (worker,) = daemon.status()["workers"]
    assert worker["stopping"] is None


def test_connections_are_counted_as_they_come_and_go(start: Start) -> None:
    daemon = start("--workers", "1", "--websocket", "none").wait_until_ready()
    asking = daemon.connect()
    one = asking.ask(bare("taskd.status"))["connections"]
    more = [daemon.connect() for _ in range(5)]
    for connection in more:
        assert connection.ask(bare("taskd.ping")) == "pong"
    assert asking.ask(bare("taskd.status"))["connections"] == one + 5
    for connection in more:
        connection.close()
    daemon.wait_for_status(lambda status: status["connections"] == one, asking)


# --- nothing delays it -------------------------------------------------------


def test_busy_stuck_or_stopped_workers_do_not_delay_the_answer(start: Start, make_gate: MakeGate) -> None:
    daemon = start(*Apps, "--workers", "4").wait_until_ready()
    workers = daemon.wait_for_workers(4)
    client = daemon.connect()
    gates = [make_gate(), make_gate()]
    client.send(gates[0].rpc(1), gates[1].rpc(2), rpc(3, "count_in_c"), rpc(4, "stand_in_c", True))
    client.send(*(rpc(number, "hello") for number in range(5, 100)))
    for gate in gates:
        gate.wait_until_entered()
    daemon.wait_for_status(lambda status: status["running"] == 4 and status["waiting"] == 95)
    # A task that has not begun when its worker is killed is run by another one.
    ending = time.monotonic() + TIMEOUT
    while {"count_in_c #3", "stand_in_c #4"} - set(daemon.titles()):
        assert time.monotonic() < ending, daemon.titles()
    for worker in workers:
        os.kill(worker["pid"], signal.SIGSTOP)
    other = daemon.connect()
    for _ in range(20):
        status, seconds = timed(lambda: other.ask(bare("taskd.status")))
        assert seconds < SOON
        assert [worker["state"] for worker in status["workers"]] == ["busy"] * 4
    assert other.ask(bare("taskd.ping")) == "pong"
    ended, seconds = timed(lambda: run_taskd(daemon.tcp, "status"))
    assert ended.returncode == 0
    assert "stand_in_c" in ended.stdout
    for worker in workers:
        os.kill(worker["pid"], signal.SIGKILL)
    replies = [client.receive() for _ in range(99)]
    assert sum("result" in reply for reply in replies) == 95


def test_thousands_of_tasks_do_not_delay_the_answer(start: Start) -> None:
    daemon = start("--workers", "2", "--max-outstanding", "10000").wait_until_ready()
    client, other = daemon.connect(), daemon.connect()
    count = 5000
    client.send(*(rpc(number, "nap", 0.0002) for number in range(count)))
    took = []
    while True:
        status, seconds = timed(lambda: other.ask(bare("taskd.status")))
        took.append(seconds)
        if not status["waiting"] and not status["running"]:
            break
    assert len(took) > 1
    assert sorted(took)[len(took) // 2] < PROMPT
    for _ in range(count):
        assert "result" in client.receive()


@pytest_twisted.ensureDeferred
async def test_the_status_is_the_same_through_a_gateway(eventful: Daemon, websocket: Any) -> None:
    page = await websocket(eventful.ws)
    answer = (await page.ask(rpc(1, "taskd.status")))["result"]
    assert answer["counts"]["timed_out"] == 1
    assert answer["generation"] == 1
