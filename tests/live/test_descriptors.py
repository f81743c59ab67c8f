"""A daemon with few open files: who is refused and how, and what goes on all the same."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import suppress

import pytest
import pytest_twisted

from tests.live.support import APPS, TIMEOUT, Connection, bare, descriptors_of, kept_daemon, rpc

LIMIT = 160
"""Open files of the daemon: enough for some dozens of connections beside the workers."""

MANY = 2 * LIMIT
"""Connections that are more than the daemon can have."""


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """A daemon with two workers, and few open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, hard))
    options = ("--app", str(APPS / "plain.py"), "--workers", "2")
    try:
        starting = kept_daemon(*options, directory=tmp_path_factory.mktemp("limited"))
        daemon = starting.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    yield daemon
    starting.__exit__(None, None, None)


@pytest.fixture
def connect(limited):
    """Connect to a port of the daemon, from an address of this machine; all are closed at the end."""
    made = []

    def connect_one(port=1, source="127.0.0.1"):
        sock = socket.create_connection(("127.0.0.1", limited.port(port)), TIMEOUT, (source, 0))
        made.append(sock)
        return sock

    yield connect_one
    for sock in made:
        sock.close()


def answer_to(sock):
    """Call `hello`, and return the first line that comes back, "" if the connection ended."""
    connection = Connection(sock)
    with suppress(ConnectionError):  # a refused connection may be closed by now
        connection.send(bare("hello"))
    return connection.receive() or ""


def test_surplus_connections_are_answered_busy_and_other_addresses_get_in(limited, connect):
    before = descriptors_of(limited.process.pid)
    answers = [answer_to(connect()) for _ in range(MANY)]
    refused = [answer for answer in answers if answer != "Hello, World!"]
    assert answers[0] == "Hello, World!"
    assert 0 < len(refused) < MANY
    for answer in refused:
        assert (answer["error"]["code"], answer["error"]["data"]) == (-32004, {"retry_after": 1})
    assert answer_to(connect(source="127.0.0.2")) == "Hello, World!"
    assert sum(descriptors_of(limited.process.pid).values()) < LIMIT
    limited.wait_for_log(rf"too many connections: 1 refused, .* as ulimit -n {LIMIT} permits")
    assert "EMFILE" not in limited.log
    assert before["socket:[N]"] < LIMIT / 2


def test_the_gateway_answers_surplus_connections_with_503(limited, connect):
    answers = []
    for _ in range(MANY):
        sock = connect(2)
        with suppress(ConnectionError):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answers.append(sock.recv(65536))
    assert answers[0].startswith(b"HTTP/1.1 200 ")
    refused = [answer for answer in answers if not answer.startswith(b"HTTP/1.1 200 ")]
    assert refused
    assert all(
        answer.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 1\r\n" in answer for answer in refused
    )
    # The task server's port is another matter, even for the same address.
    assert answer_to(connect()) == "Hello, World!"


def test_connections_on_which_nothing_is_asked_make_room(limited, connect):
    silent = [connect() for _ in range(MANY)]
    ending = time.monotonic() + TIMEOUT
    while (answer := answer_to(connect())) != "Hello, World!":
        assert time.monotonic() < ending, answer
    assert len(silent) == MANY
    limited.wait_for_log(r"too many connections: \d+ refused, [1-9]\d* idle ones closed")


@pytest_twisted.ensureDeferred
async def test_a_batch_of_a_thousand_waits_for_connections(limited, websocket):
    ws = await websocket(limited.ws)
    ws.send([rpc(number, "add", number, 1) for number in range(1000)])
    replies = await ws.receive_json()
    assert sorted(reply["result"] for reply in replies) == list(range(1, 1001))
    assert sum(descriptors_of(limited.process.pid).values()) < LIMIT
