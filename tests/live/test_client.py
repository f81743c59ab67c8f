"""`TaskClient` over each of its links: behaviour beyond the contract of all clients in tests/contracts."""

from __future__ import annotations

import json
import signal

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from taskd import errors
from taskd.client import TaskClient
from taskd.errors import (
    ShuttingDown,
    TaskdError,
    TaskFailed,
    TooLarge,
    Unreachable,
    WaitTimeout,
    WorkerLost,
)
from tests.live.peers import entered, in_thread, within
from tests.live.support import TIMEOUT

CODES = {
    "ParseError": -32700,
    "InvalidRequest": -32600,
    "MethodNotFound": -32601,
    "InvalidParams": -32602,
    "InternalError": -32603,
    "TaskFailed": -32000,
    "TimedOut": -32001,
    "Cancelled": -32002,
    "WorkerLost": -32003,
    "Busy": -32004,
    "ShuttingDown": -32005,
    "TooLarge": -32006,
    "Unreachable": -32007,
}
"""The table of errors in the protocol, and the client's own."""

SHORT = 0.05
"""Seconds for a wait that is meant to time out."""


@pytest.fixture
def start(clean_start):
    return clean_start


@pytest.fixture(params=["per-call", "pooled", "websocket"])
def kind(request):
    return request.param


@pytest.fixture
def client_of(kind, make_client):
    """Make a client of a daemon, over each kind of link."""

    def make(daemon):
        return make_client(daemon.ws) if kind == "websocket" else make_client(daemon.tcp, link=kind)

    return make


@pytest.fixture(params=["per-call", "pooled"])
def link(request):
    return request.param


@pytest.fixture
def client(client_of, shared):
    return client_of(shared)


@pytest.fixture(params=["per-call", "pooled"])
def fake_client(request, fake, make_client):
    """Start a fake task server, and return it with a client of it."""

    def make(*behaviour):
        server = fake(*behaviour)
        return server, make_client(server.endpoint, link=request.param)

    return make


async def failure(deferred, kind=TaskdError):
    """Wait for the call to fail, and return its exception."""
    with pytest.raises(kind) as caught:
        await within(deferred)
    assert type(caught.value) is kind or kind is TaskdError, caught.value
    return caught.value


def failure_of(deferred):
    """Return a Deferred of the exception that the call fails with."""
    return deferred.addCallbacks(
        lambda result: pytest.fail(f"a result: {result!r}"), lambda failed: failed.value
    )


# --- results -----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_concurrent_calls_each_get_their_own_result(client):
    calls = [client.call("add", a=number, b=1000) for number in range(200)]
    assert await within(gatherResults(calls)) == list(range(1000, 1200))


@pytest_twisted.ensureDeferred
async def test_a_quick_call_does_not_wait_for_a_slow_one(client, gate):
    slow = client.call("wait_for", path=gate.path)
    await entered(gate)
    assert await within(client.call("hello")) == "Hello, World!"
    gate.release("done")
    assert await within(slow) == "done"


@pytest_twisted.ensureDeferred
async def test_two_thousand_calls_at_once_on_a_pooled_link_are_all_answered(shared, make_client):
    client = make_client(shared.tcp, link="pooled")
    calls = [client.call("echo", value=number) for number in range(2000)]
    assert await within(gatherResults(calls), TIMEOUT) == list(range(2000))


@pytest_twisted.ensureDeferred
async def test_a_pooled_link_keeps_few_connections_and_uses_them_again(fake, make_client):
    server = fake(lambda message: message.answer(message.content["params"]["number"]))
    client = make_client(server.endpoint, link="pooled")
    for _ in range(3):
        calls = [client.call("f", number=number) for number in range(2000)]
        assert await within(gatherResults(calls), TIMEOUT) == list(range(2000))
    assert len(server.connections) <= 4


@pytest_twisted.ensureDeferred
async def test_a_per_call_link_opens_a_connection_for_each_call_and_closes_it(fake, make_client):
    server = fake(lambda message: message.answer("done"))
    client = make_client(server.endpoint)
    for number in range(3):
        assert await within(client.call("f")) == "done"
        assert await server.lost() is server.connections[number]
    assert len(server.connections) == 3


