"""Clients that end while they are not read, and clients that still send when they are refused."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.live.support import APPS, Connection, Daemon, bare, kept_daemon, open_websocket, rpc
from tests.unit.frames import BINARY, client_frame

LIMIT = 1000
"""Requests of one connection in flight, after which it is not read."""

WEBSOCKET_LIMIT = 100
"""Messages of one websocket in flight, after which it is not read."""

MANY = 5000
"""Calls that take more bytes than a paused connection's kernel buffers: what they do not hold
keeps the end of the client back."""

SOON_BLOCKED = 1.0
"""Seconds after which a client that cannot send any more gives up."""

NOTICED = 5.0
"""Seconds within which the end of a client is noticed."""

TOLERANCE = 3.0
"""Seconds that a busy machine may take besides."""

DEPENDENT = {"on_disconnect": "cancel"}

STILL_SENDING = 3_000_000
"""Bytes that a client goes on to send when it is refused."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with kept_daemon("--app", "plain", "--workers", "2", "--link", "local", directory=APPS) as daemon:
        yield daemon


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def in_flight(status: dict[str, Any]) -> int:
    return status["waiting"] + status["running"]


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_the_calls_of_a_client_at_its_limit_end_with_it(daemon: Daemon, how: str) -> None:
    client = daemon.connect()
    client.send(*[rpc(number, "nap", 600, options=DEPENDENT) for number in range(LIMIT + 10)])
    daemon.wait_for_status(lambda status: in_flight(status) == LIMIT)
    if how == "half-close":
        client.end_sending()
    else:
        if how == "reset":
            reset(client.socket)
        client.close()
    daemon.wait_for_status(lambda status: in_flight(status) == 0)
    if how == "half-close":
        assert len(client.receive_lines()) == LIMIT + 10
        client.close()


def test_an_end_that_the_clients_kernel_cannot_send_is_noticed(daemon: Daemon) -> None:
    client = daemon.connect()
    calls = [bare("nap", 600, options=DEPENDENT) for _ in range(MANY)]
    client.socket.sendall(b"".join(json.dumps(call).encode() + b"\n" for call in calls))
    daemon.wait_for_status(lambda status: in_flight(status) == LIMIT)
    client.close()
    daemon.wait_for_status(lambda status: in_flight(status) == 0)


def test_the_calls_of_a_websocket_at_its_limit_end_with_it(daemon: Daemon) -> None:
    sock = open_websocket(daemon)
    call = json.dumps(rpc(1, "nap", 600, options=DEPENDENT)).encode()
    sock.sendall(client_frame(call) * MANY)
    daemon.wait_for_status(lambda status: in_flight(status) == WEBSOCKET_LIMIT)
    sock.close()
    daemon.wait_for_status(lambda status: in_flight(status) == 0)


@pytest.mark.parametrize("padding", [0, 100_000], ids=["by number", "by memory"])
@pytest.mark.parametrize("is_websocket", [False, True], ids=["lines", "websocket"])
def test_the_end_of_a_client_that_sends_until_it_blocks_is_noticed(
    daemon: Daemon, padding: int, is_websocket: bool
) -> None:
    call = json.dumps(rpc(1, "nap", 600, options=DEPENDENT)).encode() + b" " * padding
    sock = open_websocket(daemon) if is_websocket else daemon.connect().socket
    sock.settimeout(SOON_BLOCKED)
    calls = (client_frame(call) if is_websocket else call + b"\n") * 10
    with suppress(TimeoutError):
        while True:
            sock.sendall(calls)
    assert in_flight(daemon.status()) > 0
    sock.close()
    closed = time.monotonic()
    daemon.wait_for_status(lambda status: in_flight(status) == 0)
    assert time.monotonic() - closed < NOTICED + TOLERANCE


def test_a_client_that_takes_its_replies_may_send_far_ahead(daemon: Daemon) -> None:
    client = daemon.connect()
    calls = 3 * LIMIT
    line = json.dumps(bare("nap", 0.02, options=DEPENDENT)).encode() + b" " * 10_000 + b"\n"
    sending = threading.Thread(target=client.socket.sendall, args=(line * calls,))
    sending.start()
    assert [client.receive() for _ in range(calls)] == [0.02] * calls
    sending.join()
    client.close()


def receive_all(sock: socket.socket) -> bytes:
    """Read to the end, which must be no reset."""
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


def test_a_refused_client_that_still_sends_gets_its_answer_and_no_reset(daemon: Daemon) -> None:
    hello = json.dumps(bare("hello")).encode()
    client = daemon.connect()
    client.send(hello)
    client.socket.sendall(b"x" * (10 * 1024 * 1024 + STILL_SENDING))
    received = receive_all(client.socket)
    assert received.startswith(b'"Hello, World!"\n')
    assert b"this one is longer" in received
    client.close()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (client_frame(b"\0", BINARY), 1003),
        (client_frame(b"\xff"), 1007),
        (client_frame(b"a", mask=b""), 1002),
    ],
)
def test_a_refused_websocket_gets_its_replies_then_the_reason(
    daemon: Daemon, frame: bytes, code: int
) -> None:
    sock = open_websocket(daemon)
    call = client_frame(json.dumps(bare("hello")).encode())
    sock.sendall(call + frame + bytes(STILL_SENDING))
    received = receive_all(sock)
    assert received.index(b"task complete") < received.index(code.to_bytes(2))
    sock.close()


def test_a_client_that_sends_at_the_stop_gets_its_reply_and_no_reset(tmp_path: Any) -> None:
    with kept_daemon("--app", "plain", "--workers", "1", directory=APPS) as daemon:
        client: Connection = daemon.connect()
        client.send(bare("nap", 0.5), *[bare("hello")] * 10)
        daemon.wait_for_status(lambda status: status["running"] == 1)
        daemon.process.terminate()
        daemon.wait_for_log("stopping|shutting down|SIGTERM")
        client.socket.sendall(b"\n" * STILL_SENDING)
        assert client.receive() == 0.5
        receive_all(client.socket)
        client.close()
        daemon.wait_for_end()
