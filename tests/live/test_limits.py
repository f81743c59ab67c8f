"""Time limits: whatever a task does, it ends, its caller is answered, and no other task is affected."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted

from tests.live.support import (
    APPS,
    Connection,
    Daemon,
    Drop,
    Gate,
    bare,
    data_of,
    kept_daemon,
    rpc,
    run_taskd,
    title_of,
    wait_for_exit,
)

Start = Callable[..., Daemon]
MakeGate = Callable[[], Gate]
MakeDrop = Callable[[], Drop]
Apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "misbehaving.py"))

LIMIT = 0.3
"""The time limit of the tasks, in seconds: enough for each to reach the code that does not end."""

GRACE = 0.3
"""Grace, in seconds, of the tasks in apps/misbehaving.py that only a kill ends."""

SLOW = 5.0
"""Seconds: a delay that even a busy machine does not reach."""

ROUNDING = 0.005
"""Seconds: times are reported in thousandths, and clocks are read twice."""

TIMED_OUT, LOST, FAILED = -32001, -32003, -32000


def limited(function: str, *args: Any, timeout: float = LIMIT, **named: Any) -> dict[str, Any]:
    """Make a request with a time limit."""
    return rpc("limited", function, *args, options={"timeout": timeout}, **named)


def timed_out(reply: Any, seconds: float = LIMIT) -> dict[str, Any]:
    """Return the data of a reply, which must be the error about a time limit of so many seconds."""
    data = data_of(reply, TIMED_OUT)
    assert data.keys() == {"limit", "seconds", "ran", "killed"}
    assert (data["limit"], data["seconds"]) == ("timeout", seconds)
    assert data["ran"] >= seconds - ROUNDING
    return data


def counts(daemon: Daemon) -> dict[str, int]:
    return daemon.status()["counts"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server with one worker: damage done to it by a task would show in the next one."""
    with kept_daemon(*Apps, "--workers", "1", directory=tmp_path_factory.mktemp("one")) as daemon:
        yield daemon


@pytest.fixture
def client(one: Daemon) -> Iterator[Connection]:
    """A connection to it; at the end its worker must serve the next."""
    client = one.connect()
    yield client
    client.close()
    one.must_serve()


# --- whatever the function does ----------------------------------------------

ENDS_WHEN_TOLD = [
    ("sleep_on", ()),
    ("spin", ()),
    ("swallow_exceptions", ()),
    ("sleep_in_c", (False,)),
    ("sleep_in_c", (True,)),
    ("run_a_child", ()),
    ("lock_twice", ()),
    ("wait_for_a_thread", ()),
    ("sleep_async", ()),
]
"""Functions that the exception ends."""

HAS_TO_BE_KILLED = [
    ("swallow_everything", ()),
    ("ignore_sigterm", ()),
    ("ignore_sigurg", ()),
    ("block_every_signal", ()),
    ("stand_in_c", (False,)),
    ("stand_in_c", (True,)),
    ("count_in_c", ()),
    ("wait_for_a_child", (False,)),
    ("wait_for_a_fork", ()),
    ("swallow_async", ()),
    ("clean_up_for_ever", ()),
]
"""Functions that the exception does not end."""


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(map(str, value)) or "()"


@pytest.mark.parametrize(("function", "args"), ENDS_WHEN_TOLD, ids=name_of)
def test_a_task_that_ends_when_it_is_interrupted_leaves_its_worker_in_use(
    client: Connection, function: str, args: tuple[Any, ...]
) -> None:
    before = client.ask(bare("pid"))
    began = time.monotonic()
    data = timed_out(client.ask(limited(function, *args)))
    assert not data["killed"]
    assert LIMIT <= time.monotonic() - began < LIMIT + SLOW
    assert client.ask(bare("pid")) == before


@pytest.mark.parametrize(("function", "args"), HAS_TO_BE_KILLED, ids=name_of)
def test_a_task_that_does_not_end_when_it_is_interrupted_is_killed_and_its_worker_replaced(
    client: Connection, function: str, args: tuple[Any, ...]
) -> None:
    before = client.ask(bare("pid"))
    began = time.monotonic()
    data = timed_out(client.ask(limited(function, *args)))
    assert data["killed"]
    assert data["ran"] >= LIMIT + GRACE - ROUNDING
    assert LIMIT + GRACE <= time.monotonic() - began < LIMIT + GRACE + SLOW
    assert client.ask(bare("pid")) != before
    wait_for_exit(before)


