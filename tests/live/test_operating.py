"""What operators do to a daemon, and what they see of it: drain, stacks, history and audit log."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import APPS, Connection, Daemon, kept_daemon, rpc, run_taskd
from tests.live.test_store import submit, wait


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("operating")
    with kept_daemon("--app", str(APPS / "plain.py"), "--workers", "2", directory=directory) as daemon:
        yield daemon


def ask(client: Connection, method: str, **params: Any) -> Any:
    return client.ask(rpc(1, method, **params))["result"]


def is_ready(daemon: Daemon) -> bool:
    url = daemon.ws.replace("ws://", "http://") + "/readyz"
    try:
        with urllib.request.urlopen(url) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        return bool(error.code != 503)


def test_the_stack_of_a_worker_shows_where_its_function_is_and_the_log_does_not(
    daemon: Daemon, tmp_path: Path
) -> None:
    client, gate = daemon.connect(), tmp_path / "gate"
    os.mkfifo(gate)
    client.send(rpc(7, "wait_for", str(gate)))
    daemon.wait_for_status(lambda status: [each["state"] for each in status["workers"]].count("idle") == 1)
    asker = daemon.connect()
    stack = ""
    while "in wait_for" not in stack:  # the worker has been given the task, and may not have begun yet
        [busy] = [each for each in ask(asker, "taskd.stacks") if each["function"] == "wait_for"] or [{}]
        stack = busy.get("stack") or ""
    assert str(APPS / "plain.py") in stack
    assert "taskd/worker" not in stack
    shown = run_taskd(daemon.tcp, "stacks", busy["worker"]).stdout
    assert f"worker {busy['worker']} (process {busy['pid']}): wait_for #" in shown
    assert "in wait_for" in shown
    [row] = [each for each in ask(asker, "taskd.queue") if each["function"] == "wait_for"]
    assert (row["waiting"], row["running"]) == (0, 1)
    gate.write_text("on")
    assert client.receive()["result"] == "on"
    assert "most recent call first" not in daemon.log


def test_a_drained_daemon_is_not_ready_and_refuses_tasks_until_that_is_undone(daemon: Daemon) -> None:
    client = daemon.connect()
    assert is_ready(daemon)
    assert "takes no new tasks" in run_taskd(daemon.tcp, "drain").stdout
    assert not is_ready(daemon)
    for message in rpc(2, "hello"), rpc(3, "taskd.submit", "hello"):
        assert client.ask(message)["error"]["code"] == -32005
    assert run_taskd(daemon.tcp, "drain", "--undo").returncode == 0
    assert is_ready(daemon)
    assert client.ask(rpc(4, "hello"))["result"] == "Hello, World!"


def test_a_reload_is_over_when_it_is_answered(daemon: Daemon) -> None:
    client = daemon.connect()
    before = ask(client, "taskd.status")["generation"]
    done = run_taskd(daemon.tcp, "reload")
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "reloaded")
    assert ask(client, "taskd.status")["generation"] == before + 1


def test_anonymous_clients_read_the_queue_and_the_history_and_operate_nothing(daemon: Daemon) -> None:
    url = daemon.ws.replace("ws://", "http://") + "/rpc"

    def post(method: str) -> Any:
        body = json.dumps(rpc(1, method)).encode()
        sent = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(sent) as response:
            return json.load(response)

    for method in "taskd.queue", "taskd.history", "taskd.nodes":
        assert isinstance(post(method)["result"], list)
    assert (post("taskd.whoami")["result"]["role"], post("taskd.whoami")["result"]["anonymous"]) == (
        "submit",
        True,
    )
    for method in "taskd.audit", "taskd.stacks", "taskd.drain", "taskd.reload":
        assert post(method)["error"]["data"]["reason"] == "role"


def test_the_history_and_the_audit_log_outlive_the_daemon(tmp_path: Path) -> None:
    options = ("--app", str(APPS / "lasting.py"), "--store", "sqlite:tasks.db")
    with kept_daemon(*options, directory=tmp_path) as daemon:
        client = daemon.connect()
        began = ask(client, "taskd.history", period="hour", function="mark")
        assert began == []
        wait(client, submit(client, "mark", 1))
        client.ask(rpc(2, "mark", 2))
        ask(client, "taskd.pause", function="mark")
    with kept_daemon(*options, directory=tmp_path) as daemon:
        client = daemon.connect()
        for function in "mark", None:
            rows = ask(client, "taskd.history", period="hour", function=function)
            counts = [sum(row[name] for row in rows) for name in ("submitted", "succeeded", "failed")]
            assert counts == [2, 2, 0], rows
            assert max(row["run_max"] for row in rows) >= max(row["run_p95"] for row in rows) > 0
        page = ask(client, "taskd.audit")
        counted = sum(
            entry["count"] for entry in page["entries"] if entry["action"] == "submit" and "count" in entry
        )
        actions = {entry["action"] for entry in page["entries"]}
        assert (actions, page["next"]) == ({"submit", "pause"}, None)
        assert counted in (0, 2)  # one entry for both, or one for each, if a second began between them
        shown = run_taskd(daemon.tcp, "audit", "--action", "pause").stdout
        assert "mark" in shown
