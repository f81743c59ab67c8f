"""JSON-RPC and the API over HTTP, on real connections, with every kind of link."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading

import pytest

from tests.live.support import APPS, TIMEOUT, Gate, kept_daemon, rpc

LONG = "é" * 1_500_000
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module", params=["local", "pooled", "per-message"])
def gateway(request, tmp_path_factory):
    """A daemon whose gateway has this kind of link."""
    options = ("--app", str(APPS / "plain.py"), "--link", request.param, "--store", "memory")
    with kept_daemon(*options, "--workers", "2", directory=tmp_path_factory.mktemp("http")) as daemon:
        yield daemon


@pytest.fixture
def gate(tmp_path):
    """A gate at which a task waits until the test releases it."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.tear_down()


class Client:
    """A kept HTTP connection to a gateway."""

    def __init__(self, daemon):
        self.connection = http.client.HTTPConnection("127.0.0.1", daemon.port(2), timeout=TIMEOUT)

    def send(self, method, path, body=None, **headers):
        text = None if body is None else json.dumps(body)
        self.connection.request(method, path, text, {**(JSON if text else {}), **headers})
        return self

    def receive(self):
        """Return the status, the headers, and the body, decoded."""
        response = self.connection.getresponse()
        text = response.read()
        return response.status, response.headers, json.loads(text) if text else None

    def ask(self, *request, **headers):
        status, _, body = self.send(*request, **headers).receive()
        return status, body

    def submit(self, function, args, query=""):
        """Submit a task; return the status, and the answer."""
        return self.ask("POST", f"/api/v1/tasks{query}", {"function": function, "args": args})

    def close(self):
        self.connection.close()


@pytest.fixture
def client(gateway):
    """A connection to the gateway."""
    client = Client(gateway)
    yield client
    client.close()


def test_messages_and_tasks_are_answered_on_one_connection(client):
    assert client.ask("POST", "/", rpc(1, "hello")) == (
        200,
        {"jsonrpc": "2.0", "id": 1, "result": "Hello, World!"},
    )
    batch = [rpc(1, "hello", "Ann"), rpc(None, "hello"), rpc(2, "hello", "Bob")]
    status, replies = client.ask("POST", "/rpc", batch)
    assert (status, {reply["id"]: reply["result"] for reply in replies}) == (
        200,
        {1: "Hello, Ann!", 2: "Hello, Bob!"},
    )
    assert client.ask("POST", "/rpc", rpc(None, "hello")) == (204, None)
    status, task = client.submit("hello", {"name": "Ann"}, "?wait=20")
    assert (status, task["state"], task["result"]) == (200, "succeeded", "Hello, Ann!")
    assert client.ask("GET", f"/api/v1/tasks/{task['task']}") == (200, task)
    status, listed = client.ask("GET", "/api/v1/tasks?function=hello&state=succeeded&limit=1000")
    assert task["task"] in [each["task"] for each in listed["tasks"]]
    status, accepted = client.ask("POST", "/api/v1/batches", {"function": "hello", "args": [[], ["Bob"]]})
    assert (status, len(accepted["tasks"])) == (202, 2)
    status, batch = client.ask("GET", f"/api/v1/batches/{accepted['batch']}?wait=20")
    assert (batch["state"], batch["done"]) == ("succeeded", 2)


def test_errors_are_the_same_with_every_link(client):
    for method, path, body, expected in (
        ("POST", "/api/v1/tasks", {"function": "nothing"}, (422, -32602)),
        ("POST", "/api/v1/tasks", {"function": "hello", "args": [1, 2, 3]}, (422, -32602)),
        ("POST", "/api/v1/tasks", {"function": "hello", "args": 5}, (422, -32602)),
        ("POST", "/api/v1/tasks", {}, (400, -32600)),
        ("GET", "/api/v1/tasks/nothing", None, (404, -32602)),
        ("GET", "/api/v1/tasks/nothing?wait=1", None, (404, -32602)),
        ("DELETE", "/api/v1/tasks/nothing", None, (404, -32602)),
        ("GET", "/api/v1/batches/nothing", None, (404, -32602)),
        ("GET", "/api/v1/tasks/nothing/why", None, (404, -32602)),
        ("POST", "/api/v1/tasks/nothing/retry", None, (404, -32602)),
    ):
        status, problem = client.ask(method, path, body)
        assert (status, problem["code"]) == expected, (method, path, problem)
        assert problem["status"] == status


