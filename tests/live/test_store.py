"""Tasks that last: what was accepted is run, whatever dies meanwhile."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import APPS, Connection, Daemon, bare, kept_daemon, rpc

Start = Callable[..., Daemon]
APP = str(APPS / "lasting.py")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start_one(*options: str, store: str | None = "sqlite:tasks.db") -> Daemon:
            named = ["--store", store] if store is not None else []
            return stack.enter_context(
                _daemon("--app", APP, "--workers", "2", *named, *options, directory=tmp_path)
            )

        yield start_one


def _daemon(*options: str, directory: Path) -> Any:
    os.environ["MARKS"] = str(directory / "marks")
    return kept_daemon(*options, directory=directory)


def marks(directory: Path) -> Counter[int]:
    file = directory / "marks"
    return Counter(map(int, file.read_text().split())) if file.exists() else Counter()


def submit(client: Connection, function: str, *args: Any, **options: Any) -> str:
    reply = client.ask(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "taskd.submit",
            "params": {"function": function, "args": list(args), **options},
        }
    )
    return reply["result"]["task"]


def wait(client: Connection, task: str, timeout: float = 20.0) -> dict[str, Any]:
    return client.ask(rpc(2, "taskd.wait", task, timeout))["result"]


def test_an_ordinary_call_of_a_durable_function_is_answered_as_ever(start: Start, tmp_path: Path) -> None:
    client = start().connect()
    assert client.ask(bare("mark", 1)) == 1
    assert client.ask(rpc(7, "mark", 2)) == {"jsonrpc": "2.0", "id": 7, "result": 2}
    assert client.ask(bare("mark", "x"))["error"]["code"] == -32602
    assert client.ask(bare("plain", 3)) == 3
    tasks = client.ask(rpc(8, "taskd.list"))["result"]
    assert [(each["function"], each["state"]) for each in tasks] == [
        ("mark", "succeeded"),
        ("mark", "succeeded"),
        ("mark", "failed"),
    ]


def test_a_submitted_task_is_known_by_its_id_on_every_connection(start: Start) -> None:
    daemon = start()
    task = submit(daemon.connect(), "mark", 5)
    other = daemon.connect()
    ended = wait(other, task)
    assert (ended["task"], ended["state"], ended["result"], ended["attempts"]) == (task, "succeeded", 5, 1)
    assert other.ask(rpc(3, "taskd.get", task))["result"] == ended
    assert other.ask(rpc(4, "taskd.get", "unknown"))["error"]["code"] == -32602


def test_a_task_that_fails_is_tried_again(start: Start, tmp_path: Path) -> None:
    client = start().connect()
    ended = wait(client, submit(client, "third_time", 9))
    assert (ended["state"], ended["attempts"], ended["errors"]) == ("succeeded", 3, 2)
    assert marks(tmp_path) == {9: 3}


def test_a_task_that_kills_its_process_is_set_aside_or_has_failed(start: Start) -> None:
    client = start().connect()
    ended = wait(client, submit(client, "poison"))
    assert (ended["state"], ended["losses"]) == ("set_aside", 2)
    ended = wait(client, submit(client, "poison_once"))
    assert (ended["state"], ended["losses"], ended["error"]["code"]) == ("failed", 1, -32003)


def test_acknowledged_tasks_are_run_although_the_daemon_is_killed(start: Start, tmp_path: Path) -> None:
    acknowledged = set()
    number = 0
    for _ in range(3):
        daemon = start()
        client = daemon.connect()
        for _ in range(5):
            numbers = range(number, number + 40)
            number += 40
            client.send(
                *(
                    {
                        "jsonrpc": "2.0",
                        "id": each,
                        "method": "taskd.submit",
                        "params": {"function": "mark", "args": [each, 0.005]},
                    }
                    for each in numbers
                )
            )
            acknowledged |= {client.receive()["id"] for _ in numbers}
        os.kill(daemon.process.pid, signal.SIGKILL)
        daemon.wait_for_end()
        daemon.wait_until_gone()
    daemon = start()
    client = daemon.connect()
    last = submit(client, "mark", number)
    assert wait(client, last)["state"] == "succeeded"
    while client.ask(rpc(1, "taskd.list", "waiting"))["result"]:
        pass
    while client.ask(rpc(1, "taskd.list", "running"))["result"]:
        pass
    assert client.ask(rpc(1, "taskd.list", "set_aside"))["result"] == []
    assert acknowledged <= set(marks(tmp_path))


def test_a_stop_leaves_tasks_in_the_store_that_have_not_begun(start: Start, tmp_path: Path) -> None:
    daemon = start()
    client = daemon.connect()
    tasks = [submit(client, "mark", number, 0.05) for number in range(40)]
    assert daemon.stop() == -signal.SIGTERM
    assert 40 - len(marks(tmp_path)) > 0
    client = start().connect()
    assert {wait(client, task)["state"] for task in tasks} == {"succeeded"}
    assert marks(tmp_path) == dict.fromkeys(range(40), 1)


def test_a_file_that_another_daemon_uses_is_refused(start: Start, tmp_path: Path) -> None:
    first = start()
    second = Daemon("--app", APP, "--store", "sqlite:tasks.db", directory=tmp_path)
    assert second.wait_for_end() == 1
    assert f"used by another daemon, with pid {first.process.pid}" in second.log


def test_without_a_file_everything_works_but_survival(start: Start) -> None:
    daemon = start(store="memory")
    client = daemon.connect()
    task = submit(client, "mark", 1, options={"delay": 0.2, "key": "k"})
    assert submit(client, "mark", 1, options={"key": "k"}) == task
    assert wait(client, task)["state"] == "succeeded"
    daemon.wait_for_log("the store is memory: tasks of mark,")


def test_a_durable_function_has_its_tasks_in_a_file_unless_another_store_is_named(
    start: Start, tmp_path: Path
) -> None:
    daemon = start(store=None)
    daemon.wait_for_log(f"the store is {tmp_path}/taskd.db .*since there are durable functions: mark,")
    task = submit(daemon.connect(), "mark", 1)
    assert wait(daemon.connect(), task)["state"] == "succeeded"
    daemon.stop()
    assert wait(start(store=None).connect(), task)["state"] == "succeeded"


def test_a_default_file_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "taskd.db").write_text("my notes")
    daemon = Daemon("--app", APP, directory=tmp_path)
    assert daemon.wait_for_end() == 1
    assert "taskd.db cannot be opened: file is not a database" in daemon.log
    assert "--store memory" in daemon.log
