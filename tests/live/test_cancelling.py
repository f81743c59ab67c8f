"""Cancelling from clients and through gateways: what the task server and the callers receive."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from taskd.errors import WaitTimeout
from taskd.model import Options
from tests.live.peers import FakeTaskServer, bare, in_thread, rpc, within
from tests.live.support import TIMEOUT, kept_daemon
from tests.live.test_client import SHORT, failure, failure_of

CANCELLED, SHUTTING_DOWN, NOT_ALLOWED = -32002, -32005, -32008


@pytest.fixture
def start(clean_start):
    return clean_start


@pytest.fixture(params=["per-message", "pooled"])
def link(request):
    return request.param


@pytest.fixture(scope="module")
def only_server():
    """The task server of all tests."""
    server = FakeTaskServer()
    yield server
    pytest_twisted.blockon(server.close())


@pytest.fixture
def server(only_server):
    """The task server, reset; it answers nothing by itself."""
    pytest_twisted.blockon(Deferred.fromCoroutine(only_server.restart()))
    return only_server


@pytest.fixture(scope="module")
def urls(only_server, tmp_path_factory):
    """The URL of a gateway in front of the task server, for each kind of link."""
    with ExitStack() as gateways:
        urls = {}
        for link in ("per-message", "pooled"):
            options = ("--listen", "none", "--link", link, "--task-server", only_server.endpoint)
            directory = tmp_path_factory.mktemp(link)
            gateway = gateways.enter_context(kept_daemon(*options, directory=directory, ready="listening on"))
            urls[link] = f"ws://127.0.0.1:{gateway.port(1)}"
        yield urls


@pytest.fixture
def url(urls, link, server):
    """The URL of a gateway in front of the server."""
    return urls[link]


@pytest.fixture(params=["per-call", "pooled", "websocket"])
def client(request, server, urls, make_client):
    """A client, direct or through a gateway."""
    if request.param == "websocket":
        return make_client(urls["pooled"])
    return make_client(server.endpoint, link=request.param)


def assert_cancels(cancel, message):
    """Check that `cancel` is the notification that names the request `message`, on the same connection."""
    assert cancel.content == {
        "jsonrpc": "2.0",
        "method": "taskd.cancel",
        "params": {"id": message.content["id"]},
    }
    assert cancel.connection is message.connection


def named(cancel, messages):
    """Return the one of these messages that a request to cancel names."""
    (message,) = [
        message
        for message in messages
        if message.connection is cancel.connection and message.content["id"] == cancel.content["params"]["id"]
    ]
    assert_cancels(cancel, message)
    return message


# --- clients -----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_cancelling_the_deferred_cancels_the_task(client, server):
    call = client.call("held")
    message = await server.received()
    call.cancel()
    with pytest.raises(CancelledError):
        await within(call)
    assert_cancels(await server.received(), message)


@pytest_twisted.ensureDeferred
async def test_a_call_that_times_out_cancels_its_task(client, server):
    failed = failure_of(client.with_options(wait=SHORT).call("held"))
    message = await server.received()
    assert type(await within(failed)) is WaitTimeout
    assert_cancels(await server.received(), message)


@pytest_twisted.ensureDeferred
async def test_cancelling_one_call_cancels_no_other(client, server):
    calls = [client.call("held", number=number) for number in range(3)]
    for _ in calls:
        await server.received()
    by_number = {message.content["params"]["number"]: message for message in server.messages}
    failed = failure_of(calls[1])
    calls[1].cancel()
    assert type(await within(failed)) is CancelledError
    assert_cancels(await server.received(), by_number[1])
    by_number[0].answer("first")
    by_number[2].answer("last")
    assert await within(gatherResults([calls[0], calls[2]])) == ["first", "last"]
    assert len(server.messages) == 4


@pytest_twisted.ensureDeferred
async def test_closing_the_client_cancels_no_task(client, server):
    failed = failure_of(client.call("held"))
    await server.received()
    client.close()
    await within(failed)
    assert [message.function for message in server.messages] == ["held"]


@pytest_twisted.ensureDeferred
async def test_options_are_sent_along_unchanged(client, server):
    options = Options(timeout=1.5, deadline=60, priority=0, on_disconnect="cancel", progress=True)
    done = client.request("held", [1], options=options)
    message = await server.received()
    assert message.content["params"] == [1]
    sent = message.content["options"]
    sent.pop("caller", None)  # which a gateway adds
    assert sent | {"progress": False} == {
        "timeout": 1.5,
        "deadline": 60,
        "priority": 0,
        "on_disconnect": "cancel",
        "progress": False,
    }
    assert not message.content["options"].get("progress"), (
        "progress was requested although there is no callback"
    )
    message.answer("fine")
    assert await within(done) == "fine"
    done = client.request("held", on_progress=print, options=Options(priority=9))
    message = await server.received()
    assert message.content["options"]["progress"] is True
    assert message.content["options"]["priority"] == 9
    message.answer("too")
    assert await within(done) == "too"


@pytest_twisted.ensureDeferred
async def test_a_websocket_client_can_cancel_even_with_its_window_full(server, start, make_client):
    daemon = start("--listen", "none", "--task-server", server.endpoint)
    client = make_client(f"ws://127.0.0.1:{daemon.port(1)}")
    calls = [client.call("held", number=number) for number in range(300)]
    failed = {number: failure_of(calls[number]) for number in (0, 299)}
    while (message := await server.received()).content["params"]["number"] != 0:
        pass
    calls[0].cancel()
    while (cancel := await server.received()).function == "held":
        pass
    assert_cancels(cancel, message)
    assert type(await within(failed[0])) is CancelledError
    calls[299].cancel()
    assert type(await within(failed[299])) is CancelledError
    server.behave = lambda message: message.answer("done")
    for message in list(server.messages):
        if message.connection.connected and message.function == "held":
            message.answer("done")
    assert await within(gatherResults(calls[1:299]), TIMEOUT) == ["done"] * 298
    sent = {message.content["params"].get("number") for message in server.messages}
    assert 299 not in sent


# --- taskd.cancel on a websocket ---------------------------------------------


@pytest.mark.parametrize("request_id", [7, -1.5, "seven", "ไทย"])
@pytest_twisted.ensureDeferred
async def test_a_request_cancelled_by_its_id_is_answered_before_the_cancel(
    url, server, websocket, request_id
):
    ws = await websocket(url)
    ws.send(rpc("held", None, "other"), rpc("held", None, request_id))
    messages = [await server.received(), await server.received()]
    ws.send(rpc("taskd.cancel", {"id": request_id}, "c"))
    cancel = await server.received()
    message = named(cancel, messages)
    how = {"was": "running", "stopped_after": 0.3, "killed": False}
    message.fail(CANCELLED, "cancelled", how)
    reply = await ws.receive_json()
    assert (reply["id"], reply["error"]["code"], reply["error"]["data"]) == (request_id, CANCELLED, how)
    assert await ws.receive_json() == {"jsonrpc": "2.0", "id": "c", "result": how}


@pytest_twisted.ensureDeferred
async def test_cancelling_a_request_that_ends_by_itself_meanwhile_answers_done(url, server, websocket):
    ws = await websocket(url)
    ws.send(rpc("held", None, 1))
    message = await server.received()
    for asking in ("a", "b"):
        ws.send(rpc("taskd.cancel", {"id": 1}, asking))
    await server.received()
    message.answer("in time")
    assert (await ws.receive_json())["result"] == "in time"
    assert [await ws.receive_json() for _ in "ab"] == [
        {"jsonrpc": "2.0", "id": asking, "result": {"was": "done"}} for asking in "ab"
    ]
    assert len(server.messages) == 2, "the task server is asked once"


@pytest_twisted.ensureDeferred
async def test_cancelling_an_unknown_or_ended_request_answers_done(url, server, websocket):
    ws, other = await websocket(url), await websocket(url)
    other.send(rpc("held", None, 5))
    await server.received()
    server.behave = lambda message: message.answer("done")
    assert (await ws.ask(rpc("hello", None, 1)))["result"] == "done"
    for unknown in (1, 5, "1", 1.0):
        assert (await ws.ask(rpc("taskd.cancel", {"id": unknown}, "c")))["result"] == {"was": "done"}
    assert await ws.send(bare("taskd.cancel", {"id": 1})).receive() == "task complete"
    assert [message.function for message in server.messages] == ["held", "hello"]


@pytest_twisted.ensureDeferred
async def test_a_cancel_by_task_number_is_refused_and_not_passed_on(url, server, websocket):
    ws = await websocket(url)
    assert (await ws.ask(rpc("taskd.cancel", {"task": 12}, "c")))["error"]["code"] == NOT_ALLOWED
    assert server.messages == []


@pytest_twisted.ensureDeferred
async def test_a_notification_of_taskd_cancel_cancels_and_is_not_answered(url, server, websocket):
    ws = await websocket(url)
    ws.send(rpc("held", None, 1))
    message = await server.received()
    ws.send(rpc("taskd.cancel", {"id": 1}, None))
    assert_cancels(await server.received(), message)
    message.fail(CANCELLED, "cancelled", {"was": "waiting"})
    assert (await ws.receive_json())["error"]["data"] == {"was": "waiting"}
    assert (await ws.ask(rpc("taskd.cancel", {"id": 1}, "c")))["id"] == "c"


@pytest_twisted.ensureDeferred
async def test_a_request_of_a_batch_can_be_cancelled(url, server, websocket):
    ws = await websocket(url)
    ws.send([rpc("held", None, 1), rpc("held", None, 2)])
    held = [await server.received(), await server.received()]
    ws.send([rpc("taskd.cancel", {"id": 2}, "c")])
    cancelled = named(await server.received(), held)
    cancelled.fail(CANCELLED, "cancelled", {"was": "waiting"})
    assert await ws.receive_json() == [{"jsonrpc": "2.0", "id": "c", "result": {"was": "waiting"}}]
    held.remove(cancelled)
    held[0].answer("done")
    replies = {reply["id"]: reply for reply in await ws.receive_json()}
    assert replies[1]["result"] == "done"
    assert replies[2]["error"]["code"] == CANCELLED


@pytest_twisted.ensureDeferred
async def test_a_request_cancelled_before_it_was_sent_is_never_sent(start, websocket, silent):
    daemon = start("--listen", "none", "--task-server", silent)
    ws = await websocket(f"ws://127.0.0.1:{daemon.port(1)}")
    ws.send(rpc("held", None, 1), rpc("taskd.cancel", {"id": 1}, 2))
    replies = [await ws.receive_json(), await ws.receive_json()]
    assert replies[0]["error"]["code"] == CANCELLED
    assert replies[0]["error"]["data"] == {"was": "waiting"}
    assert replies[1]["result"] == {"was": "waiting"}


# --- websockets that go ------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_lost_websocket_cancels_its_requests_with_on_disconnect_cancel(url, server, websocket):
    stays, goes = await websocket(url), await websocket(url)
    stays.send(rpc("held", None, 1, on_disconnect="cancel"))
    kept = await server.received()
    goes.send(rpc("held", None, 1, on_disconnect="cancel"), rpc("held", None, 2), rpc("held", None, 3))
    messages = [await server.received() for _ in range(3)]
    goes.go()
    cancelled = named(await server.received(), messages)
    assert cancelled.content["options"]["on_disconnect"] == "cancel"
    server.behave = lambda message: message.answer("later")
    assert (await stays.ask(rpc("later", None, 2)))["result"] == "later"
    kept.answer("still here")
    assert (await stays.receive_json())["result"] == "still here"
    assert [message.function for message in server.messages] == [*["held"] * 4, "taskd.cancel", "later"]


@pytest_twisted.ensureDeferred
async def test_a_bare_message_is_cancelled_along_with_its_websocket(url, server, link, websocket):
    ws = await websocket(url)
    ws.send(bare("held", None, on_disconnect="cancel"))
    message = await server.received()
    ws.go()
    if link == "pooled":
        assert_cancels(await server.received(), message)
    else:  # it has no id: its connection is lost, and its options tell the rest
        assert message.content["options"]["on_disconnect"] == "cancel"
        assert await server.lost() is message.connection


@pytest_twisted.ensureDeferred
async def test_requests_sent_just_before_a_websocket_closes_are_run(url, server, websocket):
    for leave in (lambda ws: ws.sendClose(1000), lambda ws: ws.transport.loseConnection()):
        ws = await websocket(url)
        ws.send(bare("held", ["bare"]), rpc("held", ["rpc"]))
        leave(ws)
        messages = [await server.received(), await server.received()]
        assert sorted(str(message.content.get("args", message.content.get("params"))) for message in messages)
    assert {message.function for message in server.messages} == {"held"}


# --- the end -----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_gateway_that_stops_cancels_no_task(start, link, server, websocket):
    options = ("--listen", "none", "--link", link, "--task-server", server.endpoint, "--stop-timeout", "0.2")
    daemon = start(*options)
    ws = await websocket(f"ws://127.0.0.1:{daemon.port(1)}")
    ws.send(rpc("held", None, 1), rpc("held", None, 2))
    held = [await server.received(), await server.received()]
    daemon.process.send_signal(signal.SIGTERM)
    await in_thread(daemon.wait_for_log, r"Port \d+ Closed")
    # What is in flight can still be cancelled.
    ws.send(rpc("taskd.cancel", {"id": 1}, "c"))
    cancel = await server.received()
    assert cancel.connection in {message.connection for message in held}
    replies = {str(reply["id"]): reply for reply in [await ws.receive_json() for _ in range(3)]}
    assert {reply["error"]["code"] for reply in replies.values()} == {SHUTTING_DOWN}
    assert replies.keys() == {"1", "2", "c"}
    assert await in_thread(daemon.process.wait, TIMEOUT) == -signal.SIGTERM
    assert [message.function for message in server.messages] == ["held", "held", "taskd.cancel"]


@pytest_twisted.ensureDeferred
async def test_a_call_cancelled_before_it_reached_a_server_leaves_no_trace(refusing, make_client):
    client = make_client(refusing)
    call = client.call("held")
    call.cancel()
    assert type(await within(failure_of(call))) is CancelledError
    await failure(client.call("held"))