@pytest_twisted.ensureDeferred
async def test_unix_sockets_work(start, tmp_path_factory, make_client):
    path = tmp_path_factory.mktemp("u") / "s"
    daemon = start("--listen", f"unix:{path}", "--workers", "1").wait_until_ready()
    for link in ("per-call", "pooled"):
        client = make_client(f"unix:{path}", link=link)
        assert await within(client.call("hello", name=link)) == f"Hello, {link}!"
    client = make_client(f"ws://127.0.0.1:{daemon.port(1)}")
    assert await within(client.call("hello", name="gateway")) == "Hello, gateway!"


# --- progress ----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_progress_goes_to_the_call_whose_task_reports_it(client):
    reports = {number: [] for number in range(3, 9)}
    calls = [
        client.with_options(on_progress=told.append).call("count", upto=upto)
        for upto, told in reports.items()
    ]
    assert await within(gatherResults(calls)) == list(reports)
    for upto, told in reports.items():
        assert {report.total for report in told} == {upto}
        assert told[-1].done == upto


# --- errors ------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_worker_that_dies_is_lost_with_its_status_or_signal(daemon, client_of):
    client = client_of(daemon)
    error = await failure(client.call("vanish", status=9), WorkerLost)
    assert error.data["status"] == 9
    error = await failure(client.call("die", number=signal.SIGSEGV), WorkerLost)
    assert error.data["signal"] == "SIGSEGV"
    assert await within(client.call("hello")) == "Hello, World!"


@pytest_twisted.ensureDeferred
async def test_a_result_over_the_limit_is_too_large(start, client_of):
    client = client_of(start("--workers", "1", "--max-message", "5000"))
    error = await failure(client.call("big", size=6000), TooLarge)
    assert error.data["limit"] == 5000
    assert await within(client.call("big", size=4000)) == "x" * 4000


@pytest_twisted.ensureDeferred
async def test_a_call_to_a_server_that_is_stopping_fails(start, client_of, gate):
    daemon = start("--workers", "1").wait_until_ready()
    client = client_of(daemon)
    held = client.call("wait_for", path=gate.path)
    await entered(gate)
    daemon.process.send_signal(signal.SIGTERM)
    await in_thread(daemon.wait_for_log, r"Port \d+ Closed", 2)
    error = await failure(client.call("hello"))
    # A new connection is refused; an open one receives the reason.
    assert type(error) in (ShuttingDown, Unreachable), error
    gate.release("done all the same")
    assert await within(held) == "done all the same"


@pytest.mark.parametrize("name", CODES)
@pytest_twisted.ensureDeferred
async def test_every_code_has_its_exception(fake_client, name):
    _, client = fake_client(lambda message: message.fail(CODES[name], "so it is", {"more": [1]}))
    error = await failure(client.call("f"), getattr(errors, name))
    assert isinstance(error, TaskdError)
    assert (error.code, error.message, str(error), error.data) == (
        CODES[name],
        "so it is",
        "so it is",
        {"more": [1]},
    )


@pytest_twisted.ensureDeferred
async def test_an_unknown_error_code_is_kept(fake_client):
    _, client = fake_client(lambda message: message.fail(-1, "foreign", "a text"))
    error = await failure(client.call("f"))
    assert (type(error), error.code, error.message) == (TaskdError, -1, "foreign")
    assert TaskdError.code == -32603, "the class is as it was"


@pytest.mark.parametrize(
    ("server", "more"),
    [
        ("", {}),
        ("nonsense", {}),
        ("tcp:", {}),
        ("tcp:localhost", {}),
        ("tcp:localhost:port", {}),
        ("tls:localhost", {}),
        ("tls:localhost:1:trustRoots=/no/such/file", {}),
        ("redis://localhost:8080", {}),
        ("ws:/localhost", {}),
        ("ws://", {}),
        ("ws://localhost:port", {}),
        ("tcp:localhost:1", {"link": "sometimes"}),
    ],
)
def test_an_address_that_is_not_valid_is_a_value_error_at_once(server, more):
    from twisted.internet import reactor

    with pytest.raises(ValueError, match=r"."):
        TaskClient(reactor, server, **more)