@pytest.mark.parametrize("function", ["match_for_ever", "block_async"])
def test_a_task_in_c_code_ends_whether_the_interrupt_reaches_it_or_not(
    client: Connection, function: str
) -> None:
    timed_out(client.ask(limited(function)))


def test_a_task_blocked_in_a_read_ends(client: Connection, gate: Gate) -> None:
    client.send(limited("read_for_ever", gate.path))
    gate.wait_until_entered()
    assert not timed_out(client.receive())["killed"]


def test_a_worker_that_is_stopped_by_sigstop_is_killed(one: Daemon, client: Connection, gate: Gate) -> None:
    before = client.ask(bare("pid"))
    client.send(limited("stand_deaf", gate.path))
    gate.wait_until_entered()
    os.kill(before, signal.SIGSTOP)
    assert timed_out(client.receive())["killed"]
    wait_for_exit(before)


def test_the_reply_does_not_wait_for_a_process_that_ignores_sigterm(client: Connection) -> None:
    before = client.ask(bare("pid"))
    assert timed_out(client.ask(limited("ignore_sigterm")))["killed"]
    # The process has two more seconds until SIGKILL, and is still running.
    assert title_of(before) != ""
    wait_for_exit(before)


@pytest.mark.parametrize("deaf", [False, True], ids=["child", "child that ignores SIGTERM"])
def test_a_child_process_of_a_task_that_is_killed_ends_too(start: Start, deaf: bool) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    client = daemon.connect().send(limited("wait_for_a_child", deaf))
    child = int(daemon.wait_for_log(r"child (\d+)$")[1])
    assert timed_out(client.receive())["killed"]
    wait_for_exit(child)
    assert client.ask(bare("hello")) == "Hello, World!"
    daemon.wait_for_family(3)


def test_a_task_that_waits_in_subprocess_run_leaves_no_child(start: Start) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    client = daemon.connect().send(limited("run_a_child"))
    daemon.wait_for_family(4)
    timed_out(client.receive())
    daemon.wait_for_family(3)


def test_a_copy_of_the_worker_forked_by_its_task_ends_too(start: Start) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    client = daemon.connect().send(limited("wait_for_a_fork"))
    child = int(daemon.wait_for_log(r"child (\d+)$")[1])
    assert timed_out(client.receive())["killed"]
    wait_for_exit(child)
    assert client.ask(bare("hello")) == "Hello, World!"


# --- what the function receives -----------------------------------------------


def test_a_function_can_clean_up_in_finally(one: Daemon, client: Connection) -> None:
    assert not timed_out(client.ask(limited("clean_up", tag="at the limit:")))["killed"]
    one.wait_for_log(r"clean_up #\d+: at the limit: cleaned up$")


def test_the_cleanup_of_a_function_may_take_its_grace(one: Daemon, client: Connection) -> None:
    data = timed_out(client.ask(limited("clean_up_slowly", seconds=0.4, tag="slowly:")))
    assert not data["killed"]
    assert data["ran"] >= LIMIT + 0.4 - ROUNDING
    one.wait_for_log(r"clean_up_slowly #\d+: slowly: cleaned up$")


def test_the_exception_raised_is_a_task_timeout_that_except_exception_does_not_catch(
    one: Daemon, client: Connection
) -> None:
    timed_out(client.ask(limited("save")))
    one.wait_for_log(r"caught TaskTimeout TaskStopped BaseException$")


def test_an_async_function_over_its_limit_gets_asyncios_cancelled_error(
    client: Connection, make_drop: MakeDrop
) -> None:
    standing, told = make_drop(), make_drop()
    client.send(limited("stand_async", standing.path, told.path))
    assert standing.receive() == "standing"
    assert told.receive().startswith("CancelledError")
    timed_out(client.receive())
    assert client.ask(bare("async_nap", 0.001)) == 0.001  # the event loop still works


def test_the_outcome_of_a_function_after_its_time_limit_is_discarded(client: Connection) -> None:
    for what in ("return", "raise"):
        assert client.ask(limited("save", what))["error"]["code"] == TIMED_OUT


