"""Tokens on real connections: over TCP, websockets and HTTP, with every kind of link."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time

import pytest

from taskd.auth.tokens import PREFIX, hash_of, new_token
from tests.live.support import APPS, TIMEOUT, Connection, data_of, kept_daemon, rpc
from tests.unit.auth.signing import SECRET, signed
from tests.unit.frames import CLOSE, client_frame, compressed_frames

NOT_ALLOWED, TOO_LARGE, INVALID_PARAMS = -32008, -32006, -32602
EXPIRED, REFUSED, TOO_BIG = 4401, 4403, 1009


@pytest.fixture(scope="module", params=["local", "pooled", "per-message"])
def gateway(request, tmp_path_factory):
    """A daemon with tokens, whose gateway has this kind of link; `tokens` has them by name."""
    directory = tmp_path_factory.mktemp("tokens")
    tokens = {name: new_token() for name in ("alice", "bob", "root", "gone", "few")}
    write(directory / "tokens.toml", tokens)
    (directory / "signing.key").write_bytes(SECRET)
    for tenant in ("7", "8"):
        claims = {"sub": "tenants", "exp": int(time.time()) + 3600, "args": {"tenant": int(tenant)}}
        tokens[tenant] = signed(**claims)
    options = (
        "--app",
        str(APPS / "plain.py"),
        "--app",
        str(APPS / "covered.py"),
        "--link",
        request.param,
        "--store",
        "memory",
    )
    more = ("--tokens", "tokens.toml", "--jwt-key", "signing.key", "--workers", "2", "--compression")
    with kept_daemon(*options, *more, directory=directory) as daemon:
        daemon.tokens = tokens
        daemon.file = directory / "tokens.toml"
        yield daemon
        assert not any(token in daemon.log for token in tokens.values())


def write(path, tokens):
    more = {"root": 'role = "operate"\n', "few": 'functions = ["greet"]\n'}
    tables = [
        f'[tokens.{name}]\nhash = "{hash_of(token)}"\n{more.get(name, "")}'
        for name, token in tokens.items()
        if token.startswith(PREFIX)
    ]
    path.write_text("\n".join(tables))


class WebSocket:
    """A websocket on a blocking socket."""

    def __init__(self, daemon, token=None, *lines, port=2):
        self.socket = socket.create_connection(("127.0.0.1", daemon.port(port)), TIMEOUT)
        protocols = "taskd" if token is None else f"taskd, taskd.token.{token}"
        head = (
            *("GET / HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"),
            *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"),
            *(f"Sec-WebSocket-Protocol: {protocols}", *lines),
        )
        self.socket.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        self.file = self.socket.makefile("rb")
        lines = []
        while (line := self.file.readline()) not in (b"\r\n", b""):
            lines.append(line)
        assert b" 101 " in lines[0]

    def send(self, message):
        self.socket.sendall(client_frame(json.dumps(message).encode()))
        return self

    def receive_text(self):
        """Return the next message as bytes, or the code of a close."""
        first, size = self.file.read(2)
        if size == 126:
            size = int.from_bytes(self.file.read(2))
        payload = self.file.read(size)
        return int.from_bytes(payload[:2]) if first & 15 == CLOSE else payload

    def receive(self):
        """Return the next message, or the code of a close."""
        received = self.receive_text()
        return received if isinstance(received, int) else json.loads(received)

    def ask(self, message):
        return self.send(message).receive()

    def close(self):
        self.file.close()
        self.socket.close()


@pytest.fixture
def open_websocket(gateway):
    opened = []

    def open_one(name=None, token=None):
        opened.append(WebSocket(gateway, gateway.tokens[name] if name else token))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def ask(gateway, method, path, body=None, token=None, port=2):
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port(port), timeout=TIMEOUT)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token is not None:
        headers["Authorization"] = f"Bearer {gateway.tokens[token]}"
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, json.loads(text) if text else None


def reason(reply):
    return data_of(reply, NOT_ALLOWED)["reason"]


def test_a_connection_from_this_machine_needs_a_token(gateway):
    client: Connection = gateway.connect()
    assert reason(client.ask(rpc(1, "hello"))) == "no token"
    auth = rpc(2, "taskd.auth", token=gateway.tokens["alice"])
    client.send(auth, rpc(3, "hello"))
    assert client.receive()["result"]["owner"] == "token:alice"
    assert client.receive()["result"] == "Hello, World!"
    assert reason(client.ask(rpc(4, "taskd.status"))) == "role"
    client.close()


def test_a_token_lets_a_page_call_functions_through_every_link(gateway, open_websocket):
    page = open_websocket("alice")
    assert page.ask(rpc(1, "add", 1, 2))["result"] == 3
    nobody = open_websocket()
    assert reason(nobody.ask(rpc(1, "hello"))) == "no token"
    assert nobody.ask(rpc(2, "taskd.auth", token=gateway.tokens["bob"]))["result"]["role"] == "submit"
    assert nobody.ask(rpc(3, "hello"))["result"] == "Hello, World!"
    assert open_websocket(token="taskd_wrong").receive() == REFUSED


def test_another_owners_task_is_neither_seen_nor_watched_nor_cancelled(gateway, open_websocket):
    alice, bob, root = (open_websocket(name) for name in ("alice", "bob", "root"))
    task = alice.ask(rpc(1, "taskd.submit", function="add", args=[1, 2]))["result"]["task"]
    assert alice.ask(rpc(2, "taskd.wait", task=task))["result"]["result"] == 3
    for each in (alice, root):
        assert each.ask(rpc(3, "taskd.get", task=task))["result"]["state"] == "succeeded"
        assert each.ask(rpc(4, "taskd.attach", task=task))["result"]["state"] == "succeeded"
        while each.receive()["params"]["event"] != "succeeded":
            pass
    for method in ("get", "attach", "wait", "events", "cancel", "why", "retry"):
        reply = bob.ask(rpc(5, f"taskd.{method}", task=task))
        assert reason(reply) == "owner", method
    assert task not in json.dumps(bob.ask(rpc(6, "taskd.list")))
    assert task in json.dumps(alice.ask(rpc(6, "taskd.list")))
    assert ask(gateway, "GET", f"/api/v1/tasks/{task}", token="bob")[0] == 403
    assert ask(gateway, "GET", f"/api/v1/tasks/{task}", token="alice")[1]["result"] == 3


@pytest.fixture(params=["tcp", "websocket", "http"])
def asking(request, gateway, open_websocket):
    """A function that asks by one way: it returns the result of a method, or the reason of a refusal."""
    clients = {}

    def over_http(token, message):
        return ask(gateway, "POST", "/rpc", message, token)[1]

    def over_websocket(token, message):
        if token not in clients:
            clients[token] = open_websocket(token)
        return clients[token].ask(message)

    def over_tcp(token, message):
        if token not in clients:
            clients[token] = gateway.connect()
            clients[token].ask(rpc(0, "taskd.auth", token=gateway.tokens[token]))
        return clients[token].ask(message)

    send = {"http": over_http, "websocket": over_websocket, "tcp": over_tcp}[request.param]

    def asked(token, method, **params):
        message = {"jsonrpc": "2.0", "id": 1, "method": f"taskd.{method}", "params": params}
        reply = send(token, message)
        return reply["result"] if "result" in reply else reason(reply)

    yield asked
    if request.param == "tcp":
        for client in clients.values():
            client.close()


def test_a_token_for_one_function_lists_runs_and_puts_back_that_alone(asking):
    assert [each["name"] for each in asking("few", "functions")] == ["greet"]
    assert {"greet", "other", "hello"} <= {each["name"] for each in asking("alice", "functions")}
    batch = {"function": "greet", "args": [{}]}
    assert asking("few", "submit_batch", **batch, then="other") == "function"
    assert asking("few", "submit", function="other") == "function"
    owned = {"options": {"owner": "token:few"}}
    task = asking("root", "submit", function="other", **owned)["task"]
    assert asking("few", "wait", task=task)["state"] == "failed"
    assert asking("few", "retry", task=task) == "function"
    assert asking("root", "retry", task=task) == {"was": "failed"}
    greeting = asking("few", "submit", function="greet", args={"name": ""})["task"]
    assert asking("few", "wait", task=greeting)["state"] == "failed"
    assert asking("few", "retry", task=greeting) == {"was": "failed"}


def test_a_fixed_argument_holds_for_followers_and_for_tasks_that_are_put_back(asking):
    batch = asking("7", "submit_batch", function="greet", args=[{}], then="ended")["batch"]
    assert asking("7", "wait", batch=batch)["state"] == "succeeded"
    then = asking("7", "get", batch=batch)["then"]["task"]
    assert asking("7", "wait", task=then)["result"] == [1, 0, 0, 1, 7]
    task = asking("7", "submit", function="other")["task"]
    assert asking("7", "wait", task=task)["error"]["message"].endswith("of tenant 7")
    assert asking("8", "retry", task=task) == "argument"
    assert asking("7", "retry", task=task) == {"was": "failed"}


def test_the_api_and_its_document_show_what_a_token_covers(gateway):
    for token, others in (("few", False), ("alice", True)):
        listed = [
            each["name"] for each in ask(gateway, "GET", "/api/v1/functions", token=token)[1]["functions"]
        ]
        assert (listed == ["greet"]) is not others
        text = json.dumps(ask(gateway, "GET", "/api/v1/openapi.json", token=token)[1])
        assert '"greet"' in text
        assert ('"other"' in text) is others
    batch = {"function": "greet", "args": [{}], "then": "other"}
    status, problem = ask(gateway, "POST", "/api/v1/batches", batch, "few")
    assert (status, problem["code"]) == (403, NOT_ALLOWED)


def test_http_requests_and_the_figures_need_tokens(gateway):
    message = rpc(1, "hello")
    assert ask(gateway, "POST", "/rpc", message)[0] == 401
    assert ask(gateway, "POST", "/rpc", message, "alice")[1]["result"] == "Hello, World!"
    assert ask(gateway, "GET", "/api/v1/status", token="alice")[0] == 403
    assert ask(gateway, "GET", "/api/v1/status", token="root")[0] == 200
    assert ask(gateway, "GET", "/metrics", token="bob")[0] == 403
    assert ask(gateway, "GET", "/readyz")[0] == 200


def test_a_token_that_is_revoked_closes_its_connections_at_once(gateway, open_websocket):
    page, other, client = open_websocket("gone"), open_websocket("bob"), gateway.connect()
    client.ask(rpc(1, "taskd.auth", token=gateway.tokens["gone"]))
    write(gateway.file, {name: token for name, token in gateway.tokens.items() if name != "gone"})
    gateway.process.send_signal(signal.SIGHUP)
    assert page.receive() == REFUSED
    assert reason(client.receive()) == "unknown"
    assert client.receive() is None
    client.close()
    assert other.ask(rpc(1, "hello"))["result"] == "Hello, World!"
    assert open_websocket("gone").receive() == REFUSED


# --- a gateway whose task server is elsewhere ---

UNREACHABLE = -32007


@pytest.fixture(params=["pooled", "per-message"])
def apart(request, tmp_path):
    """A gateway alone, and its task server (`server`), which believes nobody for where it comes from."""
    tokens = {name: new_token() for name in ("alice", "root", "plain")}
    write(tmp_path / "tokens.toml", tokens)
    (tmp_path / "shown").write_text(tokens["root"] + "\n")
    app = ("--app", str(APPS / "plain.py"), "--workers", "2", "--store", "memory", "--websocket", "none")
    alone = ("--listen", "none", "--link", request.param, "--task-server-token", "shown")
    with kept_daemon(*app, "--tokens", "tokens.toml", directory=tmp_path) as server:
        options = (*alone, "--task-server", server.tcp, "--tokens", "tokens.toml")
        with kept_daemon(*options, directory=tmp_path, ready="listening on") as daemon:
            daemon.server, daemon.tokens, daemon.directory = server, tokens, tmp_path
            yield daemon
        for each in server, daemon:
            assert not any(token in each.log for token in tokens.values())


def test_a_gateway_shows_its_task_server_a_token_and_speaks_for_its_callers(apart):
    page = WebSocket(apart, apart.tokens["alice"], port=1)
    assert page.ask(rpc(1, "hello"))["result"] == "Hello, World!"
    assert page.send({"function": "hello", "args": []}).receive_text() == b"task complete"
    task = page.ask(rpc(2, "taskd.submit", function="hello", args=[]))["result"]["task"]
    assert page.ask(rpc(3, "taskd.wait", task=task))["result"]["owner"] == "token:alice"
    assert page.ask(rpc(4, "taskd.attach", task=task))["result"]["state"] == "succeeded"
    while page.receive()["params"]["event"] != "succeeded":
        pass
    page.close()
    assert ask(apart, "GET", "/readyz", port=1)[0] == 200


def test_a_new_token_of_a_gateway_takes_the_place_of_one_that_was_revoked(apart):
    page = WebSocket(apart, apart.tokens["alice"], port=1)
    assert page.ask(rpc(1, "hello"))["result"] == "Hello, World!"
    tokens = apart.tokens | {"root": new_token(), "gate": new_token()}
    write(apart.directory / "tokens.toml", tokens)
    apart.server.process.send_signal(signal.SIGHUP)
    apart.server.wait_for_log("tokens read again: 4 tokens")
    while "result" in (reply := page.ask(rpc(2, "hello"))):
        pass  # the end of the kept connection has not arrived yet
    if reply["error"]["code"] != UNREACHABLE:  # it arrived just then
        reply = page.ask(rpc(2, "hello"))
    assert "the task server does not accept the gateway's token" in reply["error"]["message"]
    apart.wait_for_log("does not take the token of --task-server-token: this token is not known")
    (apart.directory / "shown").write_text(tokens["root"])
    apart.process.send_signal(signal.SIGHUP)
    apart.wait_for_log("the token of --task-server-token read again")
    assert page.ask(rpc(3, "hello"))["result"] == "Hello, World!"
    page.close()


def test_a_gateways_token_must_be_an_operators(apart):
    (apart.directory / "shown").write_text(apart.tokens["plain"])
    apart.process.send_signal(signal.SIGHUP)
    apart.wait_for_log("the token of --task-server-token read again")
    page = WebSocket(apart, apart.tokens["alice"], port=1)
    reply = page.ask(rpc(1, "hello"))
    assert reply["error"]["code"] == UNREACHABLE
    apart.wait_for_log("it has the role submit, and must have operate")
    page.close()


def test_a_file_of_tokens_on_a_disk_that_does_not_answer_holds_up_neither_calls_nor_a_stop(tmp_path):
    """A named pipe stands for the disk: to read it lasts until somebody has written into it."""
    tokens, path = {"alice": new_token()}, tmp_path / "tokens.toml"
    write(path, tokens)
    app = ("--app", str(APPS / "plain.py"), "--workers", "1", "--store", "memory", "--websocket", "none")
    with kept_daemon(*app, "--tokens", "tokens.toml", directory=tmp_path) as daemon:
        client: Connection = daemon.connect()
        client.ask(rpc(1, "taskd.auth", token=tokens["alice"]))
        path.unlink()
        os.mkfifo(path)
        daemon.process.send_signal(signal.SIGHUP)
        with path.open("wb") as disk:  # which waits until it is being read
            assert client.ask(rpc(2, "hello"))["result"] == "Hello, World!"
            disk.write(b"[tokens]\nalice = 3\n")
        daemon.wait_for_log("tokens are not read again: .*tokens.toml: token alice: this is a table")
        daemon.process.send_signal(signal.SIGHUP)
        with path.open("wb"):
            assert client.ask(rpc(3, "hello"))["result"] == "Hello, World!"
            daemon.stop()  # while it is being read
        client.close()


# --- at the edge ---


def responses(gateway, *requests):
    """Send requests on one connection, one after the other; return the statuses and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port(2), timeout=TIMEOUT)
    found = []
    for method, path, headers in requests:
        connection.putrequest(method, path)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        response.read()
        found.append((response.status, response.headers))
        if connection.sock is None:
            break
    connection.close()
    return found


