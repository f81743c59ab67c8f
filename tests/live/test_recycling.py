"""Workers replaced for their age or memory, and pools that grow and shrink."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import (
    APPS,
    TIMEOUT,
    Daemon,
    Gate,
    bare,
    cancel,
    data_of,
    rpc,
    wait_for_exit,
)

Start = Callable[..., Daemon]
MakeGate = Callable[[], Gate]
Apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "misbehaving.py"))

FAILED, CANCELLED = -32000, -32002

MIB = 1024 * 1024

HOOKS = (
    "import os\nfrom taskd import on_worker_stop, task\n"
    "@on_worker_stop\ndef down():\n    print('hook: down', os.getpid())\n"
    "@task\ndef pid():\n    return os.getpid()\n"
)


def busy(daemon: Daemon, gates: list[Gate]) -> Any:
    """Return a connection with a task waiting at each of the gates."""
    client = daemon.connect()
    for gate in gates:
        client.send(gate.rpc(gate.path))
    for gate in gates:
        gate.wait_until_entered()
    return client


# --- age ---------------------------------------------------------------------


def test_a_worker_is_replaced_after_max_tasks(start: Start) -> None:
    daemon = start("--workers", "1", "--max-tasks", "3").wait_until_ready()
    client = daemon.connect()
    pids = [client.ask(bare("pid")) for _ in range(12)]
    assert [pids[number : number + 3] for number in range(0, 12, 3)] == [
        [pids[number]] * 3 for number in range(0, 12, 3)
    ]
    assert len(set(pids)) == 4
    (worker,) = daemon.wait_for_workers(1)
    counts = daemon.status()["counts"]
    assert worker["pid"] not in pids
    assert (counts["workers_replaced"], counts["workers_started"], counts["lost"]) == (4, 5, 0)


def test_failed_tasks_count_towards_max_tasks(start: Start) -> None:
    daemon = start("--workers", "1", "--max-tasks", "2").wait_until_ready()
    client = daemon.connect()
    before = client.ask(bare("pid"))
    data_of(client.ask(bare("boom")), FAILED)
    assert client.ask(bare("pid")) != before


def test_no_worker_exceeds_max_tasks_under_load_and_no_task_is_lost(start: Start) -> None:
    """Short tasks are sent to a worker in batches, but no more than it may still run."""
    daemon = start("--workers", "2", "--max-tasks", "50", "--max-outstanding", "10000").wait_until_ready()
    client = daemon.connect()
    count = 1500
    client.send(*(rpc(number, "pid") for number in range(count)))
    replies = {reply["id"]: reply["result"] for reply in (client.receive() for _ in range(count))}
    assert replies.keys() == set(range(count))
    assert max(Counter(replies.values()).values()) <= 50
    daemon.wait_for_workers(2)
    assert daemon.status()["counts"]["lost"] == 0


def test_a_worker_that_has_reached_max_tasks_runs_its_stop_hooks_and_logs_no_warning(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS)
    daemon = start("--app", "hooks", "--workers", "1", "--max-tasks", "1").wait_until_ready()
    client = daemon.connect()
    pids = [client.ask(bare("pid")) for _ in range(3)]
    for pid in pids:
        daemon.wait_for_log(rf"hook: down {pid}$")
        wait_for_exit(pid)
    assert ") ended:" not in daemon.log


def test_every_task_can_have_a_worker_of_its_own(start: Start) -> None:
    daemon = start("--workers", "3", "--max-tasks", "1").wait_until_ready()
    client = daemon.connect().send(*(rpc(number, "pid") for number in range(30)))
    pids = [client.receive()["result"] for _ in range(30)]
    assert len(set(pids)) == 30
    daemon.wait_for_workers(3)


# --- memory ------------------------------------------------------------------


def test_a_worker_that_keeps_too_much_memory_is_replaced_after_its_task(start: Start) -> None:
    daemon = start(*Apps, "--workers", "1", "--max-memory", "150M").wait_until_ready()
    client = daemon.connect()
    pid = client.ask(bare("pid"))
    assert client.ask(bare("hoard", 10)) == pid
    assert client.ask(bare("pid")) == pid
    assert client.ask(bare("hoard", 200)) == pid
    # Its memory is checked ten times a second, and after a longer task.
    ending = time.monotonic() + TIMEOUT
    while client.ask(bare("pid")) == pid:
        assert time.monotonic() < ending
    wait_for_exit(pid)
    counts = daemon.wait_for_status(lambda status: status["counts"]["workers_replaced"] == 1)["counts"]
    assert (counts["lost"], counts["failed"]) == (0, 0)


def test_a_worker_that_frees_its_memory_is_kept(start: Start) -> None:
    daemon = start(*Apps, "--workers", "1", "--max-memory", "153600K").wait_until_ready()
    client = daemon.connect()
    pid = client.ask(bare("pid"))
    for _ in range(3):
        assert client.ask(bare("use", 200)) == pid
    assert client.ask(bare("pid")) == pid


def test_a_worker_over_its_memory_limit_is_replaced_although_its_tasks_are_short_and_many(
    start: Start,
) -> None:
    daemon = start(*Apps, "--workers", "1", "--max-memory", "150M").wait_until_ready()
    client = daemon.connect()
    pids: set[int] = set()
    ending = time.monotonic() + TIMEOUT
    while len(pids) < 2:
        assert time.monotonic() < ending
        client.send(*(rpc(number, "hoard", 1) for number in range(50)))
        pids |= {client.receive()["result"] for _ in range(50)}
    assert daemon.status()["counts"]["lost"] == 0


@pytest.mark.parametrize("size", ["200M", "204800K", str(200 * MIB)])
def test_a_task_that_exceeds_the_hard_memory_limit_fails_and_its_worker_is_replaced(
    start: Start, size: str
) -> None:
    daemon = start(*Apps, "--workers", "1", "--hard-memory", size).wait_until_ready()
    client = daemon.connect()
    pid = client.ask(bare("pid"))
    assert client.ask(bare("use", 50)) == pid
    reply = client.ask(rpc(1, "use", 400))
    data = data_of(reply, FAILED)
    assert (data["type"], data["hard_memory"]) == ("MemoryError", 200 * MIB)
    assert isinstance(data["message"], str)
    assert client.ask(bare("pid")) != pid
    wait_for_exit(pid)
    assert client.ask(bare("use", 50)) != pid


def test_a_hard_memory_limit_below_that_of_an_idle_worker_fails_the_start(start: Start) -> None:
    daemon = start(*Apps, "--workers", "1", "--hard-memory", "1M")
    assert daemon.wait_for_end() == 1
    assert "--hard-memory: 1048576 bytes are too few" in daemon.log


def test_a_task_over_the_hard_memory_limit_affects_no_other(start: Start, gate: Gate) -> None:
    daemon = start(*Apps, "--workers", "2", "--hard-memory", "200M").wait_until_ready()
    held = busy(daemon, [gate])
    client = daemon.connect()
    for _ in range(3):
        assert data_of(client.ask(bare("use", 400)), FAILED)["type"] == "MemoryError"
    gate.release("unhurt")
    assert held.receive()["result"] == "unhurt"
    assert client.ask(bare("hello")) == "Hello, World!"


def test_a_memory_error_without_a_hard_limit_mentions_no_limit(start: Start, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "from taskd import task\n"
        "@task\ndef one():\n    return 1\n"
        "@task\ndef fail():\n    raise MemoryError('of my own')\n"
    )
    daemon = start("--app", "odd", "--workers", "1").wait_until_ready()
    client = daemon.connect()
    assert data_of(client.ask(bare("fail")), FAILED) == {"type": "MemoryError", "message": "of my own"}
    assert client.ask(bare("one")) == 1


# --- growing and shrinking ---------------------------------------------------


def test_workers_are_started_for_waiting_tasks_and_end_when_idle(start: Start, make_gate: MakeGate) -> None:
    daemon = start("--workers", "1:4", "--idle", "0.3").wait_until_ready()
    (first,) = daemon.wait_for_workers(1)
    status = daemon.status()
    assert (status["min_workers"], status["max_workers"]) == (1, 4)
    gates = [make_gate() for _ in range(4)]
    client = busy(daemon, gates)
    # A worker may have begun before its id is known.
    status = daemon.wait_for_status(lambda status: all(worker["pid"] for worker in status["workers"]))
    pids = [worker["pid"] for worker in status["workers"]]
    assert len(set(pids)) == 4
    assert first["pid"] in pids
    # No more than four: the fifth waits.
    client.send(rpc("fifth", "hello"))
    daemon.wait_for_status(lambda status: status["waiting"] == 1)
    assert len(daemon.workers) == 4
    for gate in gates:
        gate.release()
    assert {client.receive()["id"] for _ in range(5)} == {"fifth", *(gate.path for gate in gates)}
    (last,) = daemon.wait_for_workers(1)
    for pid in {*pids} - {last["pid"]}:
        wait_for_exit(pid)
    assert daemon.connect().ask(bare("pid")) == last["pid"]
    assert ") ended:" not in daemon.log


def test_tasks_in_sequence_need_one_worker(start: Start) -> None:
    daemon = start("--workers", "1:8", "--idle", "60").wait_until_ready()
    (worker,) = daemon.wait_for_workers(1)
    client = daemon.connect()
    assert {client.ask(bare("pid")) for _ in range(50)} == {worker["pid"]}
    assert len(daemon.workers) == 1


def test_a_pool_with_a_minimum_of_zero_has_no_worker_until_a_task_waits(start: Start) -> None:
    daemon = start("--workers", "0:2", "--idle", "0.2").wait_until_ready()
    client = daemon.connect()
    for number in range(3):
        daemon.wait_for_status(lambda status: status["workers"] == [])
        for pid in daemon.workers:
            wait_for_exit(pid)
        assert client.ask(bare("echo", number)) == number
    counts = daemon.wait_for_status(lambda status: status["workers"] == [])["counts"]
    # Those that end because they are idle are not replaced.
    assert (counts["workers_started"], counts["workers_replaced"]) == (3, 0)


def test_a_worker_that_ends_when_idle_runs_its_stop_hooks(start: Start, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS)
    daemon = start("--app", "hooks", "--workers", "0:1", "--idle", "0.1").wait_until_ready()
    pid = daemon.connect().ask(bare("pid"))
    daemon.wait_for_log(rf"hook: down {pid}$")
    wait_for_exit(pid)


def test_a_task_submitted_as_an_idle_worker_leaves_is_not_lost(start: Start) -> None:
    daemon = start("--workers", "0:3", "--idle", "0.01").wait_until_ready()
    client = daemon.connect()
    began = time.monotonic()
    number = 0
    # Naps of about the idle time: the next task comes at about the end of a worker.
    while time.monotonic() - began < 1.5:
        client.send(rpc(number, "nap", 0.01), rpc(number + 1, "echo", number))
        assert {client.receive()["id"], client.receive()["id"]} == {number, number + 1}
        client.send(*(rpc(0, "taskd.ping") for _ in range(number % 150)))
        for _ in range(number % 150):
            assert client.receive()["result"] == "pong"
        number += 2
    assert daemon.status()["counts"]["lost"] == 0


def test_idle_workers_of_a_fixed_pool_stay(start: Start) -> None:
    daemon = start("--workers", "2", "--idle", "0.1").wait_until_ready()
    before = daemon.wait_for_workers(2)
    daemon.wait_for_status(lambda status: min(worker["seconds"] for worker in status["workers"]) > 0.4)
    assert [worker["pid"] for worker in daemon.wait_for_workers(2)] == [worker["pid"] for worker in before]


def test_a_lost_worker_is_replaced_only_if_it_is_needed(start: Start, make_gate: MakeGate) -> None:
    daemon = start("--workers", "1:3", "--idle", "0.3").wait_until_ready()
    gates = [make_gate() for _ in range(3)]
    client = busy(daemon, gates)
    for pid in daemon.workers:
        os.kill(pid, signal.SIGKILL)
    for _ in gates:
        assert client.receive()["error"]["code"] == -32003
    assert client.ask(bare("hello")) == "Hello, World!"
    assert len(daemon.wait_for_workers(1)) == 1


def test_a_task_that_waits_for_a_worker_that_is_being_started_can_be_cancelled(
    start: Start, tmp_path: Path, gate: Gate
) -> None:
    (tmp_path / "slow.py").write_text(
        "from taskd import on_worker_start, task\n"
        f"@on_worker_start\ndef connect():\n    open({gate.path!r}).read()\n"
        "@task\ndef one():\n    return 1\n"
    )
    daemon = start("--app", "slow", "--workers", "0:1").wait_until_ready()
    client = daemon.connect().send(rpc("a", "one"))
    gate.wait_until_entered()
    client.send(cancel("c", "a"))
    assert data_of(client.receive(), CANCELLED) == {"was": "waiting"}
    assert client.receive()["result"] == {"was": "waiting"}
    gate.release()
    assert client.ask(rpc("b", "one"))["result"] == 1


def test_a_stop_starts_no_workers_for_tasks_that_wait(start: Start, make_gate: MakeGate) -> None:
    daemon = start("--workers", "0:2", "--idle", "60").wait_until_ready()
    gates = [make_gate(), make_gate()]
    client = busy(daemon, gates)
    client.send(rpc("waits", "hello"))
    daemon.wait_for_status(lambda status: status["waiting"] == 1)
    daemon.process.send_signal(signal.SIGTERM)
    for gate in gates:
        gate.release()
    assert {reply["id"] for reply in client.receive_all()} == {"waits", *(gate.path for gate in gates)}
    daemon.wait_for_end()
    assert daemon.family() == []