def test_the_log_shows_where_a_killed_function_was(start: Start) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    assert timed_out(daemon.connect().ask(limited("stand_in_c", False)))["killed"]
    daemon.wait_for_log(r"misbehaving\.py.*\bin stand_in_c")


# --- which limit -------------------------------------------------------------


def test_a_function_can_have_its_own_limit(client: Connection) -> None:
    timed_out(client.ask(rpc(1, "limited", 600)))
    assert client.ask(rpc(1, "limited", 0))["result"] == 0


def test_a_call_can_have_a_smaller_limit_but_no_larger_one(client: Connection) -> None:
    timed_out(client.ask(limited("limited", 600, timeout=0.1)), 0.1)
    timed_out(client.ask(limited("limited", 600, timeout=100)))
    timed_out(client.ask(limited("roomy", 600, timeout=0.1)), 0.1)


def test_the_limit_of_the_server_applies_to_functions_without_their_own(start: Start) -> None:
    daemon = start(*Apps, "--workers", "4", "--timeout", "0.2").wait_until_ready()
    client = daemon.connect()
    timed_out(client.ask(rpc(1, "nap", 600)), 0.2)
    timed_out(client.ask(rpc(1, "async_nap", 600)), 0.2)
    timed_out(client.ask(limited("nap", 600, timeout=100)), 0.2)
    timed_out(client.ask(limited("nap", 600, timeout=0.1)), 0.1)
    assert client.ask(rpc(1, "roomy", 0.4))["result"] == 0.4
    (limit,) = [each["timeout"] for each in daemon.status()["functions"] if each["name"] == "roomy"]
    assert limit == 30


def test_without_any_limit_a_task_runs_on(start: Start, gate: Gate) -> None:
    daemon = start(*Apps, "--workers", "2").wait_until_ready()
    client = daemon.connect().send(gate.rpc("long"))
    gate.wait_until_entered()
    timed_out(daemon.connect().ask(limited("sleep_on")))
    gate.release("unhurt")
    assert client.receive()["result"] == "unhurt"


