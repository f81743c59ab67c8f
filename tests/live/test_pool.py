"""The pool of worker processes: their properties, how they end, and what they leave behind."""

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import (
    APPS,
    Daemon,
    Drop,
    Gate,
    connect_unix,
    kept_daemon,
    parent_of,
    processes_marked,
    run_twistd,
    title_of,
    wait_for_exit,
)

Start = Callable[..., Daemon]
MakeGate = Callable[[], Gate]
Apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "probes.py"))


def bare(function: str, *args: Any, **named: Any) -> dict[str, Any]:
    return {"function": function, **({"args": args or named} if args or named else {})}


def rpc(request_id: Any, method: str, *params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def lost(reply: Any) -> dict[str, Any]:
    """Return the data of a reply, which must be the error about a lost worker."""
    assert reply["error"]["code"] == -32003, reply
    return reply["error"]["data"]


def group_of(pid: int) -> int:
    return os.getpgid(pid)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server with one worker, for the tests that only read it."""
    with kept_daemon(*Apps, "--workers", "1", directory=tmp_path_factory.mktemp("one")) as daemon:
        yield daemon


# --- their properties --------------------------------------------------------


def test_exactly_the_configured_number_of_workers_runs_under_one_fork_server(start: Start) -> None:
    daemon = start("--workers", "7").wait_until_ready()
    workers = daemon.wait_for_workers(7)
    assert parent_of(daemon.fork_server) == daemon.process.pid
    assert sorted(worker["pid"] for worker in workers) == daemon.workers
    assert daemon.family() == sorted([daemon.process.pid, daemon.fork_server, *daemon.workers])


def test_the_titles_of_processes_show_the_name_and_what_each_does(start: Start, make_gate: MakeGate) -> None:
    daemon = start("--workers", "3").wait_until_ready()
    daemon.wait_for_workers(3)
    assert daemon.titles() == ["idle"] * 3
    assert title_of(daemon.process.pid) == f"taskd[{daemon.name}]: daemon"
    assert title_of(daemon.fork_server) == f"taskd[{daemon.name}]: fork server"
    gates = [make_gate(), make_gate()]
    client = daemon.connect().send(*(gate.call() for gate in gates))
    for gate in gates:
        gate.wait_until_entered()
    assert daemon.titles() == ["idle", "wait_for #1", "wait_for #2"]
    for gate in gates:
        gate.release()
    assert [client.receive(), client.receive()] == ["", ""]


def test_workers_have_the_documented_environment(start: Start, make_gate: MakeGate) -> None:
    daemon = start(*Apps, "--workers", "4").wait_until_ready()
    gates = [make_gate() for _ in range(4)]
    client = daemon.connect().send(*(gate.call("describe") for gate in gates))
    for gate in gates:
        gate.wait_until_entered()
    for gate in gates:
        gate.release()
    workers = [client.receive() for _ in gates]
    assert sorted(worker["pid"] for worker in workers) == daemon.workers
    for worker in workers:
        assert worker["group"] == worker["pid"]
        assert worker["stdin"] == "/dev/null"
        assert worker["oom"] == "500"
        caught = {number.name for number in signal.Signals if worker["caught"] >> (number - 1) & 1}
        # For pokes, and for the stack that faulthandler prints: at a crash, at SIGTERM, or on demand.
        assert caught == {"SIGURG", "SIGTERM", "SIGWINCH", "SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL"}
        assert worker["blocked"] == 0
        assert set(worker["ignored"]) <= {"SIGPIPE", "SIGXFSZ"}  # as in every Python
        assert not worker["twisted"]
        # stdin; stdout and stderr, each with a spare (all of them one pipe); the channel; and files
        # that Python and the probe open.
        assert len([name for name in worker["files"] if name.startswith("socket:")]) == 1, worker["files"]
        assert len([name for name in worker["files"] if name.startswith("pipe:")]) == 4, worker["files"]
    assert len({worker["random"] for worker in workers}) == 4


def test_the_oom_score_is_raised_for_workers_only(start: Start) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    daemon.wait_for_workers(2)

    def score(pid: int) -> str:
        return Path(f"/proc/{pid}/oom_score_adj").read_text().strip()

    assert [score(pid) for pid in daemon.workers] == ["500", "500"]
    own = score(os.getpid())
    assert [score(daemon.process.pid), score(daemon.fork_server)] == [own, own]


def test_workers_and_fork_server_do_not_share_the_daemons_process_group(start: Start) -> None:
    daemon = start("--workers", "3").wait_until_ready()
    daemon.wait_for_workers(3)
    groups = [group_of(pid) for pid in (daemon.process.pid, daemon.fork_server, *daemon.workers)]
    assert len(set(groups)) == 5


def test_ctrl_c_at_the_terminal_does_not_reach_the_workers(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    client = daemon.connect().send(gate.call())
    gate.wait_until_entered()
    os.killpg(daemon.process.pid, signal.SIGINT)
    daemon.wait_for_log("Received SIGINT")
    gate.release("unharmed")
    assert client.receive() == "unharmed"


# --- processes that die ------------------------------------------------------


def test_a_busy_worker_that_is_killed_loses_only_its_task_and_is_replaced(
    start: Start, make_gate: MakeGate
) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    daemon.wait_for_workers(2)
    one, two = make_gate(), make_gate()
    client = daemon.connect().send(one.rpc(1))
    one.wait_until_entered()
    client.send(two.rpc(2))
    two.wait_until_entered()
    (victim,) = [pid for pid in daemon.workers if title_of(pid).endswith("wait_for #1")]
    os.kill(victim, signal.SIGKILL)
    reply = client.receive()
    assert reply["id"] == 1
    data = lost(reply)
    assert data["signal"] == "SIGKILL"
    assert data["seconds"] >= 0
    two.release("unharmed")
    assert client.receive() == {"jsonrpc": "2.0", "id": 2, "result": "unharmed"}
    workers = daemon.wait_for_workers(2)
    assert victim not in [worker["pid"] for worker in workers]
    assert sorted(worker["pid"] for worker in workers) == daemon.workers
    daemon.wait_for_log(rf"process {victim}\) ended: killed by SIGKILL")


def test_an_idle_worker_that_is_killed_is_replaced_and_loses_nothing(start: Start) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    daemon.wait_for_workers(2)
    client = daemon.connect()
    for _ in range(3):
        for pid in daemon.workers:
            os.kill(pid, signal.SIGKILL)
        assert [client.ask(bare("hello")) for _ in range(4)] == ["Hello, World!"] * 4
        workers = daemon.wait_for_workers(2)
        assert sorted(worker["pid"] for worker in workers) == daemon.workers


def test_a_task_sent_to_a_worker_that_had_already_died_is_not_lost(start: Start) -> None:
    """The daemon may not know yet that a worker is dead; a task that it never read goes to another one."""
    daemon = start("--workers", "1").wait_until_ready()
    client = daemon.connect()
    for number in range(20):
        daemon.wait_for_workers(1)
        (worker,) = daemon.workers
        # No round trip between the two: the daemon learns of both at about the same time.
        os.kill(worker, signal.SIGKILL)
        assert client.ask(bare("echo", number)) == number


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_a_worker_that_exits_during_a_task_is_reported_with_its_status(one: Daemon, status: int) -> None:
    client = one.connect()
    assert lost(client.ask(bare("vanish", status)))["status"] == status
    assert client.ask(bare("hello")) == "Hello, World!"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
)
def test_a_worker_ended_by_a_signal_is_reported_with_its_name(one: Daemon, number: signal.Signals) -> None:
    client = one.connect()
    assert lost(client.ask(bare("die", number)))["signal"] == number.name
    assert client.ask(bare("hello")) == "Hello, World!"


def test_each_worker_killed_under_load_loses_at_most_one_request(start: Start) -> None:
    total, kills = 6000, 40
    daemon = start("--workers", "4").wait_until_ready()
    daemon.wait_for_workers(4)
    fork_server = daemon.fork_server
    client = daemon.connect()
    chance = random.Random(7)
    client.send(*(bare("echo", number) for number in range(total)))
    killed = 0
    losses = 0
    for number in range(total):
        reply = client.receive()
        if isinstance(reply, dict):
            lost(reply)
            losses += 1
        else:
            assert reply == number
        if number % (total // kills) == 0:
            # Some of these have just been forked, some are idle, some busy.
            workers = [pid for pid in daemon.processes() if parent_of(pid) == fork_server]
            if workers:
                with suppress(ProcessLookupError):  # a worker may end by itself
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    killed += 1
    assert killed > kills / 8  # on a busy machine, workers are often still being started
    assert losses <= killed
    assert client.ask(bare("hello")) == "Hello, World!"
    assert sorted(worker["pid"] for worker in daemon.wait_for_workers(4)) == daemon.workers


def test_a_fork_server_that_is_killed_is_replaced_and_only_running_tasks_are_lost(
    start: Start, make_gate: MakeGate
) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    daemon.wait_for_workers(2)
    gates = [make_gate(), make_gate()]
    client = daemon.connect().send(
        *(gate.rpc("ran") for gate in gates), *(rpc("waited", "echo", n) for n in range(5))
    )
    for gate in gates:
        gate.wait_until_entered()
    before = [daemon.fork_server, *daemon.workers]
    os.kill(daemon.fork_server, signal.SIGKILL)
    replies = [client.receive() for _ in range(7)]
    ran = [reply for reply in replies if reply["id"] == "ran"]
    assert len(ran) == 2
    for reply in ran:
        assert lost(reply)
    assert sorted(reply["result"] for reply in replies if reply["id"] == "waited") == list(range(5))
    for pid in before:
        wait_for_exit(pid)
    workers = daemon.wait_for_workers(2)
    assert sorted(worker["pid"] for worker in workers) == daemon.workers
    assert not set(before) & {daemon.fork_server, *daemon.workers}


def test_an_idle_fork_server_is_replaced_however_often_it_is_killed(start: Start) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    client = daemon.connect()
    for number in range(3):
        daemon.wait_for_workers(2)
        old = daemon.fork_server
        os.kill(old, signal.SIGKILL)
        wait_for_exit(old)
        assert client.ask(bare("echo", number)) == number
        assert daemon.fork_server != old


def test_a_stopped_worker_that_is_killed_is_replaced(one: Daemon, gate: Gate) -> None:
    client = one.connect().send(gate.call())
    gate.wait_until_entered()
    (worker,) = one.workers
    os.kill(worker, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    assert lost(client.receive())["signal"] == "SIGKILL"
    assert client.ask(bare("hello")) == "Hello, World!"


def test_the_child_processes_of_a_lost_worker_end_with_it_and_do_not_delay_its_replacement(
    one: Daemon, gate: Gate
) -> None:
    client = one.connect().send(gate.call("sleeper_and_stand"))
    gate.wait_until_entered()
    (worker,) = one.workers
    (sleeper,) = [pid for pid in one.wait_for_family(4) if parent_of(pid) == worker]
    os.kill(worker, signal.SIGKILL)
    assert lost(client.receive())["signal"] == "SIGKILL"
    assert client.ask(bare("hello")) == "Hello, World!"
    wait_for_exit(sleeper)


def test_the_replacement_of_a_lost_worker_can_print(one: Daemon, make_gate: MakeGate) -> None:
    """Several processes hold the lost worker's output; its end must not close that of the new worker."""
    client = one.connect()
    for number in range(15):
        gate = make_gate()
        client.send(gate.call("sleeper_and_stand"))
        gate.wait_until_entered()
        (worker,) = [pid for pid in one.workers if title_of(pid) != f"taskd[{one.name}]: idle"]
        os.kill(worker, signal.SIGKILL)
        assert lost(client.receive())["signal"] == "SIGKILL"
        assert client.ask(bare("say", f"text {number}.")) is None
        one.wait_for_log(rf"say #\d+\b.*text {number}\.$")


# --- late binding ------------------------------------------------------------


def test_a_busy_worker_delays_no_other_task(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    client = daemon.connect().send(gate.rpc("held"), *(rpc(number, "echo", number) for number in range(200)))
    # One worker waits, so the other gets all the tasks, first come, first served.
    assert [client.receive()["result"] for _ in range(200)] == list(range(200))
    gate.release("done")
    assert client.receive()["result"] == "done"


def test_a_task_is_not_bound_to_a_worker_before_one_is_free(start: Start, make_gate: MakeGate) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    long, short, third = make_gate(), make_gate(), make_gate()
    client = daemon.connect().send(long.rpc("long"))
    long.wait_until_entered()
    client.send(short.rpc("short"), third.rpc("third"), rpc("fourth", "hello"))
    short.release()
    assert client.receive()["id"] == "short"
    third.wait_until_entered()
    third.release()
    assert [client.receive()["id"], client.receive()["id"]] == ["third", "fourth"]
    long.release()
    assert client.receive()["id"] == "long"


# --- their output ------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "task"),
    [
        (bare("say", "to stdout"), "say"),
        (bare("say", "to stderr", True), "say"),
        (bare("shout", "from a child process"), "shout"),
    ],
    ids=["stdout", "stderr", "child process"],
)
def test_the_output_of_a_task_is_logged_with_its_name_and_number(
    one: Daemon, request_: dict[str, Any], task: str
) -> None:
    assert one.connect().ask(request_) is None
    one.wait_for_log(rf"{one.name}.*\b{task} #\d+\b.*{request_['args'][0]}$")


def test_each_logged_line_names_the_task_that_printed_it(start: Start) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    client = daemon.connect()
    texts = ["one\ntwo", "no line end\r", "é€😀", "x" * 20_000, "", "last"]
    client.send(*(bare("say", text) for text in texts)).end_sending()
    assert client.receive_all() == [None] * len(texts)
    daemon.wait_for_log(r"say #1\b.*one$")
    daemon.wait_for_log(r"say #1\b.*two$")
    daemon.wait_for_log(r"say #2\b.*no line end")
    daemon.wait_for_log(r"say #3\b.*é€😀")
    daemon.wait_for_log(r"say #6\b.*last$")
    assert sum(line.count("x") for line in daemon.log.splitlines() if "say #4" in line) == 20_000


def test_the_output_of_a_task_is_logged_while_it_runs(start: Start, gate: Gate) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    client = daemon.connect().send(bare("write_and_stand", gate.path, "still at it"))
    daemon.wait_for_log(r"write_and_stand #1\b.*still at it$")
    gate.release()
    assert client.receive() is None


def test_the_output_of_a_task_before_its_worker_died_is_logged(start: Start, tmp_path: Path) -> None:
    (tmp_path / "last_words.py").write_text(
        "import os, signal, sys\nfrom taskd import task\n"
        "@task\ndef last_words():\n"
        "    os.write(2, b'goodbye')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    daemon = start("--app", "last_words", "--workers", "1").wait_until_ready()
    assert lost(daemon.connect().ask(bare("last_words")))
    daemon.wait_for_log(r"last_words #1\b.*goodbye$")


def test_the_output_of_the_app_during_its_import_is_logged(start: Start, tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(
        "print('imported now')\nfrom taskd import task\n@task\ndef one(): return 1\n"
    )
    start("--app", "chatty", "--workers", "1").wait_until_ready().wait_for_log("imported now")


# --- hooks -------------------------------------------------------------------

HOOKS = """
import os, time
from taskd import on_worker_start, on_worker_stop, task

started = []

@on_worker_start
def connect():
    started.append(os.getpid())
    print("hook: up", os.getpid())

@on_worker_start
def connect_more():
    print("hook: up too", os.getpid())

@on_worker_stop
def disconnect():
    print("hook: down", os.getpid())

@task
def who():
    return [os.getpid(), *started]

@task
def vanish():
    os._exit(0)
"""


def test_start_and_stop_hooks_run_in_each_worker(start: Start, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS)
    daemon = start("--app", "hooks", "--workers", "3").wait_until_ready()
    workers = {worker["pid"] for worker in daemon.wait_for_workers(3)}
    client = daemon.connect()
    pid, *started = client.ask(bare("who"))
    assert started == [pid]  # once, in this process, and before its first task
    daemon.stop()
    daemon.wait_for_end()
    for what in ("up", "up too", "down"):
        assert {int(pid) for pid in re.findall(rf"hook: {what} (\d+)", daemon.log)} == workers


def test_the_start_hooks_run_in_a_replacement_too(start: Start, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS)
    daemon = start("--app", "hooks", "--workers", "1").wait_until_ready()
    client = daemon.connect()
    first, *_ = client.ask(bare("who"))
    assert lost(client.ask(bare("vanish")))["status"] == 0
    second, *started = client.ask(bare("who"))
    assert started == [second]
    assert first != second


def test_a_start_hook_that_raises_is_logged_and_retried_after_growing_delays(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    (tmp_path / "shaky.py").write_text(
        "import time\nfrom pathlib import Path\nfrom taskd import on_worker_start, task\n"
        "@on_worker_start\ndef connect():\n"
        f"    with open({str(tmp_path / 'times')!r}, 'a') as times:\n"
        "        print(time.monotonic(), file=times)\n"
        f"    if Path({str(tmp_path / 'broken')!r}).exists():\n"
        "        raise RuntimeError('no database')\n"
        "@task\ndef one():\n    return 1\n"
    )
    daemon = start("--app", "shaky", "--workers", "1").wait_until_ready()
    client = daemon.connect().send(bare("one"))
    daemon.wait_for_log("RuntimeError: no database", 4)
    (tmp_path / "broken").unlink()
    assert client.receive() == 1
    daemon.wait_for_log(r"Traceback \(most recent call last\)", 4)
    times = [float(line) for line in (tmp_path / "times").read_text().split()]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[1] > 1.3 * gaps[0]
    assert gaps[2] > 1.3 * gaps[1]


def test_a_stop_hook_that_raises_is_logged_and_delays_no_stop(start: Start, tmp_path: Path) -> None:
    (tmp_path / "sour.py").write_text(
        "from taskd import on_worker_stop, task\n"
        "@on_worker_stop\ndef disconnect():\n    raise RuntimeError('already gone')\n"
        "@task\ndef one():\n    return 1\n"
    )
    daemon = start("--app", "sour", "--workers", "2").wait_until_ready()
    daemon.wait_for_workers(2)
    began = time.monotonic()
    daemon.stop()
    assert time.monotonic() - began < 4
    daemon.wait_for_end()
    daemon.wait_for_log("RuntimeError: already gone", 2)


# --- apps that cannot be used ------------------------------------------------

BAD_APPS = {
    "no_import.py": ("import there_is_no_such_module\n", "there_is_no_such_module"),
    "raises.py": ("1 / 0\n", "ZeroDivisionError"),
    "syntax.py": ("def (\n", "SyntaxError"),
    "exits.py": ("import sys\nsys.exit(0)\n", "SystemExit"),
    "vanishes.py": ("import os\nos._exit(0)\n", "while it imported the app"),
    "no_tasks.py": ("def hello():\n    return 1\n", "no function is registered"),
    "twice.py": (
        "from taskd import task\n@task(name='x')\ndef a(): pass\n@task(name='x')\ndef b(): pass\n",
        "two functions are named 'x'",
    ),
    "reserved.py": ("from taskd import task\n@task(name='taskd.mine')\ndef a(): pass\n", "taskd.mine"),
    "annotated.py": ("from taskd import task\n@task\ndef a(x: 'Nothing'): pass\n", "function 'a'"),
}


@pytest.mark.parametrize("name", BAD_APPS)
def test_an_unusable_app_fails_the_start_with_the_reason(start: Start, tmp_path: Path, name: str) -> None:
    text, reason = BAD_APPS[name]
    (tmp_path / name).write_text(text)
    daemon = start("--app", name)
    assert daemon.wait_for_end() == 1
    assert reason in daemon.log
    assert daemon.family() == []
    assert "Unhandled" not in daemon.log
    assert "twisted/" not in daemon.log  # no traceback through frames outside the app


@pytest.mark.parametrize(
    "app", ["there_is_none", "there_is_none.py", "nowhere/there_is_none.py", "os.nothing"]
)
def test_a_missing_app_fails_the_start_and_is_named(start: Start, app: str) -> None:
    daemon = start("--app", app)
    assert daemon.wait_for_end() == 1
    assert app in daemon.log
    assert "Traceback" not in daemon.log
    assert daemon.family() == []


def test_two_functions_of_one_name_fail_the_start_and_both_places_are_named(
    start: Start, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text("from taskd import task\n@task\ndef hello():\n    return 1\n")
    daemon = start("--app", "first", "--app", "second")
    assert daemon.wait_for_end() == 1
    for part in ("hello", "first.py", "second.py"):
        assert part in daemon.log


@pytest.mark.parametrize("name", ["raises.py", "no_tasks.py", "there is none.py"])
def test_a_failed_start_is_reported_by_a_daemonised_twistd_too(
    tmp_path: Path, pool_name: str, name: str
) -> None:
    text, reason = BAD_APPS.get(name, ("", "there is no such file"))
    if text:
        (tmp_path / name).write_text(text)
    tcp = "tcp:0:interface=127.0.0.1"
    ended = run_twistd(tmp_path, pool_name, "taskd", "--app", name, "--listen", tcp, "--websocket", tcp)
    assert ended.returncode == 1, ended.stdout
    for pid in processes_marked(pool_name):
        wait_for_exit(pid)  # twistd reports the failure shortly before the daemon ends
    assert not (tmp_path / "twistd.pid").exists()
    assert reason in (tmp_path / "twistd.log").read_text()


def test_a_failed_start_never_hangs(start: Start, tmp_path: Path) -> None:
    """Before the reactor runs, Twisted does not notice the fork server's end: taskd must check for it."""
    (tmp_path / "no_tasks.py").touch()
    daemons = [start("--app", "no_tasks", "--websocket", "none") for _ in range(6)]
    assert [daemon.wait_for_end() for daemon in daemons] == [1] * 6


def test_a_daemonised_server_serves_and_stops(tmp_path: Path, pool_name: str) -> None:
    endpoints = ("--listen", f"unix:{tmp_path}/socket", "--websocket", "none")
    ended = run_twistd(tmp_path, pool_name, "taskd", *Apps, *endpoints, "--workers", "2")
    assert ended.returncode == 0, ended.stdout
    pid = int((tmp_path / "twistd.pid").read_text())
    client = connect_unix(tmp_path / "socket")
    assert client.ask(bare("hello")) == "Hello, World!"
    os.kill(pid, signal.SIGTERM)
    wait_for_exit(pid)
    assert client.receive() is None
    assert not (tmp_path / "twistd.pid").exists()
    assert processes_marked(pool_name) == []


# --- nothing outlives the daemon ---------------------------------------------


def test_when_the_daemon_is_killed_nothing_survives(start: Start, make_gate: MakeGate) -> None:
    daemon = start(*Apps, "--workers", "4").wait_until_ready()
    daemon.wait_for_workers(4)
    gates = [make_gate(), make_gate()]
    daemon.connect().send(gates[0].call(), gates[1].call("sleeper_and_stand"), bare("nap", 600))
    for gate in gates:
        gate.wait_until_entered()
    family = daemon.wait_for_family(7)  # daemon, fork server, workers, and the child of a task
    daemon.process.kill()
    for pid in family:
        wait_for_exit(pid)
    assert daemon.family() == []


def test_when_the_daemon_is_killed_under_load_nothing_survives(start: Start) -> None:
    daemon = start("--workers", "4").wait_until_ready()
    client = daemon.connect()
    client.send(*(bare("echo", number) for number in range(5000)))
    for _ in range(100):
        client.receive()
    family = daemon.family()
    daemon.process.kill()
    for pid in family:
        wait_for_exit(pid)
    assert daemon.family() == []


def test_when_the_daemon_is_killed_while_the_app_is_imported_nothing_survives(
    start: Start, tmp_path: Path, gate: Gate
) -> None:
    (tmp_path / "slow.py").write_text(f"open({gate.path!r}).read()\n")
    daemon = start("--app", "slow")
    gate.wait_until_entered()
    family = daemon.wait_for_family(2)
    daemon.process.kill()
    for pid in family:
        wait_for_exit(pid)
    assert daemon.family() == []


def test_a_worker_that_ignores_every_signal_does_not_survive_the_daemon(
    start: Start, tmp_path: Path, drop: Drop
) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import signal, time\nfrom taskd import task\n"
        "@task\ndef stay(target):\n"
        "    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "        signal.signal(number, signal.SIG_IGN)\n"
        "    open(target, 'w').write('deaf')\n"
        "    while True:\n        time.sleep(600)\n"
    )
    daemon = start("--app", "stubborn", "--workers", "1").wait_until_ready()
    daemon.connect().send(bare("stay", drop.path))
    assert drop.receive() == "deaf"
    family = daemon.wait_for_family(3)
    daemon.process.kill()
    for pid in family:
        wait_for_exit(pid)
