"""Functions that need labels, on real daemons with and without them; and the nodes as commands show them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import APPS, Daemon, kept_daemon, rpc, run_taskd
from tests.live.test_store import submit, wait

APP = ("--app", str(APPS / "labelled.py"), "--workers", "1", "--store", "sqlite:tasks.db")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the daemons, and of their store."""
    return tmp_path_factory.mktemp("labels")


@pytest.fixture(scope="module")
def daemon(directory: Path) -> Iterator[Daemon]:
    """A daemon that lacks one of the labels."""
    with kept_daemon(*APP, "--label", "gpu", directory=directory) as daemon:
        yield daemon


def refusal(daemon: Daemon, function: str, *args: Any, **options: Any) -> dict[str, Any]:
    error: dict[str, Any] = daemon.connect().ask(rpc(1, function, *args, options=options or None))["error"]
    return error


def test_a_function_runs_where_its_labels_are_and_is_refused_elsewhere(daemon: Daemon) -> None:
    client = daemon.connect()
    assert client.ask(rpc(1, "render", "a tree"))["result"] == "a tree, rendered"
    assert client.ask(rpc(2, "send", "hello"))["result"] == "hello"
    for error in (
        refusal(daemon, "train", "m"),
        refusal(daemon, "train", "m", track=True),
        refusal(daemon, "taskd.submit", "train", ["m"]),
        refusal(daemon, "taskd.submit_batch", "train", [["m"], ["n"]]),
    ):
        assert error["code"] == -32008
        assert error["data"] == {"reason": "labels", "missing": ["big"]}
        assert "train needs the label big" in error["message"]
        assert "--label big" in error["message"]
    assert "functions that are not run here: train (needs big)" in daemon.log


def test_a_submitted_task_runs_where_its_labels_are(daemon: Daemon) -> None:
    client = daemon.connect()
    assert wait(client, submit(client, "render", "a hill"))["result"] == "a hill, rendered"


def test_commands_show_labels_and_who_has_them(daemon: Daemon) -> None:
    called = run_taskd(daemon.tcp, "call", "train", "model=m")
    assert called.returncode != 0
    assert "needs the label big" in called.stderr
    shown = run_taskd(daemon.tcp, "functions").stdout
    [line] = [line for line in shown.splitlines() if line.startswith("train(")]
    assert "gpu, big" in line
    assert "not run here" in line
    assert "labels: gpu\n" in run_taskd(daemon.tcp, "status").stdout


def test_a_daemon_with_a_store_of_its_own_is_the_only_node_and_drains_itself_alone(daemon: Daemon) -> None:
    [node] = json.loads(run_taskd(daemon.tcp, "nodes", "--json").stdout)
    assert (node["node"], node["labels"], node["this"]) == (None, ["gpu"], True)
    assert node["functions"] == ["render", "send"]
    assert node["name"].endswith(f":{daemon.process.pid}")
    refused = run_taskd(daemon.tcp, "drain", "3")
    assert refused.returncode != 0
    assert "there is no node 3" in refused.stderr
    assert run_taskd(daemon.tcp, "drain").returncode == 0
    assert "drained, this one" in run_taskd(daemon.tcp, "nodes").stdout
    assert run_taskd(daemon.tcp, "drain", "--undo").returncode == 0
    assert "drained" not in run_taskd(daemon.tcp, "nodes").stdout


def test_a_task_waits_for_a_start_with_the_label_and_shows_why(tmp_path: Path) -> None:
    app = tmp_path / "needy.py"
    app.write_text("from taskd import task\n\n@task(durable=True)\ndef work() -> int:\n    return 5\n")
    options = ("--app", str(app), "--workers", "1", "--store", "sqlite:tasks.db")
    with kept_daemon(*options, directory=tmp_path) as daemon:
        client = daemon.connect()
        task = client.ask(rpc(1, "taskd.submit", "work", [], {"delay": 3.0}))["result"]["task"]
    app.write_text(app.read_text().replace("durable=True", 'durable=True, needs="gpu"'))
    with kept_daemon(*options, directory=tmp_path) as daemon:
        client = daemon.connect()
        state = "scheduled"
        while state == "scheduled":
            state = client.ask(rpc(1, "taskd.get", task))["result"]["state"]
        assert state == "waiting"
        why = client.ask(rpc(2, "taskd.why", task))["result"]
        assert why["missing"] == ["gpu"]
        assert "start it with --label gpu" in run_taskd(daemon.tcp, "why", task).stdout
    with kept_daemon(*options, "--label", "gpu", directory=tmp_path) as daemon:
        assert wait(daemon.connect(), task)["result"] == 5


def test_a_label_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    daemon = Daemon(*APP, "--label", "a b", directory=tmp_path)
    daemon.wait_for_end()
    assert "--label: a label begins with a letter or a digit" in daemon.log