def test_the_time_that_a_task_waits_does_not_count(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    client = daemon.connect().send(gate.rpc("held"), limited("hello", timeout=0.1))
    daemon.wait_for_status(lambda status: (status["oldest_waiting"] or 0) > 0.3)
    gate.release()
    assert [client.receive()["id"] for _ in range(2)] == ["held", "limited"]
    client.send(limited("hello", timeout=0.1))
    assert client.receive()["result"] == "Hello, World!"


@pytest.mark.parametrize(
    "arguments", ["timeout=0", "timeout=-1", "timeout=float('nan')", "grace=-1", "grace=float('nan')"]
)
def test_an_invalid_limit_in_a_decorator_fails_the_start(start: Start, tmp_path: Any, arguments: str) -> None:
    (tmp_path / "wrong.py").write_text(f"from taskd import task\n@task({arguments})\ndef one(): return 1\n")
    daemon = start("--app", "wrong")
    assert daemon.wait_for_end() == 1
    assert "ValueError" in daemon.log


# --- other tasks -------------------------------------------------------------


def test_other_workers_are_not_affected(start: Start, gate: Gate) -> None:
    daemon = start(*Apps, "--workers", "3").wait_until_ready()
    client = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    other = daemon.connect().send(limited("ignore_sigterm"), limited("sleep_on"))
    assert sorted(timed_out(other.receive())["killed"] for _ in range(2)) == [False, True]
    gate.release("unhurt")
    assert client.receive()["result"] == "unhurt"


def test_each_of_many_limits_at_once_ends_its_own_task(start: Start) -> None:
    daemon = start(*Apps, "--workers", "6").wait_until_ready()
    client = daemon.connect()
    limits = [0.2, 0.3, 0.4, 0.2, 0.3, 0.4]
    for number, limit in enumerate(limits):
        client.send(rpc(number, "sleep_on", options={"timeout": limit}))
    for reply in [client.receive() for _ in limits]:
        timed_out(reply, limits[reply["id"]])
    assert len(daemon.wait_for_workers(6)) == 6


def test_a_limit_that_races_with_the_end_of_its_task_never_hits_the_next_task(start: Start) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    client = daemon.connect()
    rounds = 60
    for number in range(rounds):
        seconds = 0.01
        # Each takes about as long as its limit, and is followed by one that must not be hit.
        client.send(rpc(f"nap{number}", "nap", seconds, options={"timeout": seconds}))
        client.send(rpc(f"next{number}", "nap", 0.003))
    replies = {}
    for _ in range(2 * rounds):
        reply = client.receive()
        assert reply["id"] not in replies
        replies[reply["id"]] = reply
    for number in range(rounds):
        assert replies[f"next{number}"]["result"] == 0.003
        reply = replies[f"nap{number}"]
        if "result" not in reply:
            assert not timed_out(reply, 0.01)["killed"]
    assert counts(daemon)["lost"] == 0
    assert counts(daemon)["workers_started"] == 1


# --- who is answered -------------------------------------------------------------


def test_the_error_of_a_bare_request_keeps_its_place_among_the_replies(start: Start) -> None:
    daemon = start(*Apps, "--workers", "2").wait_until_ready()
    client = daemon.connect()
    client.send(bare("sleep_on", options={"timeout": LIMIT}), bare("hello")).end_sending()
    first, second = client.receive_all()
    timed_out(first)
    assert second == "Hello, World!"


def test_a_notification_over_its_limit_is_stopped_too(one: Daemon, client: Connection) -> None:
    before = counts(one)["timed_out"]
    client.send(rpc(None, "sleep_on", options={"timeout": LIMIT}))
    one.wait_for_status(lambda status: status["counts"]["timed_out"] == before + 1)
    # The next line that comes is the reply to the next request.
    assert client.ask(rpc("next", "hello"))["id"] == "next"


def test_each_request_of_a_batch_has_its_own_limit(start: Start) -> None:
    daemon = start(*Apps, "--workers", "2").wait_until_ready()
    batch = [rpc(1, "sleep_on", options={"timeout": LIMIT}), rpc(2, "nap", 0.5)]
    replies = {reply["id"]: reply for reply in daemon.connect().ask(batch)}
    timed_out(replies[1])
    assert replies[2]["result"] == 0.5


@pytest_twisted.ensureDeferred
async def test_the_error_over_a_websocket_is_the_same(one: Daemon, websocket: Any) -> None:
    page = await websocket(one.ws)
    timed_out(await page.ask(limited("sleep_on")))
    page.send(bare("sleep_on", options={"timeout": LIMIT}))
    assert (await page.receive()).startswith("task failed: ")
    page.send(rpc(1, "hello"))
    assert (await page.receive_json())["result"] == "Hello, World!"


@pytest_twisted.ensureDeferred
async def test_a_client_gets_the_error_as_an_exception(one: Daemon, make_client: Any) -> None:
    from taskd.errors import TimedOut
    from taskd.model import Options

    client = make_client(one.tcp)
    with pytest.raises(TimedOut) as caught:
        await client.request("sleep_on", options=Options(timeout=LIMIT))
    assert caught.value.data["limit"] == "timeout"
    assert caught.value.data["seconds"] == LIMIT
    assert await client.request("add", [1, 2], options=Options(timeout=LIMIT)) == 3


def test_the_command_has_a_limit_option_too(one: Daemon) -> None:
    ended = run_taskd(one.tcp, "call", "--timeout", LIMIT, "sleep_on")
    assert ended.returncode == 1
    assert ended.stderr.startswith("taskd: timed out")
    assert "Traceback" not in ended.stderr


def test_a_task_of_a_disconnected_caller_is_stopped_at_its_limit_too(one: Daemon) -> None:
    before = counts(one)["timed_out"]
    gone = one.connect().send(limited("sleep_on"))
    one.wait_for_status(lambda status: status["running"] == 1)
    gone.socket.shutdown(socket.SHUT_RDWR)
    gone.close()
    one.wait_for_status(lambda status: status["counts"]["timed_out"] == before + 1)
    assert one.connect().ask(bare("hello")) == "Hello, World!"


def test_a_stop_waits_no_longer_than_the_limits_of_running_tasks(start: Start, gate: Gate) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    client = daemon.connect().send(limited("stand_deaf", gate.path))
    gate.wait_until_entered()
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    assert timed_out(client.receive())["killed"]
    daemon.wait_for_end()
    assert time.monotonic() - began < 10
    assert daemon.family() == []
