"""The answer to a task whose worker process has died under it."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import (
    APPS,
    Connection,
    Daemon,
    Gate,
    bare,
    data_of,
    kept_daemon,
    lines_of,
    rpc,
    title_of,
    wait_for_exit,
)

Start = Callable[..., Daemon]
MakeGate = Callable[[], Gate]
Apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "misbehaving.py"))

LOST = -32003

MIB = 1024 * 1024

MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")

FRAME = re.compile(r"^.+:\d+ in .+$")
"""What a line of a stack looks like."""


def lost(reply: Any) -> dict[str, Any]:
    """Return the data of a reply, which must be the error about a lost worker."""
    data = data_of(reply, LOST)
    known = {"signal", "status", "seconds", "peak_memory_kib", "out_of_memory", "reason", "stack"}
    assert data.keys() <= known, data
    assert data["seconds"] >= 0
    return data


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server with one worker, which is lost in each test."""
    with kept_daemon(*Apps, "--workers", "1", directory=tmp_path_factory.mktemp("one")) as daemon:
        yield daemon


@pytest.fixture
def client(one: Daemon) -> Iterator[Connection]:
    """A connection to it; at the end there must be another worker."""
    client = one.connect()
    yield client
    client.close()
    one.must_serve()


# --- where it crashed --------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("segfault", "SIGSEGV"),
        ("abort", "SIGABRT"),
        ("SIGSEGV", "SIGSEGV"),
        ("SIGBUS", "SIGBUS"),
        ("SIGFPE", "SIGFPE"),
        ("SIGILL", "SIGILL"),
    ],
)
def test_a_crash_reports_its_signal_and_the_stack_with_the_innermost_frame_first(
    client: Connection, how: str, number: str
) -> None:
    data = lost(client.ask(bare("crash", how)))
    assert data["signal"] == number
    assert "status" not in data
    assert "out_of_memory" not in data
    stack = data["stack"]
    for frame in stack:
        assert FRAME.match(frame), frame
    names = [frame.rpartition(" in ")[2] for frame in stack]
    assert names.index("fall") < names.index("crash")
    (fall,) = [frame for frame in stack if frame.endswith(" in fall")]
    assert "misbehaving.py:" in fall


