"""`AsyncClient`: behaviour beyond the contract of all clients in tests/contracts."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import ssl

import pytest
import pytest_twisted
import trustme
from twisted.internet.defer import Deferred

from taskd.client import AsyncClient
from taskd.client.addresses import server_address
from taskd.client.aio_link import AsyncLink
from taskd.client.words import named_call
from taskd.errors import TooLarge, Unreachable, WaitTimeout
from tests.live.peers import entered, in_thread, within
from tests.live.support import APPS, TIMEOUT

SHORT = 0.05
"""Seconds for a wait that is meant to time out."""

TASK = "01a21e4f-6c79-7ee5-b622-1739739d25f8"


def run(coroutine):
    """Run a coroutine of asyncio's in the loop that the reactor uses; return a Deferred of its result."""
    return within(Deferred.fromFuture(asyncio.ensure_future(coroutine)), TIMEOUT)


def aio(test):
    """Run a test that is a coroutine of asyncio's."""

    @functools.wraps(test)
    def started(*args, **named):
        return run(test(*args, **named))

    return started


def future(deferred):
    """Return what asyncio awaits for a Deferred."""
    return deferred.asFuture(asyncio.get_running_loop())


async def failure(coroutine, kind):
    """Wait for a call to fail, and return its exception."""
    with pytest.raises(kind) as caught:
        await coroutine
    return caught.value


@pytest.fixture
def start(clean_start):
    return clean_start


class Scripted:
    """A task server for asyncio: `script(line, number)` handles each connection, numbered from 0."""

    def __init__(self, script):
        self._script = script
        self.connections = 0
        self.address = ""

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exception):
        self._server.close()

    async def _accepted(self, reader, writer):
        number = self.connections
        self.connections += 1
        await self._script(Line(reader, writer), number)
        writer.close()


class Line:
    """One connection to a `Scripted` server."""

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer

    async def receive(self):
        """Return the next message; None at the end."""
        line = await self._reader.readline()
        return json.loads(line) if line else None

    def send(self, **message):
        """Send a message."""
        self._writer.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def push(self, seq, event, **more):
        """Send an event of the task `TASK`."""
        self.send(method="taskd.event", params={"task": TASK, "seq": seq, "event": event, "at": 1.0, **more})


# --- many calls, and many event loops ----------------------------------------


@aio
async def test_two_thousand_calls_at_once_are_all_answered(shared):
    async with AsyncClient(shared.tcp) as client:
        calls = [client.call("echo", number) for number in range(2000)]
        assert await asyncio.gather(*calls) == list(range(2000))


@aio
async def test_calls_share_one_connection(fake):
    server = fake(lambda message: message.answer(message.content["params"][0]))
    async with AsyncClient(server.endpoint) as client:
        assert await asyncio.gather(*[client.call("f", number) for number in range(400)]) == list(range(400))
    assert len(server.connections) == 1


@pytest_twisted.ensureDeferred
async def test_one_client_serves_one_event_loop_after_another(shared):
    client = AsyncClient(shared.tcp)

    async def ask():
        return await client.call("hello", "loop")

    for _ in range(2):
        assert await in_thread(asyncio.run, ask()) == "Hello, loop!"


@pytest_twisted.ensureDeferred
async def test_connections_of_loops_that_have_ended_are_dropped(fake):
    server = fake(lambda message: message.answer(7))
    client = AsyncClient(server.endpoint)

    async def ask():
        return await client.call("f")

    for _ in range(3):
        assert await in_thread(asyncio.run, ask()) == 7
    assert await server.lost() is server.connections[0]
    assert await server.lost() is server.connections[1]