@pytest.mark.parametrize("path", ["/", "/rpc", "/api/v1/tasks", "/api/v1/batches"])
def test_a_body_without_a_token_is_refused_at_the_head(gateway, path):
    for length in ({"Content-Length": "9000000"}, {"Content-Length": "1"}, {"Transfer-Encoding": "chunked"}):
        for more in ({}, {"Expect": "100-continue"}, {"Authorization": "Bearer taskd_wrong"}):
            [(status, headers)] = responses(gateway, ("POST", path, {**length, **more}))
            assert (status, headers["Connection"]) == (401, "close"), (length, more)


def test_a_long_message_needs_a_token_before_it(gateway, open_websocket):
    long = rpc(2, "add", "x" * 200_000, 1)
    client: Connection = gateway.connect()
    client.send(long)
    assert client.receive()["error"]["code"] == TOO_LARGE
    assert client.receive() is None
    client.close()
    client = gateway.connect()
    client.send(rpc(1, "taskd.auth", token=gateway.tokens["alice"]), long)
    assert client.receive()["result"]["owner"] == "token:alice"
    assert client.receive()["error"]["code"] == INVALID_PARAMS
    client.close()
    assert open_websocket().send(long).receive() == TOO_BIG
    page = open_websocket().send(rpc(1, "taskd.auth", token=gateway.tokens["alice"])).send(long)
    assert page.receive()["result"]["owner"] == "token:alice"
    assert page.receive()["error"]["code"] == INVALID_PARAMS