# --- servers that are away ---------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_without_a_listening_server_a_call_fails_as_unreachable_and_unsent(refusing, kind, make_client):
    if kind == "websocket":
        address = "ws://127.0.0.1:" + refusing.rpartition(":")[2]
        client = make_client(address)
    else:
        address = refusing
        client = make_client(address, link=kind)
    for _ in range(2):
        error = await failure(client.call("hello"), Unreachable)
        assert error.data == {"server": address, "sent": False}
        assert address in error.message
    failed = [failure_of(client.call("hello")) for _ in range(20)]
    assert {type(error) for error in await within(gatherResults(failed))} == {Unreachable}


@pytest_twisted.ensureDeferred
async def test_a_missing_unix_socket_is_unreachable(tmp_path, make_client):
    error = await failure(make_client(f"unix:{tmp_path}/none").call("hello"), Unreachable)
    assert error.data["sent"] is False


@pytest_twisted.ensureDeferred
async def test_a_call_fails_as_unreachable_but_sent_when_its_server_disconnects(fake_client):
    server, client = fake_client(lambda message: message.close())
    error = await failure(client.call("hello"), Unreachable)
    assert error.data == {"server": server.endpoint, "sent": True}
    assert len(server.messages) == 1, "it is not sent again"


@pytest_twisted.ensureDeferred
async def test_the_next_call_reconnects_after_a_server_disconnected(fake_client):
    server, client = fake_client(lambda message: message.close())
    await failure(client.call("hello"), Unreachable)
    server.behave = lambda message: message.answer("back")
    assert await within(client.call("hello")) == "back"


@pytest_twisted.ensureDeferred
async def test_a_reply_in_pieces_or_with_blank_lines_is_read(fake_client):
    def in_pieces(message):
        text = b'\r\n\n{"jsonrpc":"2.0","id":%d,"result":"whole"}\r\n' % message.content["id"]
        for number in range(len(text)):
            message.connection.transport.write(text[number : number + 1])

    _, client = fake_client(in_pieces)
    assert await within(client.call("f")) == "whole"


@pytest_twisted.ensureDeferred
async def test_a_silent_connection_is_pinged_while_a_reply_is_awaited(fake, make_client):
    servers = [fake(), fake()]
    clients = [
        make_client(server.endpoint, link=link)
        for server, link in zip(servers, ("per-call", "pooled"), strict=True)
    ]
    calls = [client.call("held") for client in clients]
    for server, call in zip(servers, calls, strict=True):
        held = await server.received()
        ping = await server.received()
        assert ping.function == "taskd.ping"
        ping.answer("pong")
        held.answer("done")
        assert await within(call) == "done"


@pytest_twisted.ensureDeferred
async def test_events_go_on_after_their_last_one_over_another_connection(fake, make_client):
    def push(message, seq, event):
        params = {"task": "a", "seq": seq, "event": event, "at": 1.0}
        line = json.dumps({"jsonrpc": "2.0", "method": "taskd.event", "params": params})
        message.connection.sendLine(line.encode())

    def behave(message):
        message.answer({"state": "running", "seq": 1})
        if message.content["params"]["after"] == 0:
            push(message, 1, "started")
            message.close()
        else:
            push(message, 1, "started")
            push(message, 2, "succeeded")

    server = fake(behave)
    client = make_client(server.endpoint)

    async def collect():
        return [(event.seq, event.event) async for event in client.task("a").events()]

    found = await within(Deferred.fromCoroutine(collect()))
    assert found == [(1, "started"), (2, "succeeded")]
    assert [message.content["params"]["after"] for message in server.messages] == [0, 1]


