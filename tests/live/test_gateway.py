"""The gateway: every websocket message gets its outcome, whatever the task servers do."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections import Counter

import pytest
import pytest_twisted

from tests.live.peers import bare, entered, in_thread, rpc, within
from tests.live.support import APPS, SOON, TIMEOUT, Daemon, lines_of

REMOTE_LINKS = ["per-message", "pooled"]
LINKS = [*REMOTE_LINKS, "local"]

NORMAL, GOING_AWAY, UNSUPPORTED_DATA, TOO_BIG = 1000, 1001, 1003, 1009
"""Close codes of RFC 6455, 7.4.1."""

MAX_IN_FLIGHT = 100
"""Messages of one websocket in flight at once."""


@pytest.fixture
def start(clean_start):
    return clean_start


@pytest.fixture(params=LINKS, scope="session")
def link(request):
    return request.param


@pytest.fixture(params=REMOTE_LINKS)
def remote_link(request):
    return request.param


@pytest.fixture
def gateway(start, remote_link):
    """Start a gateway without a task server of its own for these task servers; its URL is `ws`."""

    def start_one(*task_servers, options=()):
        servers = [part for server in task_servers for part in ("--task-server", server)]
        daemon = start("--listen", "none", "--link", remote_link, *servers, *options)
        daemon.ws_alone = f"ws://127.0.0.1:{daemon.port(1)}"
        return daemon

    return start_one


@pytest.fixture(scope="session")
def url(shared, link, tmp_path_factory):
    """The URL of a gateway for tests that only read it; with a local link it has its own task server."""
    directory = tmp_path_factory.mktemp(link)
    if link == "local":
        options = ("--app", str(APPS / "plain.py"), "--workers", "4")
        daemon = Daemon(*options, "--link", link, directory=directory).wait_until_ready()
        yield daemon.ws
    else:
        daemon = Daemon("--listen", "none", "--task-server", shared.tcp, "--link", link, directory=directory)
        yield f"ws://127.0.0.1:{daemon.port(1)}"
    daemon.stop()
    assert "Unhandled" not in daemon.log
    assert "a bug in taskd" not in daemon.log


def answered(message):
    message.answer("done")


def closing(message):
    message.close()


# --- messages and their replies ----------------------------------------------


@pytest_twisted.ensureDeferred
async def test_the_reply_to_a_bare_message_is_task_complete(url, websocket):
    ws = await websocket(url)
    assert await ws.send(bare("hello", {"name": "Ann"})).receive() == "task complete"


@pytest_twisted.ensureDeferred
async def test_the_reply_to_a_failed_bare_message_gives_the_reason(url, websocket):
    ws = await websocket(url)
    reply = await ws.send(bare("boom", {"message": "no paper"})).receive()
    assert reply.startswith("task failed: ")
    assert "no paper" in reply
    reply = await ws.send(bare("no_such_function")).receive()
    assert reply == "task failed: no such function: no_such_function"


@pytest_twisted.ensureDeferred
async def test_bare_replies_come_in_the_order_of_their_requests(url, websocket, gate):
    ws = await websocket(url)
    ws.send(gate.call(), bare("boom"), bare("hello"), bare("no_such_function"))
    await entered(gate)
    assert await ws.ask(rpc("taskd.ping", request_id="overtakes")) == {
        "jsonrpc": "2.0",
        "id": "overtakes",
        "result": "pong",
    }
    gate.release()
    replies = [await ws.receive() for _ in range(4)]
    assert [reply[:11] for reply in replies] == ["task comple", "task failed", "task comple", "task failed"]


@pytest_twisted.ensureDeferred
async def test_a_json_rpc_result_has_the_id_of_its_request(url, websocket):
    ws = await websocket(url)
    for request_id in (7, -7.5, "seven", "ไทย", 12345678901234567890123, None):
        message = json.dumps(rpc("add", [2, 3])).replace('"id": 1', f'"id": {json.dumps(request_id)}')
        assert await ws.ask(message) == {"jsonrpc": "2.0", "id": request_id, "result": 5}


@pytest_twisted.ensureDeferred
async def test_a_json_rpc_error_keeps_its_code_and_data(url, websocket):
    ws = await websocket(url)
    reply = await ws.ask(rpc("boom", {"message": "x"}, request_id="a"))
    assert (reply["jsonrpc"], reply["id"]) == ("2.0", "a")
    assert reply["error"]["code"] == -32000
    assert reply["error"]["data"]["type"] == "ValueError"
    assert reply["error"]["data"]["message"] == "x"
    reply = await ws.ask(rpc("add", {"a": "three"}))
    assert reply["error"]["code"] == -32602
    assert reply["error"]["data"]["argument"] == "a"


@pytest_twisted.ensureDeferred
async def test_json_rpc_replies_do_not_wait_for_slower_requests(url, websocket, gate):
    ws = await websocket(url)
    ws.send(gate.rpc("slow"), rpc("hello", request_id="fast"))
    assert (await ws.receive_json())["id"] == "fast"
    await entered(gate)
    gate.release("at last")
    assert await ws.receive_json() == {"jsonrpc": "2.0", "id": "slow", "result": "at last"}


@pytest_twisted.ensureDeferred
async def test_two_requests_with_the_same_id_are_both_answered(url, websocket):
    ws = await websocket(url)
    ws.send(rpc("echo", ["a"]), rpc("echo", ["b"]))
    replies = [await ws.receive_json(), await ws.receive_json()]
    assert sorted(reply["result"] for reply in replies) == ["a", "b"]


@pytest_twisted.ensureDeferred
async def test_a_batch_gets_one_reply_with_an_answer_to_each_of_its_requests(url, websocket):
    ws = await websocket(url)
    batch = [
        rpc("add", [1, 1], 1),
        rpc("boom", [], "two"),
        rpc("hello", None, None),
        5,
        rpc("taskd.ping", None, 3),
    ]
    replies = {json.dumps(reply["id"]): reply for reply in await ws.ask(batch)}
    assert replies.keys() == {"1", '"two"', "3", "null"}
    assert replies["1"]["result"] == 2
    assert replies['"two"']["error"]["code"] == -32000
    assert replies["3"]["result"] == "pong"
    assert replies["null"]["error"]["code"] == -32600


@pytest_twisted.ensureDeferred
async def test_an_empty_batch_is_an_error_and_one_of_notifications_gets_no_reply(url, websocket):
    ws = await websocket(url)
    assert (await ws.ask([]))["error"]["code"] == -32600
    ws.send([rpc("hello", None, None), rpc("boom", None, None)])
    assert await ws.ask(rpc("taskd.ping")) == {"jsonrpc": "2.0", "id": 1, "result": "pong"}
    assert ws.unread == 0


@pytest_twisted.ensureDeferred
async def test_a_notification_is_run_and_gets_no_reply(url, websocket, gate):
    ws = await websocket(url)
    ws.send(rpc("wait_for", [gate.path], None), rpc("no_such_function", None, None))
    await entered(gate)
    gate.release()
    assert (await ws.ask(rpc("hello", request_id=2)))["id"] == 2


@pytest_twisted.ensureDeferred
async def test_progress_is_pushed_before_the_result_under_the_id_of_the_request(url, websocket):
    ws = await websocket(url)
    ws.send(rpc("count", {"upto": 5}, "x", progress=True))
    messages = [await ws.receive_json()]
    while "result" not in messages[-1]:
        messages.append(await ws.receive_json())
    *progress, result = messages
    assert result == {"jsonrpc": "2.0", "id": "x", "result": 5}
    assert {message["method"] for message in progress} == {"taskd.progress"}
    assert not any("id" in message for message in progress)
    assert progress[-1]["params"] == {"id": "x", "done": 5, "total": 5, "message": "step 5"}


@pytest_twisted.ensureDeferred
async def test_progress_is_pushed_only_if_it_was_requested(url, websocket):
    ws = await websocket(url)
    assert (await ws.ask(rpc("count", {"upto": 5}, "x")))["result"] == 5
    ws.send(rpc("count", {"upto": 5}, None, progress=True))
    assert (await ws.ask(rpc("taskd.ping", request_id="y")))["id"] == "y"


@pytest_twisted.ensureDeferred
async def test_progress_of_a_bare_message_comes_before_its_task_complete(url, websocket):
    ws = await websocket(url)
    messages = [await ws.send(bare("count", {"upto": 3}, progress=True)).receive()]
    while messages[-1] != "task complete":
        messages.append(await ws.receive())
    last = json.loads(messages[-2])
    assert last["method"] == "taskd.progress"
    assert last["params"] == {"id": None, "done": 3, "total": 3, "message": "step 3"}


@pytest_twisted.ensureDeferred
async def test_a_message_that_is_not_a_request_is_answered_with_an_error_and_affects_nothing_else(
    url, websocket
):
    ws = await websocket(url)
    for message, code in [
        ("hello", -32700),
        ('{"jsonrpc":"2.0","id":1,"method":"hello"', -32700),
        ("null", -32600),
        ("{}", -32600),
        ('{"jsonrpc":"1.0","id":1,"method":"hello"}', -32600),
        (rpc("hello", None, 1, surprise=True), -32600),
    ]:
        reply = await ws.ask(message)
        assert reply["error"]["code"] == code, message
    assert (await ws.send({"function": 5}).receive()).startswith("task failed: ")
    assert (await ws.send(bare("hello", 5)).receive()).startswith("task failed: ")
    assert (await ws.send(bare("hello", None, surprise=1)).receive()).startswith("task failed: ")
    assert await ws.send(bare("hello")).receive() == "task complete"


@pytest_twisted.ensureDeferred
async def test_a_message_may_span_several_lines(url, websocket):
    ws = await websocket(url)
    message = rpc("echo", {"value": {"text": "line\nline\r\n", "list": [1, {}]}}, "pretty")
    for text in (json.dumps(message, indent=4), json.dumps(message, indent=4).replace("\n", "\r\n")):
        assert (await ws.ask(text))["result"] == {"text": "line\nline\r\n", "list": [1, {}]}
        assert (await ws.ask(f"[{text},\n{text}]"))[1]["result"]["list"] == [1, {}]
    assert await ws.send(json.dumps(bare("hello", {"name": "x"}), indent=4)).receive() == "task complete"


@pytest_twisted.ensureDeferred
async def test_text_in_any_script_passes_through_unchanged(url, websocket):
    ws = await websocket(url)
    text = 'ไม่สะดุด \u2028 \U0001f600 \x7f \\ " / \t'
    assert (await ws.ask(json.dumps(rpc("echo", [text]), ensure_ascii=False)))["result"] == text
    assert (await ws.ask(json.dumps(rpc("echo", [text]), ensure_ascii=True)))["result"] == text


@pytest_twisted.ensureDeferred
async def test_an_empty_message_affects_nothing(url, websocket):
    ws = await websocket(url)
    ws.send("", bare("hello"))
    replies = [await ws.receive()]
    if replies[-1] != "task complete":
        replies.append(await ws.receive())
    assert replies[-1] == "task complete"


@pytest_twisted.ensureDeferred
async def test_a_lost_worker_is_reported_to_its_caller_only(start, link, websocket, gate):
    daemon = start("--link", link, "--workers", "2").wait_until_ready()
    ws = await websocket(daemon.ws)
    ws.send(gate.rpc("held"))
    await entered(gate)
    reply = await ws.ask(rpc("vanish", {"status": 9}))
    assert reply["error"]["code"] == -32003
    assert reply["error"]["data"]["status"] == 9
    gate.release("fine")
    assert await ws.receive_json() == {"jsonrpc": "2.0", "id": "held", "result": "fine"}


# --- turns -------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_websockets_take_turns_whatever_callers_a_browser_names(start, link, websocket, gate, tmp_path):
    apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "misbehaving.py"))
    daemon = start(*apps, "--link", link, "--workers", "1").wait_until_ready()
    notes = str(tmp_path / "notes")
    flooding, other = await websocket(daemon.ws), await websocket(daemon.ws)
    flooding.send(gate.rpc("held"))
    await entered(gate)
    for number in range(20):
        flooding.send(rpc("note", [notes, f"flood {number}"], number, caller=f"192.0.2.{number} x"))
    await in_thread(daemon.wait_for_status, lambda status: status["waiting"] == 20)
    other.send(rpc("note", [notes, "other"]))
    status = await in_thread(daemon.wait_for_status, lambda status: status["waiting"] == 21)
    assert status["parties"] == [{"party": "127.0.0.1", "waiting": 21, "connections": 2}]
    gate.release()
    await other.receive_json()
    for _ in range(21):
        await flooding.receive_json()
    assert lines_of(tmp_path / "notes").index("other") <= 1


# --- what is refused ---------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_binary_message_is_refused_with_close_code_1003(url, websocket):
    ws = await websocket(url)
    ws.sendMessage(b'{"function":"hello"}', isBinary=True)
    code, _ = await within(ws.closed)
    assert code == UNSUPPORTED_DATA


@pytest_twisted.ensureDeferred
async def test_a_message_over_the_limit_is_refused_with_close_code_1009(shared, gateway, websocket):
    daemon = gateway(shared.tcp, options=("--max-message", "2000"))
    for fragment in (None, 100):
        ws = await websocket(daemon.ws_alone)
        ws.sendMessage(json.dumps(rpc("echo", ["x" * 2000])).encode(), fragmentSize=fragment)
        code, _ = await within(ws.closed)
        assert code == TOO_BIG
    ws = await websocket(daemon.ws_alone)
    assert (await ws.ask(rpc("echo", ["x" * 1500])))["result"] == "x" * 1500


@pytest_twisted.ensureDeferred
async def test_text_that_is_not_utf8_closes_no_other_websocket(url, websocket):
    bad, good = await websocket(url), await websocket(url)
    bad.sendMessage(b'"\xff"', isBinary=False)
    code, _ = await within(bad.closed)
    assert code == 1007
    assert await good.send(bare("hello")).receive() == "task complete"


@pytest_twisted.ensureDeferred
async def test_the_longest_allowed_message_reaches_the_task_server(start, link, websocket):
    limit = 2000  # with its LF, which a websocket message does not have
    daemon = start("--link", link, "--max-message", str(limit)).wait_until_ready()
    ws = await websocket(daemon.ws)
    for form in (
        '{"function":"echo","args":["%s"]}',
        '{"jsonrpc":"2.0","id":1,"method":"echo","params":["%s"]}',
    ):
        longest, with_room = (form % ("x" * (size - len(form) + 2)) for size in (limit - 1, limit - 400))
        assert len(longest) == limit - 1
        for message in (with_room, longest) if link == "local" else (with_room,):
            reply = await ws.send(message).receive()
            assert "error" not in reply, reply
            assert not reply.startswith("task failed"), reply
        if link != "local":  # a task server must learn whose it is
            reply = await ws.send(longest).receive()
            assert "leaves room for whose it is" in reply, reply


@pytest_twisted.ensureDeferred
async def test_a_message_near_the_limit_fails_no_call_of_another_websocket(start, link, websocket, gate):
    limit = 2000
    daemon = start("--link", link, "--max-message", str(limit)).wait_until_ready()
    small, large = await websocket(daemon.ws), await websocket(daemon.ws)
    small.send(gate.rpc("held"))
    await entered(gate)
    form = '{"function":"echo","args":["%s"]}'
    large.send(form % ("x" * (limit - len(form) + 1)))  # with its LF it is as long as it may be
    small.send(*[rpc("hello", request_id=number) for number in range(5)])
    replies = [await small.receive_json() for _ in range(5)]
    assert [reply.get("result") for reply in replies] == ["Hello, World!"] * 5
    gate.release("fine")
    assert await small.receive_json() == {"jsonrpc": "2.0", "id": "held", "result": "fine"}
    await large.receive()  # an answer of either kind


@pytest_twisted.ensureDeferred
async def test_a_result_may_be_as_long_as_the_configured_limit(start, link, websocket):
    size = 17 * 1024 * 1024
    daemon = start("--link", link, "--max-message", str(size + 1000)).wait_until_ready()
    ws = await websocket(daemon.ws)
    reply = await ws.ask(rpc("big", {"size": size}))
    assert len(reply.get("result", "")) == size, reply


# --- origins -----------------------------------------------------------------


def handshake(port, *headers):
    """Return the status and the text of the reply to a websocket handshake with these headers."""
    lines = [
        "GET /any/path HTTP/1.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        reply = b""
        while b"\r\n\r\n" not in reply and (piece := connection.recv(65536)):
            reply += piece
        status = int(reply.split(b" ", 2)[1])
        if status != 101:
            while piece := connection.recv(65536):
                reply += piece
        return status, reply.decode("latin-1")


@pytest.fixture(scope="session")
def guarded_port(shared, tmp_path_factory):
    """The port of a gateway with two allowed origins, reached as www.example.org:8080."""
    daemon = Daemon(
        "--listen", "none", "--task-server", shared.tcp,
        "--allow-origin", "https://*.friend.example", "--allow-origin", "http://exact.example:81",
        "--hostname", "www.example.org",
        directory=tmp_path_factory.mktemp("guarded"),
    )  # fmt: skip
    yield daemon.port(1)
    daemon.stop()
    assert "Unhandled" not in daemon.log


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "http://www.example.org:8080",
        "http://WWW.EXAMPLE.ORG:8080",
        "https://www.example.org:8080",
        "http://localhost",
        "http://localhost:3000",
        "https://127.0.0.1:9999",
        "http://127.3.2.1",
        "http://[::1]:5000",
        "https://app.friend.example",
        "https://a.b.friend.example",
        "http://exact.example:81",
    ],
)
def test_pages_of_the_same_host_of_this_machine_and_of_allowed_origins_may_connect(guarded_port, origin):
    headers = ["Host: www.example.org:8080", *([f"Origin: {origin}"] if origin else [])]
    status, reply = handshake(guarded_port, *headers)
    assert status == 101, reply


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://evil.example:8080",
        "http://www.example.org",
        "http://www.example.org:80",
        "http://www.example.org.evil.example:8080",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://evil.example/localhost",
        "http://localhost@evil.example",
        "https://friend.example",
        "http://app.friend.example",
        "https://app.friend.example.evil.example",
        "http://exact.example",
        "http://exact.example:8181",
    ],
)
def test_any_other_page_is_refused_with_403(guarded_port, origin):
    status, reply = handshake(guarded_port, "Host: www.example.org:8080", f"Origin: {origin}")
    assert status == 403, reply


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "file://",
        "nonsense",
        "http://",
        "http://[::1",
        "http://www.example.org:port",
        "\xff",
        "http://a b",
    ],
)
def test_an_invalid_origin_is_refused(guarded_port, origin):
    status, reply = handshake(guarded_port, "Host: www.example.org:8080", f"Origin: {origin}")
    assert status in (400, 403), reply


def test_a_request_with_two_origins_is_refused(guarded_port):
    origins = ["Origin: http://localhost", "Origin: http://evil.example"]
    for headers in (origins, origins[::-1]):
        assert handshake(guarded_port, "Host: www.example.org:8080", *headers)[0] in (400, 403)


def test_an_origin_without_a_port_has_the_default_port_of_its_scheme(guarded_port):
    assert handshake(guarded_port, "Host: www.example.org", "Origin: http://www.example.org")[0] == 101
    assert handshake(guarded_port, "Host: www.example.org:443", "Origin: https://www.example.org")[0] == 101
    assert handshake(guarded_port, "Host: www.example.org:8080", "Origin: https://www.example.org")[0] == 403


def test_a_refusal_names_the_option_that_would_allow_the_page(guarded_port):
    _, reply = handshake(guarded_port, "Host: www.example.org:8080", "Origin: http://evil.example")
    assert "--allow-origin" in reply


@pytest_twisted.ensureDeferred
async def test_an_allowed_page_is_served(guarded_port, websocket):
    ws = await websocket(f"ws://127.0.0.1:{guarded_port}/chat?room=1", origin="https://app.friend.example")
    assert await ws.send(bare("hello")).receive() == "task complete"


# --- task servers that are away ----------------------------------------------


async def assert_all_answered(ws, *, sent=None):
    """Check that every kind of message is answered with the error that there is no task server."""
    reply = await ws.send(bare("hello")).receive()
    assert reply.startswith("task failed: "), reply
    reply = await ws.ask(rpc("hello", request_id="a"))
    assert reply["id"] == "a"
    assert reply["error"]["code"] == -32007, reply
    if sent is not None:
        assert reply["error"]["data"]["sent"] is sent
    replies = await ws.ask([rpc("hello", None, 1), rpc("hello", None, 2), rpc("hello", None, None)])
    assert sorted(reply["id"] for reply in replies) == [1, 2]
    assert {reply["error"]["code"] for reply in replies} == {-32007}


@pytest_twisted.ensureDeferred
async def test_every_message_is_answered_while_the_task_server_is_down(gateway, refusing, websocket):
    ws = await websocket(gateway(refusing).ws_alone)
    await assert_all_answered(ws, sent=False)
    reply = await ws.send(bare("hello")).receive()
    assert refusing in reply, "it says which server it is"


@pytest_twisted.ensureDeferred
async def test_every_message_is_answered_when_the_task_server_disconnects(gateway, fake, websocket):
    ws = await websocket(gateway(fake(closing).endpoint).ws_alone)
    await assert_all_answered(ws, sent=True)


@pytest_twisted.ensureDeferred
async def test_every_message_is_answered_when_the_task_server_sends_nonsense(gateway, fake, websocket):
    server = fake(lambda message: message.connection.sendLine(b"SSH-2.0-OpenSSH_9.2"))
    ws = await websocket(gateway(server.endpoint).ws_alone)
    await assert_all_answered(ws)


@pytest_twisted.ensureDeferred
async def test_a_task_server_that_is_back_is_used_again(gateway, fake, websocket):
    server = fake(closing)
    ws = await websocket(gateway(server.endpoint).ws_alone)
    assert (await ws.send(bare("hello")).receive()).startswith("task failed: ")
    server.behave = answered
    assert await ws.send(bare("hello")).receive() == "task complete"


@pytest_twisted.ensureDeferred
async def test_calls_in_flight_are_answered_when_the_task_server_is_killed(
    start, gateway, websocket, make_gate
):
    server = start(
        "--websocket", "none", "--app", str(APPS / "plain.py"), "--workers", "2"
    ).wait_until_ready()
    ws = await websocket(gateway(server.tcp).ws_alone)
    gates = [make_gate(), make_gate()]
    ws.send(gates[0].call(), gates[1].rpc("b"), *[rpc("hello", None, number) for number in range(20)])
    for gate in gates:
        await entered(gate)
    await in_thread(server.wait_for_status, lambda status: status["waiting"] == 20)
    await in_thread(server.stop, signal.SIGKILL)
    replies = [await ws.receive() for _ in range(22)]
    assert sum(reply.startswith("task failed: ") for reply in replies) == 1
    failed = [json.loads(reply) for reply in replies if reply.startswith("{")]
    assert {reply["error"]["code"] for reply in failed} == {-32007}
    assert {reply["error"]["data"]["sent"] for reply in failed} == {True}
    assert Counter(str(reply["id"]) for reply in failed) == Counter(["b", *map(str, range(20))])


# --- several task servers ----------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_the_least_busy_of_two_task_servers_gets_the_next_call(gateway, fake, websocket):
    first, second = fake(), fake()
    ws = await websocket(gateway(first.endpoint, second.endpoint).ws_alone)
    for number in range(10):
        ws.send(rpc("held", None, number))
    for _ in range(5):
        await first.received()
        await second.received()
    assert len(first.messages) == len(second.messages) == 5
    for message in first.messages:
        message.answer()
    for _ in range(5):
        await ws.receive()
    for number in range(10, 15):
        ws.send(rpc("held", None, number))
    for _ in range(5):
        await first.received()
    assert len(second.messages) == 5


@pytest_twisted.ensureDeferred
async def test_a_call_refused_by_one_task_server_is_sent_to_the_other(gateway, refusing, fake, websocket):
    server = fake(answered)
    ws = await websocket(gateway(refusing, server.endpoint).ws_alone)
    assert await ws.send(bare("hello")).receive() == "task complete"
    assert (await ws.ask(rpc("hello")))["result"] == "done"
    assert len(server.messages) == 2


@pytest_twisted.ensureDeferred
async def test_calls_go_to_the_other_task_server_while_one_is_stopped(gateway, fake, websocket):
    first, second = fake(answered), fake(answered)
    daemon = gateway(first.endpoint, second.endpoint)
    ws = await websocket(daemon.ws_alone)
    assert await ws.send(bare("hello")).receive() == "task complete"
    await first.close()
    for number in range(30):
        reply = await ws.ask(rpc("hello", None, number))
        # A call sent over a connection as it closed may fail; it must not be sent again.
        assert "result" in reply or (number == 0 and reply["error"]["data"]["sent"]), reply
    tries = daemon.log.count(f"{first.endpoint} cannot be reached") + daemon.log.count(
        f"{first.endpoint} was lost"
    )
    assert tries <= 3, "it was tried for each call, or nearly"


@pytest_twisted.ensureDeferred
async def test_no_later_call_fails_after_a_real_task_server_has_stopped(shared, start, gateway, websocket):
    other = start("--websocket", "none", "--app", str(APPS / "plain.py"), "--workers", "2").wait_until_ready()
    ws = await websocket(gateway(other.tcp, shared.tcp).ws_alone)
    assert await ws.send(bare("hello")).receive() == "task complete"
    await in_thread(other.stop)
    ws.send(*[bare("hello") for _ in range(20)])
    assert [await ws.receive() for _ in range(20)] == ["task complete"] * 20


@pytest_twisted.ensureDeferred
async def test_a_request_that_was_sent_is_never_sent_again(gateway, fake, websocket):
    servers = [fake(closing), fake(closing)]
    ws = await websocket(gateway(*[server.endpoint for server in servers]).ws_alone)
    reply = await ws.send(bare("hello", {"name": "once"})).receive()
    assert reply.startswith("task failed: ")
    reply = await ws.ask(rpc("hello", {"name": "once more"}))
    assert reply["error"]["data"]["sent"] is True
    assert len(servers[0].messages) + len(servers[1].messages) == 2


@pytest_twisted.ensureDeferred
async def test_a_call_that_failed_at_one_task_server_is_not_sent_to_another(gateway, fake, websocket):
    first = fake(lambda message: message.fail(-32000, "ValueError: no", {"type": "ValueError"}))
    second = fake(lambda message: message.fail(-32000, "ValueError: no", {"type": "ValueError"}))
    ws = await websocket(gateway(first.endpoint, second.endpoint).ws_alone)
    assert await ws.send(bare("hello")).receive() == "task failed: ValueError: no"
    assert len(first.messages) + len(second.messages) == 1


# --- limits ------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_messages_past_a_hundred_in_flight_are_throttled_and_none_is_lost(gateway, fake, websocket):
    server = fake(lambda message: answered(message) if message.function == "quick" else None)
    daemon = gateway(server.endpoint)
    ws, other = await websocket(daemon.ws_alone), await websocket(daemon.ws_alone)
    ws.send(*[rpc("held", {"number": number}, number) for number in range(250)])
    for _ in range(MAX_IN_FLIGHT):
        await server.received()
    assert (await other.ask(rpc("quick")))["result"] == "done"
    await server.received()
    held = [message for message in server.messages if message.function == "held"]
    assert len(held) == MAX_IN_FLIGHT
    for number in range(250):
        held[number].answer(held[number].content["params"]["number"])
        if len(held) < 250:
            held.append(await server.received())
    replies = [await ws.receive_json() for _ in range(250)]
    assert {reply["id"]: reply["result"] for reply in replies} == {number: number for number in range(250)}
    assert len(replies) == len({reply["id"] for reply in replies})


@pytest_twisted.ensureDeferred
async def test_notifications_are_in_flight_until_they_are_answered(start, fake, websocket, remote_link):
    server = fake(lambda message: answered(message) if message.function == "quick" else None)
    daemon = start("--listen", "none", "--link", remote_link, "--task-server", server.endpoint)
    url = f"ws://127.0.0.1:{daemon.port(1)}"
    ws, other = await websocket(url), await websocket(url)
    notification = {"jsonrpc": "2.0", "method": "held"}
    ws.send(*[json.dumps(notification)] * (MAX_IN_FLIGHT + 1))
    for _ in range(MAX_IN_FLIGHT):
        await server.received()
    assert (await other.ask(rpc("quick")))["result"] == "done"
    await server.received()
    assert [message.function for message in server.messages].count("held") == MAX_IN_FLIGHT
    server.messages[0].answer("whatever")
    assert (await server.received()).function == "held"


@pytest_twisted.ensureDeferred
async def test_many_messages_at_once_are_all_answered(url, websocket):
    ws = await websocket(url)
    ws.send(
        *[bare("echo", [number]) for number in range(150)],
        *[rpc("echo", [number], number) for number in range(350)],
    )
    replies = [await ws.receive() for _ in range(500)]
    assert replies.count("task complete") == 150
    results = [json.loads(reply) for reply in replies if reply != "task complete"]
    assert sorted(reply["result"] for reply in results) == list(range(350))
    assert all(reply["id"] == reply["result"] for reply in results)


@pytest_twisted.ensureDeferred
async def test_one_websocket_that_is_throttled_does_not_throttle_another(url, websocket, make_gate):
    greedy, modest = await websocket(url), await websocket(url)
    gate = make_gate()
    greedy.send(gate.rpc("held"), *[rpc("hello", None, number) for number in range(300)])
    await entered(gate)
    assert await modest.send(bare("hello")).receive() == "task complete"
    gate.release()
    assert len({json.dumps((await greedy.receive_json())["id"]) for _ in range(301)}) == 301


# --- websockets that go ------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_lost_websocket_closes_the_connections_of_messages_that_end_with_it(start, fake, websocket):
    server = fake()
    daemon = start("--listen", "none", "--task-server", server.endpoint)
    stays = await websocket(f"ws://127.0.0.1:{daemon.port(1)}")
    stays.send(rpc("held", None, "stays"))
    kept = await server.received()
    for leave in (lambda ws: ws.go(), lambda ws: ws.sendClose(NORMAL)):
        ws = await websocket(f"ws://127.0.0.1:{daemon.port(1)}")
        ws.send(*[bare("held", [number], on_disconnect="cancel") for number in range(5)])
        mine = {(await server.received()).connection for _ in range(5)}
        leave(ws)
        assert {await server.lost() for _ in range(5)} == mine
    kept.answer("still here")
    assert (await stays.receive_json())["result"] == "still here"


@pytest_twisted.ensureDeferred
async def test_the_outcomes_of_a_lost_websockets_messages_are_awaited(start, fake, websocket):
    server = fake()
    daemon = start("--listen", "none", "--task-server", server.endpoint)
    ws = await websocket(f"ws://127.0.0.1:{daemon.port(1)}")
    ws.send(bare("held"), rpc("held"))
    held = [await server.received() for _ in range(2)]
    ws.go()
    await within(ws.closed)
    for message in held:
        message.fail(-32000, "ValueError: no paper")
        assert await server.lost() is message.connection
    daemon.wait_for_log(r"unanswered failure of held \(task failed\): ValueError: no paper")


@pytest_twisted.ensureDeferred
async def test_a_lost_websocket_fails_no_call_of_another_on_a_pooled_link(start, fake, websocket):
    server = fake()
    daemon = start("--listen", "none", "--link", "pooled", "--task-server", server.endpoint)
    url = f"ws://127.0.0.1:{daemon.port(1)}"
    goes, stays = await websocket(url), await websocket(url)
    goes.send(rpc("held", None, 1))
    first = await server.received()
    stays.send(rpc("held", None, 1))
    second = await server.received()
    goes.go()
    await within(goes.closed)
    first.answer("too late")
    second.answer("in time")
    assert await stays.receive_json() == {"jsonrpc": "2.0", "id": 1, "result": "in time"}


@pytest_twisted.ensureDeferred
async def test_the_connection_of_a_message_is_closed_once_its_result_has_arrived(start, fake, websocket):
    server = fake(answered)
    daemon = start("--listen", "none", "--task-server", server.endpoint)
    ws = await websocket(f"ws://127.0.0.1:{daemon.port(1)}")
    for _ in range(3):
        assert await ws.send(bare("hello")).receive() == "task complete"
        message = await server.received()
        assert await server.lost() is message.connection
    assert server.most_open == 1


@pytest_twisted.ensureDeferred
async def test_tasks_of_a_lost_websocket_are_run_to_their_end(url, websocket, gate):
    ws = await websocket(url)
    ws.send(gate.call())
    await entered(gate)
    ws.go()
    await within(ws.closed)
    other = await websocket(url)

    async def count_done():
        status = (await other.ask(rpc("taskd.status")))["result"]
        return {each["name"]: each["done"] for each in status["functions"]}.get("wait_for", 0)

    before = await count_done()
    gate.release()
    ending = time.monotonic() + TIMEOUT
    while await count_done() == before:
        assert time.monotonic() < ending


# --- the end -----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_at_sigterm_messages_are_answered_and_websockets_closed_with_1001(start, link, websocket, gate):
    daemon = start("--link", link, "--workers", "2").wait_until_ready()
    busy, idle = await websocket(daemon.ws), await websocket(daemon.ws)
    busy.send(gate.call(), gate.rpc(1, "taskd.ping") | {"params": []})
    assert (await busy.receive_json())["result"] == "pong"
    await entered(gate)
    daemon.process.send_signal(signal.SIGTERM)
    await in_thread(daemon.wait_for_log, r"Port \d+ Closed", 2)
    reply = await busy.ask(rpc("hello", request_id="late"))
    assert (reply["id"], reply["error"]["code"]) == ("late", -32005)
    gate.release()
    assert await busy.receive() == "task complete"
    for ws in (busy, idle):
        code, _ = await within(ws.closed)
        assert code == GOING_AWAY
    assert await in_thread(daemon.process.wait, TIMEOUT) == -signal.SIGTERM


@pytest_twisted.ensureDeferred
async def test_at_sigterm_a_gateway_alone_closes_its_websockets_with_1001(gateway, fake, websocket):
    server = fake()
    daemon = gateway(server.endpoint)
    busy, idle = await websocket(daemon.ws_alone), await websocket(daemon.ws_alone)
    busy.send(bare("held"))
    held = await server.received()
    daemon.process.send_signal(signal.SIGTERM)
    await in_thread(daemon.wait_for_log, r"Port \d+ Closed")
    held.answer()
    assert await busy.receive() == "task complete"
    for ws in (busy, idle):
        code, _ = await within(ws.closed)
        assert code == GOING_AWAY
    assert await in_thread(daemon.process.wait, TIMEOUT) == -signal.SIGTERM


@pytest_twisted.ensureDeferred
async def test_at_sigterm_a_task_server_that_never_answers_does_not_delay_the_gateway(
    gateway, fake, websocket
):
    server = fake()
    daemon = gateway(server.endpoint, options=("--stop-timeout", "0.2"))
    ws = await websocket(daemon.ws_alone)
    ws.send(bare("held"), *[rpc("held", None, number) for number in range(150)])
    for _ in range(MAX_IN_FLIGHT):
        await server.received()
    daemon.process.send_signal(signal.SIGTERM)
    replies = [await ws.receive() for _ in range(151)]
    assert sum(reply.startswith("task failed: ") for reply in replies) == 1
    failed = [json.loads(reply) for reply in replies if reply.startswith("{")]
    assert {reply["error"]["code"] for reply in failed} == {-32005}
    assert {reply["id"] for reply in failed} == set(range(150))
    code, _ = await within(ws.closed)
    assert code == GOING_AWAY
    assert await in_thread(daemon.process.wait, TIMEOUT) == -signal.SIGTERM


@pytest_twisted.ensureDeferred
async def test_at_sigterm_a_websocket_that_does_not_read_delays_the_daemon_only_briefly(start, websocket):
    daemon = start("--workers", "1").wait_until_ready()
    ws = await websocket(daemon.ws)
    ws.transport.pauseProducing()
    ws.send(*[rpc("big", {"size": 8 * 1024 * 1024}, number) for number in range(4)])
    await in_thread(daemon.wait_for_status, lambda status: "big" in str(status["functions"]))
    daemon.process.send_signal(signal.SIGTERM)
    assert await in_thread(daemon.process.wait, TIMEOUT) == -signal.SIGTERM


def test_a_websocket_that_was_opened_with_much_behind_its_handshake_is_read(guarded_port):
    head = (
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", guarded_port), SOON) as connection:
        connection.sendall(head.encode() + b"x" * 40_000)  # so much makes the HTTP channel pause
        connection.recv(65536)
        connection.sendall(b"x" * 100)
        while connection.recv(65536):  # no frame begins with an x: it closes the websocket
            pass