def test_a_message_is_inflated_up_to_the_limit_and_to_less_without_a_token(gateway):
    for token, size in ((None, 1_000_000), (gateway.tokens["alice"], 100_000_000)):
        page = WebSocket(gateway, token, "Sec-WebSocket-Extensions: permessage-deflate")
        page.socket.sendall(b"".join(compressed_frames(b"x" * size, 20, bits=15)))
        assert page.receive() == TOO_BIG
        page.close()


def test_a_connection_on_which_tokens_are_guessed_is_closed(gateway):
    client: Connection = gateway.connect()
    client.send(*(rpc(number, "taskd.auth", f"guess {number}") for number in range(3)))
    answers = [client.receive() for _ in range(4)]
    assert sorted(reason(each) for each in answers) == ["malformed"] * 3 + ["refused"]
    assert client.receive() is None
    client.close()
    guess = ("GET", "/api/v1/functions", {"Authorization": "Bearer taskd_wrong"})
    found = responses(gateway, guess, guess, guess, guess)
    assert [(status, headers["Connection"]) for status, headers in found] == [
        (401, None),
        (401, None),
        (401, "close"),
    ]


def test_the_rate_of_messages_holds_over_http(tmp_path):
    write(tmp_path / "tokens.toml", {"alice": (token := new_token())})
    options = ("--app", str(APPS / "plain.py"), "--tokens", "tokens.toml", "--message-rate", "2")
    with kept_daemon(*options, "--workers", "1", directory=tmp_path) as daemon:
        request = ("GET", "/api/v1/functions", {"Authorization": f"Bearer {token}"})
        found = responses(daemon, *[request] * 20)
        refused = [headers for status, headers in found if status == 429]
        assert len(found) == 20
        assert found[0][0] == 200
        assert {headers["Retry-After"] for headers in refused} == {"1"}