# --- the end of a wait -------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_call_fails_when_its_timeout_is_over(client, gate):
    error = await failure(client.with_options(wait=SHORT).call("wait_for", path=gate.path), WaitTimeout)
    assert isinstance(error, TimeoutError)
    assert error.data == {"seconds": SHORT}
    assert "wait_for" in error.message
    assert await within(client.call("hello")) == "Hello, World!"


@pytest_twisted.ensureDeferred
async def test_a_timeout_that_is_not_reached_changes_nothing(client):
    assert await client.with_options(wait=TIMEOUT).call("hello") == "Hello, World!"
    await failure(client.with_options(wait=TIMEOUT).call("boom"), TaskFailed)


@pytest_twisted.ensureDeferred
async def test_cancelling_a_call_ends_it_and_affects_no_other_call(client, gate):
    held = client.call("wait_for", path=gate.path)
    await entered(gate)
    other = client.call("add", a=1)
    held.cancel()
    with pytest.raises(CancelledError):
        await within(held)
    assert await within(other) == 2
    gate.release()
    assert await within(client.call("hello")) == "Hello, World!"


@pytest_twisted.ensureDeferred
async def test_a_call_cancelled_or_timed_out_closes_a_connection_of_its_own(fake, make_client):
    server = fake()
    client = make_client(server.endpoint)
    call = client.call("held")
    message = await server.received()
    call.cancel()
    with pytest.raises(CancelledError):
        await within(call)
    assert (await server.received()).function == "taskd.cancel"
    assert await server.lost() is message.connection
    await failure(client.with_options(wait=SHORT).call("held"), WaitTimeout)
    message = await server.received()
    assert await server.lost() is message.connection


@pytest_twisted.ensureDeferred
async def test_cancelling_leaves_a_pooled_connection_open(fake, make_client):
    server = fake()
    client = make_client(server.endpoint, link="pooled")
    call, other = client.call("held"), client.call("held")
    first, second = await server.received(), await server.received()
    call.cancel()
    with pytest.raises(CancelledError):
        await within(call)
    first.answer("too late")
    second.answer("in time")
    assert await within(other) == "in time"
    assert len(server.connections) == server.open_connections == 1


@pytest_twisted.ensureDeferred
async def test_a_call_cancelled_before_it_is_connected_is_not_sent(silent, make_client, link):
    client = make_client(silent, link=link)
    call = client.call("cancelled")
    call.cancel()
    with pytest.raises(CancelledError):
        await within(call)
    failed = [failure_of(client.with_options(wait=SHORT).call("too late")), failure_of(client.call("closed"))]
    assert type(await within(failed[0])) is WaitTimeout
    client.close()
    assert type(await within(failed[1])) is Unreachable


@pytest_twisted.ensureDeferred
async def test_a_connection_attempt_without_an_answer_times_out(silent, make_client, link):
    error = await failure(make_client(silent, link=link).call("f"), Unreachable)
    assert error.data == {"server": silent, "sent": False}
    assert error.message.endswith("User timeout caused connection failure")


@pytest_twisted.ensureDeferred
async def test_closing_the_client_fails_calls_in_flight(client, gate):
    held = client.call("wait_for", path=gate.path)
    await entered(gate)
    failed = failure_of(held)
    client.close()
    assert type(await within(failed)) is Unreachable
    gate.release()


@pytest_twisted.ensureDeferred
async def test_closing_the_client_fails_calls_that_are_still_connecting(client):
    failed = [failure_of(client.call("hello")) for _ in range(3)]
    client.close()
    for error in await within(gatherResults(failed)):
        assert type(error) is Unreachable


@pytest_twisted.ensureDeferred
async def test_closing_the_client_closes_its_connections(fake_client):
    server, client = fake_client()
    failed = [failure_of(client.call("held")) for _ in range(3)]
    for _ in range(3):
        await server.received()
    open_connections = server.open_connections
    client.close()
    await within(gatherResults(failed))
    for _ in range(open_connections):
        await server.lost()
    assert server.open_connections == 0
    client.close()  # once more does no harm
