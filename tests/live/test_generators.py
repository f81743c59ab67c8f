"""Generator functions, `current_task` and `Retry` in real workers."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.support import APPS, Daemon, bare, cancel, data_of, kept_daemon, lines_of, rpc


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    os.environ["MARKS"] = str(tmp_path / "marks")
    options = ("--app", str(APPS / "yielding.py"), "--workers", "1", "--store", "sqlite:tasks.db")
    with kept_daemon(*options, "--max-message", "100000", directory=tmp_path) as running:
        yield running


def test_an_ordinary_call_gets_the_list_of_what_was_yielded(daemon: Daemon) -> None:
    client = daemon.connect()
    for function in "numbers", "async_numbers":
        assert client.ask(bare(function, 3)) == [0, 1, 2]
        assert client.ask(bare(function, 0)) == []


def test_a_generator_that_yields_too_much_is_closed_before_the_next_task(
    daemon: Daemon, tmp_path: Path
) -> None:
    client = daemon.connect()
    client.send(rpc(1, "endless", "x" * 1000), rpc(2, "numbers", 1))
    assert data_of(client.receive(), -32006)["limit"] == 100_000
    assert lines_of(tmp_path / "marks") == ["GeneratorExit", "cleaned up"]
    assert client.receive()["result"] == [0]


def test_a_generator_is_closed_when_its_time_is_over_or_its_caller_cancels(
    daemon: Daemon, tmp_path: Path
) -> None:
    client = daemon.connect()
    assert data_of(client.ask(rpc(1, "slow")), -32001)["killed"] is False
    assert lines_of(tmp_path / "marks") == ["cleaned up"]
    client.send(rpc(2, "waiting", options={"progress": True}))
    assert client.receive()["method"] == "taskd.progress"
    client.send(cancel(3, 2))
    replies = {reply["id"]: reply for reply in (client.receive(), client.receive())}
    assert data_of(replies[2], -32002)["killed"] is False
    assert lines_of(tmp_path / "marks") == ["cleaned up", "cleaned up"]


def test_a_function_knows_its_stored_task_over_losses_and_retries(daemon: Daemon, tmp_path: Path) -> None:
    client = daemon.connect()
    task, attempt, deadline, was_interrupted = client.ask(bare("about_itself"))
    assert (attempt, deadline, was_interrupted) == (3, None, True)
    assert lines_of(tmp_path / "marks") == [task] * 3
    shown = client.ask(rpc(1, "taskd.get", task))["result"]
    assert (shown["attempts"], shown["errors"], shown["losses"]) == (3, 1, 1)


def test_an_exception_that_is_no_reason_to_try_again_ends_the_task_at_once(daemon: Daemon) -> None:
    client = daemon.connect()
    assert client.ask(bare("wrong"))["error"]["message"] == "ValueError: wrong for ever"
    [shown] = client.ask(rpc(1, "taskd.list"))["result"]
    assert (shown["state"], shown["attempts"]) == ("failed", 1)
    request = rpc(2, "taskd.events", task=shown["task"])
    last = client.ask(request)["result"][-1]
    assert (last["event"], last["error"]["data"]["type"]) == ("failed", "ValueError")
    assert "ValueError: wrong for ever" in last["traceback"]  # this client is on the same machine
    for_others = {**request, "options": {"caller": "somebody else"}}
    assert "traceback" not in client.ask(for_others)["result"][-1]


def test_values_that_a_stored_task_yields_are_logged_and_pushed(daemon: Daemon) -> None:
    client = daemon.connect()
    task = client.ask(rpc(1, "taskd.submit", function="stored_numbers", args=[3]))["result"]["task"]
    client.send(rpc(2, "taskd.attach", task=task))
    assert "result" in client.receive()
    pushed = [client.receive()["params"]]
    while pushed[-1]["event"] != "succeeded":
        pushed.append(client.receive()["params"])
    assert [each["value"] for each in pushed if each["event"] == "partial"] == [0, 1, 2]
    assert pushed[-1]["result"] == 3
    logged = client.ask(rpc(3, "taskd.events", task=task))["result"]
    assert [each["event"] for each in logged] == ["queued", "started", *["partial"] * 3, "succeeded"]
    assert [each["seq"] for each in logged] == [each["seq"] for each in pushed]


def test_a_stored_task_that_yields_long_values_gets_each_through(daemon: Daemon) -> None:
    client = daemon.connect()
    task = client.ask(rpc(1, "taskd.submit", function="long_values", args=[9, 10_000]))["result"]["task"]
    assert client.ask(rpc(2, "taskd.wait", task=task, timeout=30))["result"]["state"] == "succeeded"
    logged = client.ask(rpc(3, "taskd.events", task=task))["result"]
    assert [len(each["value"]) for each in logged if each["event"] == "partial"] == [10_000] * 9
    task = client.ask(rpc(4, "taskd.submit", function="long_values", args=[11, 10_000]))["result"]["task"]
    ended = client.ask(rpc(5, "taskd.wait", task=task, timeout=30))["result"]
    assert (ended["state"], ended["attempts"], ended["error"]["code"]) == ("failed", 1, -32006)