def test_a_crash_in_a_thread_reports_the_stack_of_that_thread(start: Start, tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(
        "import ctypes, threading\nfrom taskd import task\n"
        "def in_thread():\n    ctypes.string_at(0)\n"
        "@task\ndef crash():\n"
        "    thread = threading.Thread(target=in_thread)\n    thread.start()\n    thread.join()\n"
    )
    daemon = start("--app", "threaded", "--workers", "1").wait_until_ready()
    data = lost(daemon.connect().ask(bare("crash")))
    assert data["signal"] == "SIGSEGV"
    assert any(frame.endswith(" in in_thread") for frame in data["stack"])


def test_the_stack_of_one_crash_is_never_reported_for_the_next(client: Connection) -> None:
    assert "fall" in " ".join(lost(client.ask(bare("crash", "segfault")))["stack"])
    assert not lost(client.ask(bare("crash", "SIGKILL"))).get("stack")
    assert not lost(client.ask(bare("vanish", 3))).get("stack")


def test_a_crash_leaves_no_file_and_no_core(start: Start, tmp_path: Path) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    before = set(tmp_path.iterdir())
    client = daemon.connect()
    for _ in range(3):
        lost(client.ask(bare("crash", "abort")))
    assert client.ask(bare("hello")) == "Hello, World!"
    assert set(tmp_path.iterdir()) == before


def test_a_crash_while_no_task_runs_fails_no_task(start: Start, tmp_path: Path) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    (worker,) = daemon.wait_for_workers(1)
    os.kill(worker["pid"], signal.SIGSEGV)
    wait_for_exit(worker["pid"])
    assert daemon.connect().ask(bare("hello")) == "Hello, World!"


# --- how it ended ------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 77])
def test_an_exit_is_reported_with_its_status(client: Connection, status: int) -> None:
    data = lost(client.ask(bare("vanish", status)))
    assert data["status"] == status
    assert "signal" not in data
    assert "out_of_memory" not in data


@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM"])
def test_a_killed_worker_is_reported_with_its_signal(client: Connection, number: str) -> None:
    data = lost(client.ask(bare("crash", number)))
    assert data["signal"] == number
    assert data.get("out_of_memory") is not True
    if number != "SIGKILL":
        assert "out_of_memory" not in data


def test_the_peak_memory_of_a_lost_worker_is_reported(client: Connection) -> None:
    small = lost(client.ask(bare("crash", "SIGKILL")))["peak_memory_kib"]
    large = lost(client.ask(bare("use_and_die", 100)))["peak_memory_kib"]
    assert 1024 < small < 100 * 1024
    assert 100 * 1024 < large < small + 150 * 1024


def test_the_run_time_of_a_lost_task_is_reported_without_its_wait(
    one: Daemon, client: Connection, make_gate: MakeGate
) -> None:
    first, second = make_gate(), make_gate()
    waiting = one.connect()
    client.send(first.rpc("held"))
    first.wait_until_entered()
    began = time.monotonic()
    waiting.send(bare("crash", "SIGKILL"))
    one.wait_for_status(lambda status: (status["oldest_waiting"] or 0) > 0.5)
    first.release()
    assert client.receive()["id"] == "held"
    seconds = lost(waiting.receive())["seconds"]
    assert seconds <= time.monotonic() - began - 0.5
    client.send(second.call())
    second.wait_until_entered()
    (worker,) = one.wait_for_status(lambda status: status["workers"][0]["seconds"] > 0.3)["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    assert lost(client.receive())["seconds"] >= 0.3


def test_a_lost_task_is_logged(one: Daemon, client: Connection) -> None:
    before = client.ask(bare("pid"))
    lost(client.ask(bare("crash", "segfault")))
    one.wait_for_log(rf"process {before}\) ended: killed by SIGSEGV")
    one.wait_for_log(r"misbehaving\.py.*\bin fall")


def test_lost_tasks_are_counted(start: Start) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    client = daemon.connect()
    for how in ("segfault", "SIGKILL"):
        lost(client.ask(bare("crash", how)))
    daemon.wait_for_workers(1)
    status = daemon.status()
    counts = status["counts"]
    assert (counts["lost"], counts["done"], counts["workers_started"]) == (2, 0, 3)
    assert [each["lost"] for each in status["functions"] if each["name"] == "crash"] == [2]


def test_a_crash_loses_only_the_task_that_ran_on_that_worker(start: Start, gate: Gate) -> None:
    daemon = start(*Apps, "--workers", "2").wait_until_ready()
    client = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    lost(daemon.connect().ask(bare("crash", "segfault")))
    gate.release("unhurt")
    assert client.receive()["result"] == "unhurt"


def test_a_short_task_that_kills_its_worker_is_lost_alone_and_no_other_is_run_twice(
    start: Start, tmp_path: Path
) -> None:
    """Short tasks are sent to a worker in batches; those it had not started go to the next worker."""
    daemon = start(*Apps, "--workers", "2", "--max-outstanding", "10000").wait_until_ready()
    client = daemon.connect()
    notes = tmp_path / "notes"
    for number in range(500):
        client.send(rpc(number, "note", str(notes), str(number)))
    assert all("result" in client.receive() for _ in range(500))
    deadly = range(550, 1500, 100)
    client.send(
        *(
            rpc(number, "note_and_die" if number in deadly else "note", str(notes), str(number))
            for number in range(500, 1500)
        )
    )
    replies = {reply["id"]: reply for reply in (client.receive() for _ in range(1000))}
    assert replies.keys() == set(range(500, 1500))
    ran = lines_of(notes)
    for number, reply in replies.items():
        if number in deadly:
            lost(reply)
            assert ran.count(str(number)) == 1
        elif "result" in reply:
            assert ran.count(str(number)) == 1
        else:
            # It may have been read before the task that killed the worker was run.
            lost(reply)
            assert ran.count(str(number)) <= 1


# --- out of memory -----------------------------------------------------------


class MemoryGroup:
    """A control group with a memory limit: the kernel kills a process in it that needs more."""

    def __init__(self, name: str, limit: int) -> None:
        self._path = MEMORY_GROUPS / name
        self._path.mkdir()
        (self._path / "memory.limit_in_bytes").write_text(str(limit))

    def add(self, *pids: int) -> None:
        """Move processes into it."""
        for pid in pids:
            (self._path / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Move the remaining processes back to the parent group, and remove this one."""
        for pid in (self._path / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (MEMORY_GROUPS / "cgroup.procs").write_text(pid)
        self._path.rmdir()


@pytest.fixture
def make_memory_group(tmp_path: Path) -> Iterator[Callable[[int], MemoryGroup]]:
    """Make control groups with a limit; skip the test if this machine does not allow that."""
    groups: list[MemoryGroup] = []

    def make(limit: int) -> MemoryGroup:
        try:
            groups.append(MemoryGroup(f"taskd-test-{os.getpid()}-{len(groups)}", limit))
        except OSError as error:
            pytest.skip(f"no memory control group can be made here: {error}")
        return groups[-1]

    yield make
    for group in groups:
        group.remove()


def test_a_task_killed_by_the_kernel_for_its_memory_is_recognised(
    make_memory_group: Callable[[int], MemoryGroup], start: Start, make_gate: MakeGate
) -> None:
    """All of taskd is in one group, as in a container: the kernel kills the worker."""
    daemon = start(*Apps, "--workers", "2").wait_until_ready()
    daemon.wait_for_workers(2)
    group = make_memory_group(200 * MIB)
    group.add(daemon.process.pid, daemon.fork_server, *daemon.workers)
    client = daemon.connect()
    gate, other = make_gate(), make_gate()
    client.send(other.rpc("unhurt"))
    other.wait_until_entered()
    client.send(rpc("eats", "stand_and_use", gate.path, 1000))
    gate.release()
    reply = client.receive()
    assert reply["id"] == "eats"
    data = lost(reply)
    assert data["signal"] == "SIGKILL"
    assert data["out_of_memory"] is True
    assert data["peak_memory_kib"] > 50 * 1024
    other.release("unhurt")
    assert client.receive()["result"] == "unhurt"
    # A worker killed by hand afterwards was not out of memory.
    assert lost(client.ask(bare("crash", "SIGKILL"))).get("out_of_memory") is not True
    assert client.ask(bare("hello")) == "Hello, World!"
    assert title_of(daemon.process.pid) == f"taskd[{daemon.name}]: daemon"


def test_a_worker_out_of_memory_in_its_own_control_group_is_not_reported_as_a_plain_kill(
    make_memory_group: Callable[[int], MemoryGroup], start: Start, gate: Gate
) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    client = daemon.connect()
    worker = client.ask(bare("pid"))
    client.send(rpc("eats", "stand_and_use", gate.path, 1000))
    gate.wait_until_entered()
    make_memory_group(60 * MIB).add(worker)
    gate.release()
    data = lost(client.receive())
    assert data["signal"] == "SIGKILL"
    assert data.get("out_of_memory") is not False
    assert client.ask(bare("hello")) == "Hello, World!"
