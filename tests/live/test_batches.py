"""Batches: the tasks of one request are counted, cancelled and followed as one, whatever dies meanwhile."""

import os
import signal
from pathlib import Path
from typing import Any

from tests.live.support import Connection, Daemon, rpc
from tests.live.test_store import Start, marks, start, wait

__all__ = ["start"]


def submit_batch(function: str, rows: list[Any], **params: Any) -> dict[str, Any]:
    params = {"function": function, "args": rows, **params}
    return {"jsonrpc": "2.0", "id": 1, "method": "taskd.submit_batch", "params": params}


def get(client: Connection, method: str, **params: Any) -> dict[str, Any]:
    return client.ask({"jsonrpc": "2.0", "id": 2, "method": f"taskd.{method}", "params": params})["result"]


def kill(daemon: Daemon) -> None:
    os.kill(daemon.process.pid, signal.SIGKILL)
    daemon.wait_for_end()
    daemon.wait_until_gone()


def test_a_batch_is_counted_and_followed_although_the_daemon_is_killed(start: Start, tmp_path: Path) -> None:
    daemon = start()
    client = daemon.connect()
    rows: list[Any] = [[number, 0.002] for number in range(400)]
    given = client.ask(submit_batch("mark", rows, then="count"))["result"]
    for least in (50, 150):
        while get(client, "get", batch=given["batch"])["done"] < least:
            pass
        kill(daemon)
        daemon = start()
        client = daemon.connect()
    ended = get(client, "wait", batch=given["batch"], timeout=60)
    assert [ended[name] for name in ("state", "done", "failed", "cancelled", "total")] == [
        "succeeded", 400, 0, 0, 400
    ]  # fmt: skip
    assert wait(client, ended["then"]["task"])["result"] == [400, 0, 0, 400]
    ran = marks(tmp_path)
    assert ran.pop(-1) == 1
    assert set(ran) == set(range(400))
    assert get(client, "get", task=given["tasks"][399])["result"] == 399


def test_a_batch_is_stored_as_a_whole_although_the_daemon_is_killed_meanwhile(start: Start) -> None:
    daemon = start()
    request = submit_batch("mark", [[number] for number in range(5000)], options={"delay": 1000}, token="t")
    client, other = daemon.connect(), daemon.connect()
    client.send(request)
    while not other.ask(rpc(3, "taskd.list", "scheduled", None, "", 1))["result"]:
        pass
    kill(daemon)
    client = start().connect()
    given = client.ask(request)["result"]
    assert given["joined"]
    assert len(given["tasks"]) == 5000
    assert get(client, "get", task=given["tasks"][-1])["state"] == "scheduled"
    assert get(client, "cancel", task=given["batch"]) == {"was": "running"}
    ended = get(client, "get", batch=given["batch"])
    assert (ended["state"], ended["cancelled"], ended["total"]) == ("cancelled", 5000, 5000)


def test_one_wrong_row_refuses_the_batch_and_is_named(start: Start) -> None:
    client = start(store="memory").connect()
    error = client.ask(submit_batch("mark", [[1], [2, 0.5], ["three"]]))["error"]
    assert error["message"] == "args[2]: argument 'number': expected integer, got string"
    assert client.ask(rpc(3, "taskd.list"))["result"] == []


def test_one_cancel_ends_a_batch_with_what_runs(start: Start, tmp_path: Path) -> None:
    client = start(store="memory").connect()
    given = client.ask(submit_batch("mark", [[number, 600] for number in range(20)], then="count"))["result"]
    while not client.ask(rpc(3, "taskd.list", "running"))["result"]:
        pass
    assert get(client, "cancel", task=given["batch"]) == {"was": "running"}
    ended = get(client, "get", batch=given["batch"])
    assert (ended["state"], ended["cancelled"]) == ("cancelled", 20)
    assert wait(client, ended["then"]["task"])["result"] == [0, 0, 20, 20]
    assert marks(tmp_path) == {-1: 1}