def test_long_bodies_and_long_results_arrive_whole(client):
    assert client.ask("POST", "/rpc", rpc(1, "echo", LONG))[1]["result"] == LONG
    assert client.submit("echo", [LONG], "?wait=60")[1]["result"] == LONG


def test_a_task_that_must_not_outlive_its_client_is_cancelled_with_it(gateway, gate):
    before = gateway.status()["counts"]["cancelled"]
    client = Client(gateway).send("POST", "/rpc", {**gate.rpc(1), "options": {"on_disconnect": "cancel"}})
    gate.wait_until_entered()
    client.close()
    gateway.wait_for_status(lambda status: status["counts"]["cancelled"] == before + 1)


def test_a_wait_ends_with_its_client_and_the_task_goes_on(gateway, client, gate):
    waiting = Client(gateway)
    before = gateway.status()["connections"]
    _, accepted = waiting.submit("wait_for", {"path": gate.path})
    waiting.send("GET", f"/api/v1/tasks/{accepted['task']}?wait=60")
    gate.wait_until_entered()
    waiting.close()
    gateway.wait_for_status(lambda status: status["connections"] <= before)
    gate.release("done")
    _, task = client.ask("GET", f"/api/v1/tasks/{accepted['task']}?wait=20")
    assert task["result"] == "done"


def test_a_running_task_is_cancelled_and_not_put_back_meanwhile(client, gate):
    _, accepted = client.submit("wait_for", {"path": gate.path})
    path = f"/api/v1/tasks/{accepted['task']}"
    gate.wait_until_entered()
    status, problem = client.ask("POST", f"{path}/retry")
    assert (status, problem["state"]) == (409, "running")
    assert client.ask("DELETE", path) == (200, {"was": "running"})
    assert client.ask("GET", path)[1]["state"] == "cancelled"


def test_many_connections_are_served_at_once(gateway):
    answers = []

    def ask():
        client = Client(gateway)
        answers.extend(client.ask("POST", "/rpc", rpc(1, "hello"))[0] for _ in range(5))
        client.close()

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert answers == [200] * 200


def test_a_stop_answers_what_is_in_flight_and_refuses_the_rest(clean_start, gate):
    daemon = clean_start("--link", "local").wait_until_ready()
    idle, begun, busy = Client(daemon), Client(daemon), Client(daemon)
    assert idle.ask("GET", "/api/v1/tasks")[0] == begun.ask("GET", "/api/v1/tasks")[0] == 200
    text = json.dumps(rpc(1, "hello")).encode()
    head = b"POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    begun.connection.sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(text) + text[:1])
    busy.send("POST", "/rpc", gate.rpc(1))
    gate.wait_until_entered()
    daemon.process.send_signal(signal.SIGTERM)
    assert idle.connection.sock.recv(1) == b"", "an idle connection is closed"
    begun.connection.sock.sendall(text[1:])
    refused = begun.connection.sock.makefile("rb").read()
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in refused
    assert b'"code":-32005' in refused
    gate.release("done")
    status, headers, reply = busy.receive()
    assert (status, headers["Connection"], reply["result"]) == (200, "close", "done")
    for client in idle, begun, busy:
        client.close()
    daemon.wait_for_end()


def test_a_client_that_only_asks_for_the_page_may_be_a_websocket_on_any_path(gateway):
    for path in ("/rpc", "/api/v1/tasks/x/retry"):
        with socket.create_connection(("127.0.0.1", gateway.port(2)), TIMEOUT) as sock:
            sock.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            assert sock.recv(100).startswith(b"HTTP/1.1 101 ")
