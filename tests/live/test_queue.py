"""Waiting tasks: deadlines, priorities, a full queue, and callers that send more than can be done."""

import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.live.support import (
    APPS,
    Connection,
    Daemon,
    Gate,
    bare,
    cancel,
    data_of,
    kept_daemon,
    lines_of,
    resident_bytes,
    rpc,
    run_taskd,
)

Start = Callable[..., Daemon]
MakeGate = Callable[[], Gate]
Apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "misbehaving.py"))

TIMED_OUT, CANCELLED, BUSY, INVALID_REQUEST = -32001, -32002, -32004, -32600

MIB = 1024 * 1024

TENTH = 10
"""The number of starts after which the task that has waited longest is next, whatever its priority."""

MANY = 60_000
"""The number of requests of 2 kB: far more than all buffers on the way hold."""

SLOW = 5.0
"""Seconds: a delay that even a busy machine does not reach."""


def expired(reply: Any, seconds: float) -> None:
    """Check that a reply is the error about a task that was not started before its deadline."""
    assert data_of(reply, TIMED_OUT) == {"limit": "deadline", "seconds": seconds}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server with one worker, which runs one task after the other."""
    with kept_daemon(*Apps, "--workers", "1", directory=tmp_path_factory.mktemp("one")) as daemon:
        yield daemon


def hold(daemon: Daemon, gate: Gate) -> Connection:
    """A connection whose task keeps the one worker busy until the gate is released."""
    held = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    return held


# --- deadlines ---------------------------------------------------------------


def test_a_task_that_waits_past_its_deadline_is_answered_then_and_never_started(
    one: Daemon, gate: Gate, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    before = one.status()["counts"]["expired"]
    held = hold(one, gate)
    client = one.connect()
    began = time.monotonic()
    expired(client.ask(rpc(1, "note", str(notes), "ran", options={"deadline": 0.3})), 0.3)
    assert 0.3 <= time.monotonic() - began < SLOW  # the worker is as busy as before
    gate.release("unhurt")
    assert held.receive()["result"] == "unhurt"
    assert client.ask(bare("hello")) == "Hello, World!"
    assert lines_of(notes) == []
    assert one.status()["counts"]["expired"] == before + 1


def test_the_deadline_of_a_task_that_has_been_started_is_kept(one: Daemon, gate: Gate) -> None:
    client = one.connect().send(gate.rpc("a") | {"options": {"deadline": 0.5}})
    gate.wait_until_entered()
    one.wait_for_status(lambda status: status["workers"][0]["seconds"] > 0.6)
    gate.release("in time")
    assert client.receive()["result"] == "in time"


def test_deadlines_come_in_their_own_order_and_not_in_that_of_the_queue(one: Daemon, gate: Gate) -> None:
    held = hold(one, gate)
    deadlines = [0.5, 0.1, 0.4, 0.2, 0.3]
    client = one.connect()
    for deadline in deadlines:
        client.send(rpc(deadline, "hello", options={"deadline": deadline}))
    client.send(rpc("none", "hello"), rpc("long", "hello", options={"deadline": 1e300}))
    for deadline in sorted(deadlines):
        reply = client.receive()
        assert reply["id"] == deadline
        expired(reply, deadline)
    gate.release()
    assert held.receive()["id"] == "held"
    assert [client.receive()["id"] for _ in range(2)] == ["none", "long"]


def test_a_bare_request_past_its_deadline_keeps_its_place(one: Daemon, gate: Gate) -> None:
    client = one.connect().send(gate.call(), bare("hello", options={"deadline": 0.1}), bare("hello", "Ann"))
    gate.wait_until_entered()
    one.wait_for_status(lambda status: status["waiting"] == 1)  # of the two
    gate.release("unhurt")
    assert client.receive() == "unhurt"
    expired(client.receive(), 0.1)
    assert client.receive() == "Hello, Ann!"


def test_a_deadline_and_a_time_limit_are_independent(one: Daemon, gate: Gate) -> None:
    options = {"deadline": 600, "timeout": 0.2}
    client = one.connect()
    data = data_of(client.ask(rpc(1, "sleep_on", options=options)), TIMED_OUT)
    assert (data["limit"], data["seconds"]) == ("timeout", 0.2)
    hold(one, gate)
    expired(client.ask(rpc(1, "sleep_on", options={"deadline": 0.2, "timeout": 600})), 0.2)


def test_a_deadline_counts_while_the_app_is_imported(start: Start, tmp_path: Path, gate: Gate) -> None:
    (tmp_path / "slow.py").write_text(
        f"open({gate.path!r}).read()\nfrom taskd import task\n@task\ndef one():\n    return 1\n"
    )
    daemon = start("--app", "slow", "--workers", "1")
    client = daemon.connect().send(rpc(1, "one", options={"deadline": 0.3}), rpc(2, "one"))
    gate.wait_until_entered()
    expired(client.receive(), 0.3)
    gate.release()
    assert client.receive() == {"jsonrpc": "2.0", "id": 2, "result": 1}


def test_the_command_has_options_for_deadline_and_priority(one: Daemon, gate: Gate) -> None:
    hold(one, gate)
    ended = run_taskd(one.tcp, "call", "--deadline", 0.2, "hello")
    assert ended.returncode == 1
    assert ended.stderr.startswith("taskd: timed out")
    gate.release()
    assert run_taskd(one.tcp, "call", "--priority", 0, "hello").stdout == '"Hello, World!"\n'
    assert run_taskd(one.tcp, "call", "--priority", 10, "hello").returncode != 0
    assert run_taskd(one.tcp, "call", "--deadline", 0, "hello").returncode != 0


def test_map_passes_on_its_options(start: Start, tmp_path: Path) -> None:
    daemon = start(*Apps, "--workers", "2").wait_until_ready()
    rows = tmp_path / "rows.csv"
    rows.write_text("seconds\n0\n600\n0.001\n")
    failed = tmp_path / "failed.csv"
    options = ("--timeout", 0.3, "--deadline", 60, "--priority", 1, "--failed", failed)
    ended = run_taskd(daemon.tcp, "map", *options, "nap", rows)
    assert ended.returncode == 1, ended.stderr
    assert "2 done, 1 failed" in ended.stderr
    assert "timed out" in failed.read_text()


@pytest_twisted.ensureDeferred
async def test_a_client_sends_deadline_and_priority_as_options(one: Daemon, make_client: Any) -> None:
    from taskd.model import Options

    client = make_client(one.tcp)
    options = Options(deadline=60, priority=0, timeout=60, on_disconnect="cancel")
    assert await client.request("add", [1, 2], options=options) == 3


# --- priorities --------------------------------------------------------------


def test_urgent_tasks_run_first_and_tasks_of_equal_priority_in_order(
    start: Start, gate: Gate, tmp_path: Path
) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    notes = tmp_path / "notes"
    client = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    # Eight, so that no tenth start is among them.
    for text, priority in [
        ("5a", None), ("9", 9), ("0a", 0), ("5b", 5), ("1", 1), ("0b", 0), ("6", 6), ("5c", None),
    ]:  # fmt: skip
        client.send(
            rpc(text, "note", str(notes), text, options=None if priority is None else {"priority": priority})
        )
    daemon.wait_for_status(lambda status: status["waiting"] == 8)
    gate.release()
    replies = [client.receive()["id"] for _ in range(9)]
    assert replies == ["held", "0a", "0b", "1", "5a", "5b", "5c", "6", "9"]
    assert lines_of(notes) == replies[1:]


def test_a_bare_request_has_a_priority_too(start: Start, gate: Gate, tmp_path: Path) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    notes = tmp_path / "notes"
    client = daemon.connect().send(gate.call())
    gate.wait_until_entered()
    client.send(bare("note", str(notes), "usual"))
    client.send(bare("note", str(notes), "first", options={"priority": 0}))
    daemon.wait_for_status(lambda status: status["waiting"] == 2)
    gate.release()
    # The replies stay in the order of the requests.
    assert [client.receive() for _ in range(3)] == ["", "usual", "first"]
    assert lines_of(notes) == ["first", "usual"]


def test_an_old_task_of_the_lowest_priority_does_not_starve(start: Start, gate: Gate, tmp_path: Path) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    notes = tmp_path / "notes"
    client = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    old = [f"old {number}" for number in range(4)]
    client.send(*(rpc(text, "note", str(notes), text, options={"priority": 9}) for text in old))
    new = [f"new {number}" for number in range(96)]
    client.send(*(rpc(text, "note", str(notes), text, options={"priority": 0}) for text in new))
    daemon.wait_for_status(lambda status: status["waiting"] == 100)
    gate.release()
    for _ in range(101):
        assert "result" in client.receive()
    ran = lines_of(notes)
    assert [text for text in ran if text in old] == old
    assert [text for text in ran if text in new] == new
    places = [ran.index(text) for text in old]
    for nth, place in enumerate(places, 1):
        assert place < nth * TENTH
    # And no more than that is taken from the urgent ones.
    assert min(later - earlier for earlier, later in pairwise(places)) >= TENTH / 2


def test_an_endless_stream_of_urgent_tasks_does_not_starve_the_others(start: Start) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    urgent, patient = daemon.connect(), daemon.connect()
    in_flight = 20
    urgent.send(*(rpc(number, "nap", 0.002, options={"priority": 0}) for number in range(in_flight)))
    patient.send(rpc("old", "hello", options={"priority": 9}))
    done = 0
    while "hello" not in [each["name"] for each in daemon.status()["functions"]]:
        # Each that ends is followed by another: some urgent tasks always wait.
        urgent.receive()
        urgent.send(rpc(done, "nap", 0.002, options={"priority": 0}))
        done += 1
        assert done < 1000
    assert patient.receive()["result"] == "Hello, World!"


# --- options that make no sense ----------------------------------------------

WRONG = [
    ("timeout", 0), ("timeout", -1), ("timeout", "1"), ("timeout", True), ("timeout", []),
    ("deadline", 0), ("deadline", -0.5), ("deadline", "soon"), ("deadline", False),
    ("priority", -1), ("priority", 10), ("priority", 1.5), ("priority", "5"), ("priority", True),
    ("on_disconnect", "stay"), ("on_disconnect", True), ("progress", 1), ("retries", 3),
]  # fmt: skip


@pytest.mark.parametrize(("option", "value"), WRONG, ids=str)
def test_a_wrong_option_is_refused_and_named_and_nothing_is_run(
    one: Daemon, tmp_path: Path, option: str, value: Any
) -> None:
    notes = tmp_path / "notes"
    client = one.connect()
    for message in (bare, lambda *args, **more: rpc(1, *args, **more)):
        reply = client.ask(message("note", str(notes), "ran", options={option: value}))
        assert data_of(reply, INVALID_REQUEST)["member"] == f"options.{option}"
    assert client.ask(bare("hello")) == "Hello, World!"
    assert lines_of(notes) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("timeout", 60), ("timeout", 0.5e1), ("deadline", 60), ("deadline", 1e9), ("priority", 0),
        ("priority", 9), ("on_disconnect", "finish"), ("on_disconnect", "cancel"), ("progress", False),
    ],
    ids=str,
)  # fmt: skip
def test_a_right_option_changes_no_result(one: Daemon, option: str, value: Any) -> None:
    client = one.connect()
    assert client.ask(bare("hello", options={option: value})) == "Hello, World!"
    assert client.ask(rpc(1, "hello", options={option: value}))["result"] == "Hello, World!"


# --- a full queue ------------------------------------------------------------


def test_a_full_queue_refuses_requests_at_once_and_keeps_its_tasks(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1", "--max-queue", "3").wait_until_ready()
    client = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    client.send(*(rpc(number, "echo", number) for number in range(3)))
    daemon.wait_for_status(lambda status: status["waiting"] == 3)
    # Also a request that is more urgent than the waiting ones.
    for options in (None, {"priority": 0}, {"deadline": 60}):
        assert data_of(client.ask(rpc("more", "hello", options=options)), BUSY)["retry_after"] > 0
    assert daemon.status()["counts"]["refused"] == 3
    gate.release("unhurt")
    assert [client.receive()["result"] for _ in range(4)] == ["unhurt", 0, 1, 2]
    assert client.ask(bare("hello")) == "Hello, World!"


def test_a_cancelled_or_expired_task_makes_room_in_the_queue(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1", "--max-queue", "2").wait_until_ready()
    client = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    client.send(rpc("a", "hello"), rpc("b", "hello", options={"deadline": 0.5}))
    data_of(client.ask(rpc("refused", "hello")), BUSY)
    client.send(cancel("cancel", "a"))
    data_of(client.receive(), CANCELLED)
    assert client.receive()["id"] == "cancel"
    client.send(rpc("c", "hello"))
    expired(client.receive(), 0.5)
    client.send(rpc("d", "hello"))
    data_of(client.ask(rpc("refused", "hello")), BUSY)
    gate.release()
    assert [client.receive()["id"] for _ in range(3)] == ["held", "c", "d"]


def test_ten_thousand_waiting_tasks_are_each_run_once_and_in_order(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    held = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    clients = [daemon.connect() for _ in range(10)]
    for number, client in enumerate(clients):
        client.send(*(rpc(each, "echo", number * 1000 + each) for each in range(1000)))
    daemon.wait_for_status(lambda status: status["waiting"] == 10_000)
    # The queue is full, but another connection gets its share, which is an eleventh.
    other = daemon.connect().send(*(rpc(each, "hello") for each in range(10_000 // 11 + 1)))
    data_of(other.receive(), BUSY)
    assert other.ask(bare("taskd.ping")) == "pong"  # though nothing has been run
    gate.release()
    assert held.receive()["id"] == "held"
    for number, client in enumerate(clients):
        replies = [client.receive() for _ in range(1000)]
        assert [reply["id"] for reply in replies] == list(range(1000))
        assert [reply["result"] for reply in replies] == [number * 1000 + each for each in range(1000)]
    assert [other.receive()["id"] for _ in range(10_000 // 11)] == list(range(10_000 // 11))


def test_ten_thousand_deadlines_at_once_delay_no_other_task(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1", "--max-outstanding", "20000").wait_until_ready()
    held = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    client, other = daemon.connect(), daemon.connect()
    client.send(*(rpc(number, "hello", options={"deadline": 1.5}) for number in range(10_000)))
    ids = set()
    for _ in range(10_000):
        reply = client.receive()
        expired(reply, 1.5)
        ids.add(reply["id"])
    assert ids == set(range(10_000))
    assert other.ask(bare("taskd.ping")) == "pong"
    gate.release("unhurt")
    assert held.receive()["result"] == "unhurt"
    status = daemon.status()
    assert (status["waiting"], status["counts"]["expired"]) == (0, 10_000)


# --- a caller that sends and never reads -------------------------------------


def test_a_caller_that_never_reads_is_throttled_even_if_its_tasks_end_without_a_worker(
    start: Start, gate: Gate
) -> None:
    """Replies made without a worker, for deadlines and cancels, are bounded as well."""
    daemon = start("--workers", "1", "--max-unsent", "100000", "--max-queue", "500").wait_until_ready()
    held = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    before = resident_bytes(daemon.process.pid)
    deaf, other = daemon.connect(), daemon.connect()
    with pytest.raises(TimeoutError):
        send_and_never_read(deaf)
    assert resident_bytes(daemon.process.pid) - before < 30 * MIB
    assert other.ask(bare("taskd.ping")) == "pong"
    gate.release("unhurt")
    assert held.receive()["result"] == "unhurt"
    assert other.ask(bare("hello")) == "Hello, World!"
    deaf.close()
    assert other.ask(bare("hello")) == "Hello, World!"


def send_and_never_read(deaf: Connection) -> None:
    """Send requests that need no worker; raise `TimeoutError` when the server reads no more of them."""
    deaf.socket.settimeout(1.0)
    padding = "x" * 1000
    for number in range(MANY):
        name = f"{number} {padding}"
        deaf.send(
            rpc(name, "hello", options={"deadline": 0.01}),
            rpc(f"c{name}", "taskd.cancel", id=name),
        )


def test_a_task_that_is_throttled_for_its_caller_can_be_cancelled_and_expires(
    start: Start, make_gate: MakeGate
) -> None:
    """Its caller does not read, so it is not started; but it still counts as waiting."""
    daemon = start("--workers", "2", "--max-unsent", "1000").wait_until_ready()
    first, second, third = make_gate(), make_gate(), make_gate()
    deaf, other = daemon.connect(), daemon.connect()
    other.send(first.rpc("first"))
    first.wait_until_entered()
    other.send(second.rpc("second"))
    second.wait_until_entered()
    # More than the kernel takes, and a task that may still get the worker afterwards.
    deaf.send(
        rpc("big", "big", 9 * MIB),
        third.rpc("third"),
        rpc("a", "hello", options={"deadline": 1.0}),
        rpc("b", "hello"),
        rpc("c", "hello"),
    )
    daemon.wait_for_status(lambda status: status["waiting"] == 5)
    second.release()
    assert other.receive()["id"] == "second"
    daemon.wait_for_status(lambda status: "big" in [each["name"] for each in status["functions"]])
    assert other.ask(rpc("cancel", "taskd.cancel", task=7))["result"] == {"was": "waiting"}
    daemon.wait_for_status(lambda status: status["counts"]["expired"] == 1)
    assert deaf.receive()["id"] == "big"
    replies = {reply["id"]: reply for reply in (deaf.receive(), deaf.receive())}
    expired(replies["a"], 1.0)
    assert data_of(replies["c"], CANCELLED) == {"was": "waiting"}
    third.release()
    assert [deaf.receive()["id"] for _ in range(2)] == ["third", "b"]
    first.release()
    assert other.receive()["id"] == "first"


def test_a_stop_answers_waiting_tasks_of_any_deadline_and_priority(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    client = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    client.send(rpc(1, "hello", options={"deadline": 60}), rpc(2, "hello", options={"priority": 9}))
    client.send(rpc(3, "hello", options={"deadline": 0.2}))
    daemon.wait_for_status(lambda status: status["waiting"] == 3)
    daemon.process.send_signal(signal.SIGTERM)
    expired(client.receive(), 0.2)
    gate.release("unhurt")
    assert {reply["id"]: reply["result"] for reply in client.receive_all()} == {
        "held": "unhurt",
        1: "Hello, World!",
        2: "Hello, World!",
    }
    daemon.wait_for_end()
