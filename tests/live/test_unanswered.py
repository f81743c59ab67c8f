"""Failures that no reply carries: every way to a task server leaves a trace of them."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.live.support import APPS, TIMEOUT, Daemon, Gate, bare, kept_daemon, run_taskd

OPTIONS = ("--app", str(APPS / "plain.py"), "--workers", "2", "--max-message", "20000")

Open = Callable[[str], Awaitable[Any]]


@pytest.fixture(scope="module", params=("per-message", "pooled", "local"))
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A task server with a gateway of each kind."""
    directory = tmp_path_factory.mktemp(request.param)
    with kept_daemon(*OPTIONS, "--link", request.param, directory=directory) as started:
        yield started


def notification(method: str, *params: Any, **options: Any) -> dict[str, Any]:
    """A JSON-RPC request without an id."""
    return {"jsonrpc": "2.0", "method": method, "params": params, "options": options}


def wait_until_counted(daemon: Daemon, before: dict[str, int], **expected: int) -> None:
    """Wait until so many failures of each reason have been counted, and check that there are no others."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        counts = daemon.status()["unanswered"]
        new = {name: count - before.get(name, 0) for name, count in counts.items()}
        new = {name: count for name, count in new.items() if count}
        if new == expected:
            return
        assert time.monotonic() < deadline, f"{new} instead of {expected}"
        time.sleep(0.02)


WRONG = (
    notification("helo"),
    notification("add", "x"),
    notification("boom", "no paper"),
    notification("nap", 30, timeout=0.05),
    notification("vanish", 7),
    notification("nest", 1000),
    notification("taskd.cancel", 7),
    notification("taskd.cancel", None, 999_999),
    notification("taskd.cancel", "why", "how"),
)
COUNTED = {
    "method_not_found": 1,
    "invalid_params": 2,
    "task_failed": 2,
    "timed_out": 1,
    "worker_lost": 1,
    "nothing_to_cancel": 2,
}


def test_notifications_on_tcp(daemon: Daemon) -> None:
    before = daemon.status()["unanswered"]
    client = daemon.connect()
    client.send(*WRONG)
    wait_until_counted(daemon, before, **COUNTED)
    client.end_sending()
    assert client.receive_all() == []
    daemon.wait_for_log(r"unanswered failure of helo \(method not found\): no such function: helo")
    assert "unanswered failures: " in run_taskd(daemon.tcp, "status").stdout


@pytest_twisted.ensureDeferred
async def test_notifications_on_a_websocket(daemon: Daemon, websocket: Open) -> None:
    from tests.live.peers import in_thread

    before = daemon.status()["unanswered"]
    ws = await websocket(daemon.ws)
    ws.send(*WRONG)
    # A task's number is no handle for a websocket.
    counted = COUNTED | {"nothing_to_cancel": 1, "not_allowed": 1}
    await in_thread(lambda: wait_until_counted(daemon, before, **counted))
    assert ws.unread == 0


@pytest_twisted.ensureDeferred
async def test_a_websocket_that_is_gone_before_its_task_fails(
    daemon: Daemon, websocket: Open, tmp_path: Path
) -> None:
    from tests.live.peers import in_thread, within

    before = daemon.status()["unanswered"]
    gate = Gate(tmp_path / "gate")
    try:
        ws = await websocket(daemon.ws)
        ws.send(gate.rpc(1))
        await in_thread(gate.wait_until_entered)
        ws.go()
        await within(ws.closed)
        # Once a later websocket is served, the end of the earlier one has been noticed.
        another = await websocket(daemon.ws)
        assert await another.send(bare("hello")).receive() == "task complete"
        await in_thread(gate.release, "too much" * 10_000)
        await in_thread(lambda: wait_until_counted(daemon, before, too_large=1))
    finally:
        gate.tear_down()


def test_a_flood_of_made_up_names_does_not_flood_the_log(daemon: Daemon) -> None:
    before = daemon.status()["unanswered"]
    client = daemon.connect()
    client.send(*[notification(f"\x1b[31mmade up {number}\n") for number in range(2000)], bare("hello"))
    assert client.receive() == "Hello, World!"
    wait_until_counted(daemon, before, method_not_found=2000)
    lines = re.findall(r".*unanswered failure.*", daemon.log)
    assert len(lines) < 50
    assert "\x1b" not in daemon.log
    client.close()