@pytest.mark.parametrize("way", ["tcp", "ws"])
@pytest_twisted.ensureDeferred
async def test_a_client_works_under_uvloop(shared, way):
    uvloop = pytest.importorskip("uvloop")

    async def main():
        async with AsyncClient(getattr(shared, way)) as client:
            results = await asyncio.gather(*[client.call("add", number) for number in range(300)])
            task = await client.submit("count", 3)
            events = [event.event async for event in task.events()]
            held = asyncio.ensure_future(client.call("async_nap", 60))
            await client.ping()
            held.cancel()
            return results, events, await task.result()

    results, events, result = await in_thread(uvloop.run, main())
    assert results == list(range(1, 301))
    assert (events[0], events[-1], result) == ("queued", "succeeded", 3)


@aio
async def test_a_client_works_over_a_unix_socket(start, tmp_path_factory):
    path = tmp_path_factory.mktemp("u") / "s"
    start("--listen", f"unix:{path}", "--workers", "1").wait_until_ready()
    async with AsyncClient(f"unix:{path}") as client:
        assert await client.call("hello", "unix") == "Hello, unix!"


@aio
async def test_tls_verifies_the_name_of_the_server(start, tmp_path_factory):
    directory = tmp_path_factory.mktemp("pem")
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(directory / "ca.pem")
    other.cert_pem.write_to_path(directory / "other.pem")
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(directory / "cert.pem")
    pem = f"privateKey={directory}/cert.pem:certKey={directory}/cert.pem:interface=127.0.0.1"
    daemon = start(
        "--listen",
        f"ssl:0:interface=127.0.0.1:{pem}",
        "--websocket",
        f"ssl:0:interface=127.0.0.1:{pem}",
        "--link",
        "local",
    )
    port = (await future(in_thread(daemon.wait_until_ready))).port(1)
    async with AsyncClient(f"tls:localhost:{port}:trustRoots={directory}/ca.pem") as client:
        assert await client.call("hello", "TLS") == "Hello, TLS!"
        assert len(await client.call("big", 3_000_000)) == 3_000_000
    for host, trusted in (("localhost", "other"), ("127.0.0.1", "ca")):
        async with AsyncClient(f"tls:{host}:{port}:trustRoots={directory}/{trusted}.pem") as client:
            error = await failure(client.call("hello"), Unreachable)
            assert error.data["sent"] is False
            assert "certificate" in error.message
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    async with AsyncClient(f"wss://localhost:{daemon.port(2)}", tls=context) as client:
        assert await client.call("hello", "wss") == "Hello, wss!"


# --- what is sent, once ------------------------------------------------------


@aio
async def test_a_call_that_was_sent_is_not_sent_again(fake):
    server = fake(lambda message: message.close())
    async with AsyncClient(server.endpoint) as client:
        error = await failure(client.call("f"), Unreachable)
        assert error.data == {"server": server.endpoint, "sent": True}
        assert len(server.messages) == 1
        server.behave = lambda message: message.answer("back")
        assert await client.call("f") == "back"


@aio
async def test_a_call_that_was_not_sent_is_sent_once_the_server_is_back():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        async with AsyncClient(address, connect_timeout=TIMEOUT) as client:
            calls = asyncio.gather(*[client.call("f", number) for number in range(3)])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(calls), SHORT)

            async def answer(reader, writer):
                line = Line(reader, writer)
                while (message := await line.receive()) is not None:
                    line.send(id=message["id"], result=message["params"][0])
                writer.close()

            async with await asyncio.start_server(answer, sock=listening):
                assert await calls == [0, 1, 2]


@aio
async def test_a_server_that_stays_away_is_unreachable_after_the_connect_timeout(refusing):
    async with AsyncClient(refusing, connect_timeout=4 * SHORT) as client:
        failed = await asyncio.gather(*[client.call("f") for _ in range(20)], return_exceptions=True)
        assert {type(error) for error in failed} == {Unreachable}
        assert {error.data["sent"] for error in failed} == {False}
        assert "refused" in failed[0].message


@aio
async def test_a_port_that_does_not_answer_is_unreachable_after_the_connect_timeout(silent):
    async with AsyncClient(silent, connect_timeout=SHORT) as client:
        assert (await failure(client.call("f"), Unreachable)).data["sent"] is False


