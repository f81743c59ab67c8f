"""Cancelling: a waiting task is never started, a running one is stopped, and the next one is never hit."""

import os
import random
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError

from tests.live.peers import entered, in_thread, within
from tests.live.support import (
    APPS,
    BIN,
    TIMEOUT,
    Connection,
    Daemon,
    Drop,
    Gate,
    bare,
    cancel,
    cancel_task,
    data_of,
    kept_daemon,
    lines_of,
    rpc,
    run_taskd,
    wait_for_exit,
)

Start = Callable[..., Daemon]
MakeGate = Callable[[], Gate]
MakeDrop = Callable[[], Drop]
Apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "misbehaving.py"))

GRACE = 0.3
"""Grace, in seconds, of the tasks in apps/misbehaving.py that only a kill ends."""

TIMED_OUT, CANCELLED, LOST, NOT_ALLOWED = -32001, -32002, -32003, -32008
NOT_FOUND, INVALID_PARAMS = -32601, -32602

WAITED = {"was": "waiting"}
DONE = {"was": "done"}
IF_GONE = {"on_disconnect": "cancel"}
TOLD = "TaskCancelled TaskStopped BaseException"


def stopped(answer: Any, *, killed: bool = False) -> float:
    """Return the seconds that the task took to end; the answer must say that it was running."""
    assert answer.keys() == {"was", "stopped_after", "killed"}, answer
    assert (answer["was"], answer["killed"]) == ("running", killed)
    assert answer["stopped_after"] >= 0
    return answer["stopped_after"]


def result_of(reply: Any) -> Any:
    assert "result" in reply, reply
    return reply["result"]


def task_of(daemon: Daemon, function: str) -> int:
    """Return the number of the one running task of this function."""

    def runs(status: dict[str, Any]) -> bool:
        return function in [worker["function"] for worker in status["workers"]]

    workers = daemon.wait_for_status(runs)["workers"]
    (task,) = [worker["task"] for worker in workers if worker["function"] == function]
    return task


