"""Tasks that copy their worker, that leave it otherwise than they found it, or that speak for it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.live.support import (
    APPS,
    Connection,
    Daemon,
    Gate,
    bare,
    connected_to_one_worker,
    data_of,
    kept_daemon,
    rpc,
    wait_for_exit,
)

Start = Callable[..., Daemon]
Apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "untidy.py"))

TIMED_OUT, LOST = -32001, -32003

DAMAGE = [
    *("context", "stdout closed", "stderr closed", "stdout replaced", "stdout gone", "descriptors closed"),
    *("descriptors redirected", "loop closed", "loop gone", "loop run", "thread", "interrupts ignored"),
    *("signals blocked", "alarm", "children ignored", "stdout without é"),
]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server with one worker, which no task here ends."""
    with kept_daemon(*Apps, "--workers", "1", directory=tmp_path_factory.mktemp("one")) as daemon:
        yield daemon


@pytest.fixture
def client(one: Daemon) -> Iterator[Connection]:
    with connected_to_one_worker(one) as client:
        yield client


@pytest.mark.parametrize(
    ("function", "how", "status"),
    [
        *(("fork", "return", 0), ("fork", "exit", 7), ("fork", "say", 1), ("fork", "raise", 1)),
        *(("fork_async", "return", 0), ("fork_async", "exit", 7), ("fork_async", "raise", 1)),
    ],
)
def test_a_child_that_comes_back_leaves_with_its_own_status(
    one: Daemon, client: Connection, function: str, how: str, status: int
) -> None:
    reply = client.ask(rpc(1, function, how, options={"progress": True}))
    assert reply["result"] == status
    if how == "raise":
        one.wait_for_log(rf"{function} #\d+: ValueError: in the child")
    if how == "say":
        one.wait_for_log(rf"{function} #\d+: no disk")


def test_a_child_leaves_wherever_it_was_forked(one: Daemon, client: Connection) -> None:
    assert client.ask(bare("fork_twice")) == 0
    assert client.ask(bare("fork_pty")) == [0]
    assert client.ask(bare("fork_in_thread")) == [0]
    assert "hook: down" not in one.log


def test_processes_of_multiprocessing_work_as_usual(client: Connection) -> None:
    assert client.ask(rpc(1, "use_processes", options={"progress": True}))["result"] == [0, 0, 1, 4]


def test_a_child_that_outlives_its_task_answers_nobody(client: Connection, gate: Gate) -> None:
    child = client.ask(bare("fork_and_leave", gate.path))
    assert client.ask(bare("echo", 1)) == 1
    gate.release()
    wait_for_exit(child)
    assert client.ask(bare("echo", 2)) == 2


def test_a_child_of_a_start_hook_is_no_worker(start: Start) -> None:
    daemon = start(*Apps, "--workers", "1", env={"FORK_AT_IMPORT": "1"}).wait_until_ready()
    client = daemon.connect()
    assert len({client.ask(bare("pid")) for _ in range(5)}) == 1
    assert client.ask(bare("fork", "return")) == 0
    assert "ended:" not in daemon.log


@pytest.mark.parametrize("what", DAMAGE)
def test_the_next_task_finds_everything_as_it_was(
    one: Daemon, client: Connection, gate: Gate, what: str
) -> None:
    assert client.ask(bare("check_async", "before")) == ["by the hook", "before"]
    assert client.ask(bare("damage", what)) is None
    # Whatever the damage has left running reports progress meanwhile.
    client.send(rpc(1, "check", what, gate.path, options={"progress": True}))
    gate.wait_until_entered()
    data_of(one.connect().ask(rpc(2, "nope")), -32601)
    gate.release()
    assert client.receive() == {"jsonrpc": "2.0", "id": 1, "result": ["by the hook", 5]}
    for stream in "out", "err":
        one.wait_for_log(rf"check #\d+: {stream}: {what}$")
    assert client.ask(bare("check_async", "after")) == ["by the hook", "after"]
    assert data_of(client.ask(rpc(3, "check_limit")), TIMED_OUT)["killed"] is False


def test_asyncio_tasks_that_are_left_end_with_their_task(one: Daemon, client: Connection) -> None:
    assert client.ask(bare("damage_async")) is None
    one.wait_for_log(r"damage_async #\d+: leftover: ended")


@pytest.mark.parametrize(
    "line",
    [
        *('["done",999999,0.1,false,1]', '["failed",999999,0.1,false,-32000,"m",null,null]', '["ready"]'),
        *('["returned",[999999]]', '["progress",999999,1,null,null]', "nonsense"),
    ],
)
def test_an_impossible_message_costs_only_the_worker_that_sent_it(
    start: Start, gate: Gate, line: str
) -> None:
    daemon = start(*Apps, "--workers", "2").wait_until_ready()
    other = daemon.connect().send(gate.rpc("other"))
    gate.wait_until_entered()
    client = daemon.connect()
    data: dict[str, Any] = data_of(client.ask(rpc(1, "write_to_the_daemon", line)), LOST)
    assert (data["signal"], "it sent what no worker sends" in data["reason"]) == ("SIGKILL", True)
    assert client.ask(bare("echo", 1)) == 1
    gate.release("unhurt")
    assert other.receive()["result"] == "unhurt"
    daemon.wait_for_log("it sent what no worker sends")
    daemon.stop()
    lines = [line for line in daemon.log.splitlines() if "it sent what no worker sends" in line]
    assert len([line for line in lines if "write_to_the_daemon #" not in line]) == 1, (
        lines
    )  # and the task's own
    assert "Unhandled" not in daemon.log