@aio
async def test_a_web_server_is_recognised_and_has_run_nothing():
    async def be_a_web_server(line, number):
        await line.receive()
        line._writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with Scripted(be_a_web_server) as server, AsyncClient(server.address) as client:
        error = await failure(client.call("f"), Unreachable)
        assert error.data["sent"] is False
        assert "HTTP" in error.message or "web" in error.message
        assert server.connections == 1


@aio
async def test_a_task_servers_port_is_no_gateway(shared):
    async with AsyncClient("ws://" + shared.tcp.removeprefix("tcp:")) as client:
        error = await failure(client.call("hello"), Unreachable)
        assert "task server" in error.message


@aio
async def test_a_message_that_is_too_long_for_the_server_harms_no_other_call(start):
    daemon = start("--workers", "1", "--max-message", "5000")
    async with AsyncClient((await future(in_thread(daemon.wait_until_ready))).tcp) as client:
        calls = [client.call("echo", value) for value in (1, "x" * 6000, 2, 3)]
        first, refused, *others = await asyncio.gather(*calls, return_exceptions=True)
        assert type(refused) is TooLarge
        assert [first, *others] == [1, 2, 3], "what follows it is not read, and is sent again"
        assert await client.call("hello") == "Hello, World!"


# --- the end of a wait -------------------------------------------------------


@aio
async def test_cancelling_the_await_cancels_the_task(fake):
    server = fake()
    async with AsyncClient(server.endpoint) as client:
        call = asyncio.ensure_future(client.call("held"))
        other = asyncio.ensure_future(client.call("other"))
        first = await future(server.received())
        second = await future(server.received())
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        cancel = await future(server.received())
        assert (cancel.function, cancel.content["params"]) == ("taskd.cancel", {"id": first.content["id"]})
        first.answer("too late")
        second.answer("in time")
        assert await other == "in time"
    assert len(server.messages) == 3


@aio
async def test_a_timeout_of_asyncio_stops_the_task(shared, gate):
    async with AsyncClient(shared.tcp) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT):
                await client.call("wait_for", gate.path)
        await failure(client.with_options(wait=SHORT).call("wait_for", gate.path), WaitTimeout)
        assert await client.call("hello") == "Hello, World!"


@aio
async def test_a_call_cancelled_before_it_is_connected_is_not_sent(silent):
    async with AsyncClient(silent) as client:
        call = asyncio.ensure_future(client.call("f"))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


@aio
async def test_closing_the_client_fails_what_is_in_flight_and_cancels_no_task(fake):
    server = fake()
    client = AsyncClient(server.endpoint)
    call = asyncio.ensure_future(client.call("held"))
    await future(server.received())
    await client.close()
    assert (await failure(call, Unreachable)).data["sent"] is True
    await future(server.lost())
    assert [message.function for message in server.messages] == ["held"]
    assert (await failure(client.call("f"), Unreachable)).data["sent"] is False


@aio
async def test_leaving_a_map_cancels_the_calls_in_flight(fake):
    server = fake()
    async with AsyncClient(server.endpoint) as client:
        found = client.map("f", [1, 2, 3], concurrency=2)
        taking = asyncio.ensure_future(anext(found))
        first, second = await future(server.received()), await future(server.received())
        first.answer("one")
        assert await taking == (1, "one")
        await found.aclose()
        cancel = await future(server.received())
        assert (cancel.function, cancel.content["params"]) == ("taskd.cancel", {"id": second.content["id"]})


# --- the heartbeat -----------------------------------------------------------


def link_of(address, **pings):
    return AsyncLink(asyncio.get_running_loop(), server_address(address), None, 5.0, **pings)


@aio
async def test_a_silent_connection_is_pinged_while_a_reply_is_awaited(fake):
    server = fake()
    link = link_of(server.endpoint, ping_interval=SHORT)
    call = asyncio.ensure_future(link.outcome(named_call("held", {})))
    held = await future(server.received())
    for _ in range(3):
        ping = await future(server.received())
        assert ping.function == "taskd.ping"
        ping.answer("pong")
    held.answer("done")
    assert bytes((await call).value) == b'"done"'
    await link.close()


