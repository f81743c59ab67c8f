"""The memory of the daemon under clients that would fill it, and what is left when they are gone."""

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import (
    APPS,
    TIMEOUT,
    Connection,
    Daemon,
    bare,
    kept_daemon,
    open_websocket,
    resident_bytes,
    rpc,
)
from tests.live.test_tls import Files

MIB = 1024 * 1024
LIMIT = 16 * MIB
LONGEST = MIB
MARGIN = 16 * MIB
"""Bytes that the daemon may take besides what it holds: copies on their way, and what malloc keeps."""

BIG = 200_000
"""Bytes of a result or an argument of which few fit into a connection's share."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon with a small budget."""
    options = ("--workers", "4", "--max-message", str(LONGEST), "--max-buffered", str(LIMIT))
    directory = tmp_path_factory.mktemp("memory")
    with kept_daemon("--app", str(APPS / "plain.py"), *options, directory=directory) as daemon:
        daemon.wait_for_workers(4)
        yield daemon


class Watch:
    """The memory of a daemon, as it grows from now on; every look at it is a call that must be answered."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.other = daemon.connect()
        self.before = resident_bytes(daemon.process.pid)

    def held(self) -> int:
        """Check that the daemon is within its bounds, and return what it says that it holds."""
        budget = self.other.ask(rpc("status", "taskd.status"))["result"]["budget"]
        assert budget["held"] < LIMIT + MIB
        assert resident_bytes(self.daemon.process.pid) - self.before < LIMIT + MARGIN
        return int(budget["held"])

    def wait_until_released(self) -> None:
        """Wait until nothing is held for anybody."""
        self.daemon.wait_for_status(lambda status: status["budget"]["held"] == 0, self.other)
        self.other.close()


def send_in_background(client: Connection, data: bytes) -> int:
    """Send what the server reads while anything is read, and return how much that was."""
    client.socket.settimeout(0.5)
    sent = 0
    with suppress(TimeoutError):
        while sent < len(data):
            sent += client.socket.send(data[sent : sent + 262_144])
    client.socket.settimeout(TIMEOUT)
    return sent


def lines(*messages: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in messages)


def is_result_or_dropped(reply: Any) -> bool:
    error = reply.get("error") if isinstance(reply, dict) else None
    return len(reply) == BIG if error is None else error["code"] == -32006


def test_results_that_wait_for_an_earlier_one_are_bounded_and_come_in_order(
    daemon: Daemon, gate: Any
) -> None:
    watch = Watch(daemon)
    client = daemon.connect()
    client.send(gate.call(), *[bare("big", BIG)] * 300, bare("echo", "last"))
    gate.wait_until_entered()
    daemon.wait_for_status(lambda status: status["budget"]["held"] > BIG, watch.other)
    assert watch.other.ask(bare("hello")) == "Hello, World!"
    watch.held()
    gate.release("first")
    assert client.receive() == "first"
    replies = [client.receive() for _ in range(300)]
    assert all(is_result_or_dropped(reply) for reply in replies)
    assert client.receive() == "last"
    watch.held()
    watch.wait_until_released()


def test_the_reply_to_a_batch_is_no_longer_than_a_message(daemon: Daemon) -> None:
    watch = Watch(daemon)
    client = daemon.connect()
    client.send([rpc(number, "big", BIG) for number in range(50)])
    replies = client.receive()
    whole = [reply for reply in replies if "result" in reply]
    assert 0 < len(whole) * BIG < LONGEST
    assert {reply["error"]["code"] for reply in replies if "error" in reply} == {-32006}
    assert len(replies) == 50
    watch.held()
    watch.wait_until_released()


def test_arguments_that_wait_are_bounded_and_every_task_runs(daemon: Daemon, make_gate: Any) -> None:
    watch = Watch(daemon)
    client = daemon.connect()
    gates = [make_gate() for _ in range(4)]
    client.send(*[gate.call() for gate in gates])
    for gate in gates:
        gate.wait_until_entered()
    padding = "x" * BIG
    data = lines(*[bare("echo", padding)] * 200)
    sent = send_in_background(client, data)
    assert sent < len(data)
    watch.held()
    for gate in gates:
        gate.release()
    received = 0
    client.socket.setblocking(False)
    while sent < len(data) or received < 204:
        readable, writable, _ = select.select(
            [client.socket], [client.socket] if sent < len(data) else [], [], TIMEOUT
        )
        assert readable or writable
        if writable:
            sent += client.socket.send(data[sent : sent + 65536])
        if readable:
            received += client.socket.recv(262_144).count(b"\n")
    watch.wait_until_released()
    client.close()


def test_lines_that_do_not_end_are_bounded_and_refused(daemon: Daemon) -> None:
    watch = Watch(daemon)
    clients = [daemon.connect() for _ in range(60)]
    for client in clients:
        client.socket.setblocking(False)
        with suppress(BlockingIOError):
            client.socket.send(b'{"' + b"x" * (LONGEST - 100))
    daemon.wait_for_status(lambda status: status["budget"]["waiting"] > 0, watch.other)
    assert watch.other.ask(bare("hello")) == "Hello, World!"
    watch.held()
    for client in clients:
        client.close()
    watch.wait_until_released()


def frame(text: bytes) -> bytes:
    """Return the masked frame of a short text."""
    return bytes([0x81, 0x80 | len(text)]) + b"\0\0\0\0" + text


def test_results_that_websockets_leave_unread_are_bounded(daemon: Daemon) -> None:
    watch = Watch(daemon)
    opened = [open_websocket(daemon) for _ in range(10)]
    asked = b"".join(frame(json.dumps(rpc(number, "big", LONGEST // 2)).encode()) for number in range(60))
    for sock in opened:
        sock.sendall(asked)
    daemon.wait_for_status(lambda status: status["budget"]["held"] > 2 * MIB, watch.other)
    for _ in range(50):
        watch.held()
    for sock in opened:
        sock.close()
    watch.wait_until_released()


@pytest.mark.parametrize("kind", ["tcp", "tls", "websocket", "page"])
def test_closed_connections_leave_nothing_for_the_garbage_collector(kind: str, tmp_path: Path) -> None:
    certificate, key = Files(tmp_path).issue()
    script = [sys.executable, "-m", "tests.live.leftovers", kind, str(certificate), str(key)]
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(script, cwd=root, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (ended.returncode, ended.stdout) == (0, "nothing is left\n"), ended.stdout + ended.stderr