def cancelled(daemon: Daemon) -> int:
    """Return the number of tasks that have been cancelled."""
    return daemon.status()["counts"]["cancelled"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server with one worker: damage done to it by a cancel would show in the next task."""
    with kept_daemon(*Apps, "--workers", "1", directory=tmp_path_factory.mktemp("one")) as daemon:
        yield daemon


@pytest.fixture
def client(one: Daemon) -> Iterator[Connection]:
    """A connection to it; at the end its worker must serve the next."""
    client = one.connect()
    yield client
    client.close()
    one.must_serve()


# --- by its id ---------------------------------------------------------------


def test_a_waiting_request_is_answered_and_never_started(
    client: Connection, gate: Gate, tmp_path: Path
) -> None:
    client.send(gate.rpc("held"), rpc("a", "note", str(tmp_path / "notes"), "ran"))
    client.send(cancel("c", "a"))
    first, second = client.receive(), client.receive()
    assert first["id"] == "a"
    assert data_of(first, CANCELLED) == WAITED
    assert second == {"jsonrpc": "2.0", "id": "c", "result": WAITED}
    gate.release("unhurt")
    assert result_of(client.receive()) == "unhurt"
    assert client.ask(bare("hello")) == "Hello, World!"
    assert lines_of(tmp_path / "notes") == []


def test_a_running_request_is_interrupted_and_answered_before_the_one_that_cancels_it(
    client: Connection, gate: Gate, drop: Drop
) -> None:
    before = client.ask(bare("pid"))
    client.send(rpc("a", "stand_and_tell", gate.path, drop.path))
    gate.wait_until_entered()
    client.send(cancel("c", "a"))
    assert drop.receive() == TOLD
    first, second = client.receive(), client.receive()
    assert (first["id"], second["id"]) == ("a", "c")
    assert stopped(result_of(second)) < TIMEOUT
    assert data_of(first, CANCELLED) == result_of(second)
    assert client.ask(bare("pid")) == before


def test_the_worker_of_a_running_request_that_does_not_end_is_killed(client: Connection, gate: Gate) -> None:
    before = client.ask(bare("pid"))
    client.send(rpc("a", "stand_deaf", gate.path))
    gate.wait_until_entered()
    client.send(cancel("c", "a"))
    assert stopped(data_of(client.receive(), CANCELLED), killed=True) >= GRACE - 0.005
    assert stopped(result_of(client.receive()), killed=True) >= GRACE - 0.005
    assert client.ask(bare("pid")) != before
    wait_for_exit(before)


def test_an_async_function_gets_asyncios_cancelled_error(client: Connection, make_drop: MakeDrop) -> None:
    standing, told = make_drop(), make_drop()
    client.send(rpc("a", "stand_async", standing.path, told.path))
    assert standing.receive() == "standing"
    client.send(cancel("c", "a"))
    assert told.receive().startswith("CancelledError")
    stopped(data_of(client.receive(), CANCELLED))
    stopped(result_of(client.receive()))
    assert client.ask(bare("async_nap", 0.001)) == 0.001


def test_the_return_value_of_a_cancelled_function_is_discarded(client: Connection, gate: Gate) -> None:
    client.send(rpc("a", "stand_and_save", gate.path))
    gate.wait_until_entered()
    client.send(cancel("c", "a"))
    stopped(data_of(client.receive(), CANCELLED))
    stopped(result_of(client.receive()))


def test_cancelling_an_ended_or_unknown_request_answers_done(client: Connection) -> None:
    assert result_of(client.ask(rpc("a", "hello"))) == "Hello, World!"
    for which in ("a", "nobody", 17, 1.5):
        assert result_of(client.ask(cancel("c", which))) == DONE


def test_an_id_names_only_the_request_sent_with_exactly_that_id(client: Connection, gate: Gate) -> None:
    client.send(gate.rpc("held"), rpc(1, "hello"), rpc("1", "hello"), rpc(-7.25, "hello"))
    assert result_of(client.ask(cancel("c", "-7.25"))) == DONE
    client.send(cancel("c", "1"))
    first, second = client.receive(), client.receive()
    assert first["id"] == "1"
    assert data_of(first, CANCELLED) == result_of(second) == WAITED
    client.send(cancel("c", -7.25))
    first, second = client.receive(), client.receive()
    assert first["id"] == -7.25
    assert data_of(first, CANCELLED) == result_of(second) == WAITED
    gate.release()
    assert [client.receive()["id"] for _ in range(2)] == ["held", 1]


def test_a_reused_id_names_the_request_in_flight(client: Connection, gate: Gate) -> None:
    assert result_of(client.ask(rpc("a", "hello"))) == "Hello, World!"
    client.send(gate.rpc("a"))
    gate.wait_until_entered()
    client.send(cancel("c", "a"))
    stopped(data_of(client.receive(), CANCELLED))
    stopped(result_of(client.receive()))
    assert result_of(client.ask(rpc("a", "hello"))) == "Hello, World!"


def test_a_request_cannot_be_cancelled_by_its_id_from_another_connection(
    one: Daemon, client: Connection, gate: Gate
) -> None:
    client.send(gate.rpc("a"))
    gate.wait_until_entered()
    assert result_of(one.connect().ask(cancel("c", "a"))) == DONE
    gate.release("unhurt")
    assert result_of(client.receive()) == "unhurt"


def test_a_request_that_is_cancelled_twice_ends_once(client: Connection, gate: Gate) -> None:
    client.send(rpc("a", "stand_deaf", gate.path))
    gate.wait_until_entered()
    client.send(cancel("c", "a"), cancel("d", "a"))
    first, *answers = [client.receive() for _ in range(3)]
    assert first["id"] == "a"
    stopped(data_of(first, CANCELLED), killed=True)
    assert {answer["id"] for answer in answers} == {"c", "d"}
    for answer in answers:
        stopped(result_of(answer), killed=True)


def test_a_request_of_a_batch_can_be_cancelled_and_the_batch_is_answered(
    client: Connection, gate: Gate
) -> None:
    client.send([gate.rpc("a"), rpc("b", "hello"), rpc("c", "hello")])
    gate.wait_until_entered()
    client.send(cancel("d", "b"))
    # Its reply is part of the batch's reply, and waits for that.
    assert result_of(client.receive()) == WAITED
    gate.release("unhurt")
    batch = {reply["id"]: reply for reply in client.receive()}
    assert batch.keys() == {"a", "b", "c"}
    assert result_of(batch["a"]) == "unhurt"
    assert data_of(batch["b"], CANCELLED) == WAITED
    assert result_of(batch["c"]) == "Hello, World!"


def test_a_thousand_requests_cancelled_at_once_are_each_answered_once(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1", "--max-outstanding", "5000").wait_until_ready()
    client = daemon.connect().send(gate.rpc("held"))
    count = 1000
    client.send(*(rpc(number, "hello") for number in range(count)))
    client.send([cancel(f"c{number}", number) for number in range(count)])
    replies: dict[Any, Any] = {}
    while len(replies) < 2 * count:
        received = client.receive()
        for reply in received if isinstance(received, list) else [received]:
            assert reply["id"] not in replies
            replies[reply["id"]] = reply
    for number in range(count):
        assert data_of(replies[number], CANCELLED) == result_of(replies[f"c{number}"]) == WAITED
    gate.release()
    assert client.receive()["id"] == "held"
    status = daemon.status()
    assert (status["waiting"], status["running"]) == (0, 0)
    assert status["counts"]["cancelled"] == count


# --- by its number -----------------------------------------------------------


def test_any_task_can_be_cancelled_by_its_number(
    one: Daemon, client: Connection, gate: Gate, drop: Drop
) -> None:
    client.send(bare("stand_and_tell", gate.path, drop.path), bare("hello"))
    gate.wait_until_entered()
    other = one.connect()
    stopped(result_of(other.ask(cancel_task("c", task_of(one, "stand_and_tell")))))
    assert drop.receive() == TOLD
    stopped(data_of(client.receive(), CANCELLED))
    assert client.receive() == "Hello, World!"


def test_a_waiting_bare_request_keeps_its_place_among_the_replies(
    one: Daemon, client: Connection, gate: Gate, tmp_path: Path
) -> None:
    client.send(gate.call(), bare("note", str(tmp_path / "notes"), "ran"), bare("hello"))
    gate.wait_until_entered()
    first = task_of(one, "wait_for")
    assert one.connect().ask(bare("taskd.cancel", task=first + 1)) == WAITED
    gate.release("unhurt")
    assert client.receive() == "unhurt"
    assert data_of(client.receive(), CANCELLED) == WAITED
    assert client.receive() == "Hello, World!"
    assert lines_of(tmp_path / "notes") == []


def test_a_notification_is_cancelled_without_a_reply(one: Daemon, client: Connection, gate: Gate) -> None:
    client.send(rpc(None, "wait_for", gate.path))
    gate.wait_until_entered()
    task = task_of(one, "wait_for")
    stopped(result_of(client.ask(cancel_task("c", task))))
    assert client.ask(rpc("next", "hello"))["id"] == "next"


def test_cancelling_an_unknown_or_ended_task_number_answers_done(
    one: Daemon, client: Connection, gate: Gate
) -> None:
    client.send(gate.rpc("a"))
    gate.wait_until_entered()
    task = task_of(one, "wait_for")
    gate.release()
    assert client.receive()["id"] == "a"
    for number in (task, task + 1_000_000):
        assert result_of(client.ask(cancel_task("c", number))) == DONE


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"id": 1, "task": 1},
        {"task": "x"},
        {"task": 1.5},
        {"task": None},
        {"id": 1, "why": "x"},
        [],
        [1, 2],
    ],
    ids=str,
)
def test_exactly_one_of_id_and_task_is_needed(client: Connection, params: Any) -> None:
    reply = client.ask({"jsonrpc": "2.0", "id": "c", "method": "taskd.cancel", "params": params})
    data_of(reply, INVALID_PARAMS)


# --- by leaving --------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "end of sending"])
def test_a_request_with_on_disconnect_cancel_is_cancelled_when_its_connection_ends(
    one: Daemon, gate: Gate, drop: Drop, tmp_path: Path, how: str
) -> None:
    before = cancelled(one)
    leaving = one.connect()
    leaving.send(rpc("a", "stand_and_tell", gate.path, drop.path, options=IF_GONE))
    leaving.send(rpc("b", "note", str(tmp_path / "notes"), "ran", options=IF_GONE))
    gate.wait_until_entered()
    if how == "end of sending":
        replies = {reply["id"]: reply for reply in leaving.end_sending().receive_all()}
        stopped(data_of(replies["a"], CANCELLED))
        assert data_of(replies["b"], CANCELLED) == WAITED
    elif how == "reset":
        leaving.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaving.close()
    else:
        leaving.close()
    assert drop.receive() == TOLD
    one.wait_for_status(lambda status: status["counts"]["cancelled"] == before + 2)
    assert one.connect().ask(bare("hello")) == "Hello, World!"
    assert lines_of(tmp_path / "notes") == []


@pytest.mark.parametrize("options", [None, {"on_disconnect": "finish"}], ids=str)
def test_a_request_without_on_disconnect_is_finished_when_its_connection_ends(
    one: Daemon, gate: Gate, tmp_path: Path, options: Any
) -> None:
    leaving = one.connect().send(gate.rpc("held") | ({"options": options} if options else {}))
    leaving.send(rpc("b", "note", str(tmp_path / "notes"), "ran", options=options))
    gate.wait_until_entered()
    leaving.close()
    # A round trip after the end of that connection.
    assert one.connect().ask(bare("taskd.ping")) == "pong"
    gate.release()
    assert one.connect().ask(bare("hello")) == "Hello, World!"
    assert lines_of(tmp_path / "notes") == ["ran"]


def test_a_half_close_cancels_only_requests_with_on_disconnect_cancel(
    one: Daemon, make_gate: MakeGate
) -> None:
    finished, dropped = make_gate(), make_gate()
    leaving = one.connect().send(
        finished.rpc("a"), dropped.rpc("b") | {"options": IF_GONE}, rpc("c", "hello")
    )
    finished.wait_until_entered()
    leaving.end_sending()
    first = leaving.receive()
    assert first["id"] == "b"
    assert data_of(first, CANCELLED) == WAITED
    finished.release("unhurt")
    assert [result_of(reply) for reply in leaving.receive_all()] == ["unhurt", "Hello, World!"]


def test_a_disconnect_cancels_no_request_that_has_been_answered(one: Daemon, gate: Gate) -> None:
    leaving = one.connect()
    for _ in range(20):
        assert result_of(leaving.ask(rpc(1, "hello", options=IF_GONE))) == "Hello, World!"
    before = cancelled(one)
    held = one.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    leaving.close()
    gate.release("unhurt")
    assert result_of(held.receive()) == "unhurt"
    assert cancelled(one) == before


@pytest.mark.parametrize("link", ["per-message", "pooled"])
@pytest_twisted.ensureDeferred
async def test_a_closed_websocket_cancels_its_requests_with_on_disconnect_cancel(
    start: Start, websocket: Any, make_gate: MakeGate, drop: Drop, link: str
) -> None:
    daemon = start(*Apps, "--workers", "2", "--link", link).wait_until_ready()
    page = await websocket(daemon.ws)
    told, kept = make_gate(), make_gate()
    page.send(rpc(1, "stand_and_tell", told.path, drop.path, options=IF_GONE), kept.rpc(2))
    await entered(told)
    await entered(kept)
    page.go()
    assert await in_thread(drop.receive) == TOLD
    kept.release()
    await in_thread(daemon.wait_for_workers, 2)
    status = await in_thread(daemon.status)
    assert status["counts"]["cancelled"] == 1
    assert status["counts"]["done"] == 1


# --- over a gateway ----------------------------------------------------------


@pytest.mark.parametrize("link", ["per-message", "pooled", "local"])
@pytest_twisted.ensureDeferred
async def test_a_websocket_cancels_its_own_requests_by_id_and_no_task_by_number(
    start: Start, websocket: Any, make_gate: MakeGate, drop: Drop, link: str
) -> None:
    daemon = start(*Apps, "--workers", "2", "--link", link).wait_until_ready()
    page, other = await websocket(daemon.ws), await websocket(daemon.ws)
    mine, theirs = make_gate(), make_gate()
    page.send(rpc("a", "stand_and_tell", mine.path, drop.path))
    await entered(mine)
    other.send(theirs.rpc("a"))
    await entered(theirs)
    page.send(rpc("waits", "hello"), cancel("c", "waits"))
    first, second = await page.receive_json(), await page.receive_json()
    assert (first["id"], second["id"]) == ("waits", "c")
    assert data_of(first, CANCELLED) == result_of(second) == WAITED
    assert result_of(await other.ask(cancel("c", "waits"))) == DONE
    page.send(cancel("c", "a"))
    assert await in_thread(drop.receive) == TOLD
    stopped(data_of(await page.receive_json(), CANCELLED))
    stopped(result_of(await page.receive_json()))
    task = await in_thread(task_of, daemon, "wait_for")
    for refused in (cancel_task("c", task), cancel_task("c", 10**9), rpc("c", "taskd.cancel", None, task)):
        assert (await page.ask(refused))["error"]["code"] == NOT_ALLOWED
    reply = await page.send(bare("taskd.cancel", task=task)).receive()
    assert reply.startswith("task failed: taskd.cancel: a task is named by its number only by operators")
    page.send(cancel_task(None, task))
    assert result_of(await page.ask(cancel("c", "nobody"))) == DONE
    told = await in_thread(run_taskd, "", "cancel", task, "--via", daemon.ws)
    assert told.returncode == 1
    assert f"taskd cancel {task} --server" in told.stderr
    theirs.release("goes on")
    assert result_of(await other.receive_json()) == "goes on"


# --- by the client -----------------------------------------------------------


@pytest.fixture(params=["per-call", "pooled", "websocket"])
def caller(request: Any, one: Daemon, make_client: Any) -> Any:
    """A `TaskClient` of the server with one worker, over each kind of link."""
    return make_client(one.ws) if request.param == "websocket" else make_client(one.tcp, link=request.param)


@pytest_twisted.ensureDeferred
async def test_cancelling_the_deferred_cancels_the_task(
    one: Daemon, caller: Any, make_gate: MakeGate, drop: Drop, tmp_path: Path
) -> None:
    before = await in_thread(cancelled, one)
    running = make_gate()
    held = caller.call("stand_and_tell", path=running.path, target=drop.path)
    await entered(running)
    waiting = caller.call("note", file=str(tmp_path / "notes"), text="ran")
    await in_thread(one.wait_for_status, lambda status: status["waiting"] == 1)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await within(waiting)
    await in_thread(one.wait_for_status, lambda status: status["waiting"] == 0)
    held.cancel()
    with pytest.raises(CancelledError):
        await within(held)
    assert await in_thread(drop.receive) == TOLD
    assert await within(caller.call("hello")) == "Hello, World!"
    assert lines_of(tmp_path / "notes") == []
    assert await in_thread(cancelled, one) == before + 2


@pytest_twisted.ensureDeferred
async def test_a_call_that_times_out_cancels_its_task_too(
    one: Daemon, caller: Any, gate: Gate, drop: Drop
) -> None:
    from taskd.errors import WaitTimeout

    call = caller.with_options(wait=2.0).call("stand_and_tell", path=gate.path, target=drop.path)
    await entered(gate)
    with pytest.raises(WaitTimeout):
        await within(call)
    assert await in_thread(drop.receive) == TOLD
    assert await within(caller.call("hello")) == "Hello, World!"


@pytest_twisted.ensureDeferred
async def test_cancelling_one_call_leaves_the_others_of_the_client(
    start: Start, make_client: Any, make_gate: MakeGate
) -> None:
    daemon = start(*Apps, "--workers", "2").wait_until_ready()
    client = make_client(daemon.tcp, link="pooled")
    gates = [make_gate(), make_gate()]
    calls = [client.call("wait_for", path=gate.path) for gate in gates]
    for gate in gates:
        await entered(gate)
    calls[0].cancel()
    with pytest.raises(CancelledError):
        await within(calls[0])
    await in_thread(daemon.wait_for_status, lambda status: status["running"] == 1)
    gates[1].release("unhurt")
    assert await within(calls[1]) == "unhurt"


@pytest_twisted.ensureDeferred
async def test_a_call_cancelled_from_another_connection_fails_with_the_details(
    one: Daemon, caller: Any, gate: Gate
) -> None:
    from taskd.errors import Cancelled

    call = caller.call("wait_for", path=gate.path)
    await entered(gate)
    task = await in_thread(task_of, one, "wait_for")
    other = one.connect()
    await in_thread(other.ask, cancel_task("c", task))
    with pytest.raises(Cancelled) as caught:
        await within(call)
    stopped(caught.value.data)
    other.close()


# --- by the command ----------------------------------------------------------


def test_the_command_prints_what_happened_to_each_task(start: Start, make_gate: MakeGate) -> None:
    daemon = start(*Apps, "--workers", "2").wait_until_ready()
    client = daemon.connect()
    polite, deaf = make_gate(), make_gate()
    client.send(polite.rpc(1))
    polite.wait_until_entered()
    client.send(rpc(2, "stand_deaf", deaf.path))
    deaf.wait_until_entered()
    client.send(rpc(3, "hello"))
    daemon.wait_for_status(lambda status: status["waiting"] == 1)
    ended = run_taskd(daemon.tcp, "cancel", 3, 1, 2)
    assert ended.returncode == 0, ended.stderr
    assert sorted(line.split(":")[0] for line in ended.stdout.splitlines()) == ["#1", "#2", "#3"]
    assert re.search(r"^#1: was running, stopped after \d+\.\d+ s$", ended.stdout, re.M)
    assert re.search(r"^#2: was running, killed after \d+\.\d+ s$", ended.stdout, re.M)
    assert re.search(r"^#3: was waiting$", ended.stdout, re.M)
    replies = {reply["id"]: reply for reply in [client.receive() for _ in range(3)]}
    stopped(data_of(replies[1], CANCELLED))
    stopped(data_of(replies[2], CANCELLED), killed=True)
    assert data_of(replies[3], CANCELLED) == WAITED


def test_the_commands_exit_status_shows_whether_a_task_was_not_in_flight(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    client = daemon.connect().send(gate.rpc("a"))
    gate.wait_until_entered()
    ended = run_taskd(daemon.tcp, "cancel", 1, 4711)
    assert ended.returncode == 1
    assert "#4711: is not in flight" in ended.stdout.splitlines()
    assert re.search(r"^#1: was running, stopped after", ended.stdout, re.M)
    assert "Traceback" not in ended.stderr
    stopped(data_of(client.receive(), CANCELLED))


def test_ctrl_c_in_a_call_cancels_its_task(one: Daemon, gate: Gate, drop: Drop) -> None:
    command = [BIN / "taskd", "call", "--server", one.tcp, "stand_and_tell"]
    calling = subprocess.Popen(
        [*command, f"path={gate.path}", f"target={drop.path}"], stderr=subprocess.PIPE, text=True
    )
    gate.wait_until_entered()
    calling.send_signal(signal.SIGINT)
    assert drop.receive() == TOLD
    _, text = calling.communicate(timeout=TIMEOUT)
    assert calling.returncode != 0
    assert "Traceback" not in text


# --- never the next one ------------------------------------------------------


def check_race(client: Connection, chance: random.Random, rounds: int, function: str, *args: Any) -> int:
    """Cancel each request at about its end, with another one queued behind it; return how many were stopped
    as they ran.

    Each must be answered once, consistently with the answer to its cancel, and the one behind it must be
    unaffected.
    """
    running = 0
    replies: dict[Any, Any] = {}

    def receive_until(count: int) -> None:
        while len(replies) < count:
            reply = client.receive()
            assert reply["id"] not in replies
            replies[reply["id"]] = reply

    for number in range(rounds):
        replies.clear()
        client.send(rpc("hit", function, *args), rpc("next", "echo", number))
        # A round trip takes about as long as the task: the cancel comes at some moment of its run.
        pings = chance.randrange(12)
        for ping in range(pings):
            client.send(rpc(ping, "taskd.ping"))
            while ping not in replies:
                receive_until(len(replies) + 1)
        client.send(cancel("cancel", "hit"), rpc("last", "echo", number))
        receive_until(pings + 4)
        assert result_of(replies["next"]) == result_of(replies["last"]) == number
        answer = result_of(replies["cancel"])
        if "result" in replies["hit"]:
            assert answer == DONE
        else:
            assert data_of(replies["hit"], CANCELLED) == answer
            assert answer == WAITED or stopped(answer) < TIMEOUT
            running += answer != WAITED
    return running


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cancel_that_races_with_the_end_of_a_short_task_never_hits_the_next_task(
    start: Start, workers: int
) -> None:
    daemon = start(*Apps, "--workers", str(workers)).wait_until_ready()
    daemon.wait_for_workers(workers)
    client = daemon.connect()
    running = check_race(client, random.Random(11), 300, "nap", 0.0007)
    running += check_race(client, random.Random(12), 300, "echo", "short")
    running += check_race(client, random.Random(13), 100, "async_nap", 0.0007)
    assert running > 0
    counts = daemon.status()["counts"]
    assert (counts["lost"], counts["failed"], counts["workers_started"]) == (0, 0, workers)


def test_cancels_among_many_short_tasks_at_once_hit_only_the_tasks_they_name(
    start: Start, tmp_path: Path
) -> None:
    """Short tasks are sent to a worker in batches: one of a batch is cancelled before it begins."""
    daemon = start(*Apps, "--workers", "2", "--max-outstanding", "10000").wait_until_ready()
    client = daemon.connect()
    notes = tmp_path / "notes"
    count = 1500
    for number in range(count):
        client.send(rpc(number, "note", str(notes), str(number)))
        if number % 3 == 0:
            client.send(cancel(f"c{number}", number))
    replies: dict[Any, Any] = {}
    while len(replies) < count + count // 3:
        reply = client.receive()
        assert reply["id"] not in replies
        replies[reply["id"]] = reply
    written = lines_of(notes)
    for number in range(count):
        reply, ran = replies[number], written.count(str(number))
        answer = result_of(replies[f"c{number}"]) if number % 3 == 0 else DONE
        if "result" in reply:
            assert (ran, answer) == (1, DONE)
        else:
            assert data_of(reply, CANCELLED) == answer
            assert ran == 0 if answer == WAITED else ran <= 1


def test_a_worker_that_is_killed_while_its_task_is_cancelled_is_answered_once(
    start: Start, make_gate: MakeGate
) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    client = daemon.connect()
    for _ in range(10):
        (worker,) = daemon.wait_for_workers(1)
        gate = make_gate()
        client.send(gate.rpc("a"))
        gate.wait_until_entered()
        client.send(cancel("c", "a"))
        os.kill(worker["pid"], signal.SIGKILL)
        first, second = client.receive(), client.receive()
        assert (first["id"], second["id"]) == ("a", "c")
        assert first["error"]["code"] in (CANCELLED, LOST)
        assert result_of(second)["was"] in ("running", "done")
    assert client.ask(bare("hello")) == "Hello, World!"


def test_a_task_cancelled_while_it_is_stopped_at_its_limit_is_answered_once(
    client: Connection, gate: Gate
) -> None:
    client.send(rpc("a", "stand_deaf", gate.path, options={"timeout": 0.1}))
    gate.wait_until_entered()
    client.send(cancel("c", "a"))
    first, second = client.receive(), client.receive()
    assert (first["id"], second["id"]) == ("a", "c")
    assert first["error"]["code"] in (TIMED_OUT, CANCELLED)
    assert result_of(second)["was"] == "running"


def test_a_task_can_be_cancelled_while_the_server_stops(start: Start, make_gate: MakeGate) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    client = daemon.connect()
    gate = make_gate()
    client.send(gate.rpc("a"), rpc("b", "hello"))
    gate.wait_until_entered()
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for_status(lambda status: status["stopping"], client)
    client.send(cancel("c", "a"))
    first, *rest = client.receive_all()
    assert first["id"] == "a"
    stopped(data_of(first, CANCELLED))
    replies = {reply["id"]: reply for reply in rest}
    stopped(result_of(replies["c"]))
    assert result_of(replies["b"]) == "Hello, World!"
    daemon.wait_for_end()