@aio
async def test_a_server_that_answers_no_ping_is_given_up(fake):
    server = fake()
    link = link_of(server.endpoint, ping_interval=SHORT, ping_timeout=2 * SHORT)
    error = await failure(link.outcome(named_call("held", {})), Unreachable)
    assert error.data["sent"] is True
    assert "has not answered" in error.message
    await link.close()


# --- events ------------------------------------------------------------------


@aio
async def test_events_go_on_after_their_last_one_over_another_connection():
    asked = []

    async def push(line, number):
        attach = await line.receive()
        asked.append(attach["params"])
        line.send(id=attach["id"], result={"state": "running", "seq": 2})
        if number == 0:
            line.push(1, "queued")
            line.push(2, "started")
        else:
            line.push(2, "started")
            line.push(3, "succeeded", result=7)
            await line.receive()

    async with Scripted(push) as server, AsyncClient(server.address) as client:
        events = [event async for event in client.task(TASK).events()]
    assert [(event.seq, event.event) for event in events] == [(1, "queued"), (2, "started"), (3, "succeeded")]
    assert events[-1].data == {"result": 7}
    assert asked == [{"task": TASK, "after": 0}, {"task": TASK, "after": 2}]


@aio
async def test_an_iterator_that_is_left_detaches():
    messages = asyncio.Queue()

    async def push(line, number):
        attach = await line.receive()
        line.send(id=attach["id"], result={"state": "running", "seq": 1})
        line.push(1, "queued")
        while (message := await line.receive()) is not None:
            messages.put_nowait(message)

    async with Scripted(push) as server, AsyncClient(server.address) as client:
        events = client.task(TASK).events()
        assert (await anext(events)).event == "queued"
        await events.aclose()
        detach = await messages.get()
        assert (detach["method"], detach["params"]) == ("taskd.detach", {"task": TASK})


@aio
async def test_several_iterate_over_one_task_and_each_gets_every_event(shared, gate):
    async with AsyncClient(shared.tcp) as client:
        task = await client.submit("wait_for", gate.path)
        await future(entered(gate))

        async def collect():
            return [event.event async for event in task.events()]

        first = task.events()
        assert (await anext(first)).event == "queued"
        others = [asyncio.ensure_future(collect()) for _ in range(3)]
        await client.ping()
        gate.release("through")
        for names in await asyncio.gather(*others):
            assert names == ["queued", "started", "succeeded"]
        assert [event.event async for event in first] == ["started", "succeeded"]


@aio
async def test_a_result_is_awaited_over_another_connection_if_one_is_lost():
    async def answer_the_second(line, number):
        wait = await line.receive()
        assert wait["method"] == "taskd.wait"
        if number:
            line.send(id=wait["id"], result={"task": TASK, "state": "succeeded", "result": 42})

    async with Scripted(answer_the_second) as server, AsyncClient(server.address) as client:
        assert await client.task(TASK).result() == 42
        assert server.connections == 2


@aio
async def test_events_go_on_over_a_restart_of_the_server(start, tmp_path):
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    options = ("--listen", f"tcp:{port}:interface=127.0.0.1", "--websocket", "none", "--workers", "1")
    options += ("--store", f"sqlite:{tmp_path}/tasks.db", "--app", str(APPS / "plain.py"))
    daemon = start(*options)
    await future(in_thread(daemon.wait_until_ready))
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        task = await client.with_options(delay=0.5).submit("add", 2, 40)
        events = task.events()
        assert (await anext(events)).event == "queued"
        await future(in_thread(daemon.stop))
        following = asyncio.ensure_future(_names(events))
        await future(in_thread(start(*options).wait_until_ready))
        assert (await following)[-1] == "succeeded"
        assert await task.result() == 42


async def _names(events):
    return [event.event async for event in events]
