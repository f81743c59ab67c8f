"""Those who watch stored tasks: each event once and in order, by every way, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest
import pytest_twisted

from tests.live.peers import in_thread, rpc
from tests.live.support import APPS, Connection, data_of
from tests.live.support import rpc as tcp_rpc

APP = str(APPS / "watched.py")
LINKS = ["local", "per-message", "pooled"]


@pytest.fixture
def start(clean_start, tmp_path):
    def start_one(*options, store="sqlite:tasks.db"):
        return clean_start("--app", APP, "--workers", "2", "--store", store, *options)

    return start_one


class Steps:
    """A FIFO by which the function `steps` is led."""

    def __init__(self, path):
        self.path = str(path)
        os.mkfifo(self.path)
        self._descriptor = os.open(self.path, os.O_RDWR)

    def to(self, number):
        os.write(self._descriptor, b"%d\n" % number)

    def end(self):
        os.write(self._descriptor, b"end\n")


@pytest.fixture
def steps(tmp_path):
    return Steps(tmp_path / "steps")


def submit(client: Connection, function, *args):
    reply = client.ask(tcp_rpc(1, "taskd.submit", function=function, args=list(args)))
    return reply["result"]["task"]


def attach(client: Connection, task, after=0):
    return client.ask(tcp_rpc(2, "taskd.attach", task=task, after=after))["result"]


def events_until(client: Connection, last):
    """Return the events that come, up to one that has `last`."""
    events = []
    while not events or not last.items() <= events[-1].items():
        events.append(client.receive()["params"])
    return events


class Page:
    """What a page in a browser does: it watches, and goes on after the last event that it has got."""

    def __init__(self, websocket, task):
        self._websocket = websocket
        self._task = task
        self.events = []

    async def open(self, url):
        self.ws = await self._websocket(url)
        after = self.events[-1]["seq"] if self.events else 0
        self.ws.send(rpc("taskd.attach", {"task": self._task, "after": after}))
        return json.loads(await self.ws.receive())["result"]["state"]

    async def receive(self, **last):
        while not self.events or not last.items() <= self.events[-1].items():
            self.events.append(json.loads(await self.ws.receive())["params"])


def check(events):
    """Assert that no event comes twice or too early; return their names, progress left out."""
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers))
    return [event["event"] for event in events if event["event"] != "progress"]


def test_a_connection_that_is_attached_gets_every_event_from_the_first_to_the_last(start, steps):
    client = start().connect()
    task = submit(client, "steps", steps.path)
    attach(client, task)
    steps.to(1)
    events = events_until(client, {"event": "progress", "done": 1})
    steps.to(2)
    events += events_until(client, {"event": "progress", "done": 2})
    steps.end()
    events += events_until(client, {"event": "succeeded"})
    assert check(events) == ["queued", "started", "succeeded"]
    assert [event["done"] for event in events if event["event"] == "progress"] == [1, 2]
    assert events[-1]["result"] == 2
    log = client.ask(tcp_rpc(3, "taskd.events", task))["result"]
    assert log == [event for event in events if event.get("done") != 1]
    assert client.ask(tcp_rpc(4, "taskd.detach", task))["result"] == {"was": "not attached"}
    assert data_of(client.ask(tcp_rpc(5, "taskd.attach", "unknown")), -32602)["argument"] == "task"


@pytest.mark.parametrize("link", LINKS)
@pytest_twisted.ensureDeferred
async def test_a_page_that_is_loaded_again_goes_on_after_the_last_event_that_it_has_got(
    start, websocket, steps, link
):
    daemon = start("--link", link)
    task = await in_thread(lambda: submit(daemon.connect(), "steps", steps.path))
    page = Page(websocket, task)
    assert await page.open(daemon.ws) in {"waiting", "running"}
    steps.to(1)
    await page.receive(event="progress", done=1)
    for number in (2, 3):
        page.ws.go()
        steps.to(number)
        assert await page.open(daemon.ws) == "running"
        await page.receive(event="progress", done=number)
    page.ws.go()
    steps.end()
    assert (await in_thread(lambda: daemon.connect().ask(tcp_rpc(1, "taskd.wait", task))))["result"][
        "result"
    ] == 3
    assert await page.open(daemon.ws) == "succeeded"
    await page.receive(event="succeeded")
    assert check(page.events) == ["queued", "started", "succeeded"]
    late = Page(websocket, task)
    assert await late.open(daemon.ws) == "succeeded"
    await late.receive(event="succeeded")
    assert late.events == [
        event for event in page.events if event["event"] != "progress" or event["done"] == 3
    ]
    late.ws.send(rpc("taskd.attach", {"task": "unknown"}))
    assert data_of(json.loads(await late.ws.receive()), -32602)["argument"] == "task"


@pytest.mark.parametrize("link", LINKS)
@pytest_twisted.ensureDeferred
async def test_a_page_that_attaches_again_before_the_first_answer_gets_the_events_that_follow(
    start, websocket, steps, link
):
    daemon = start("--link", link)

    def submit_and_wait_for_the_start():
        client = daemon.connect()
        task = submit(client, "steps", steps.path)
        attach(client, task)
        events_until(client, {"event": "started"})
        return task

    task = await in_thread(submit_and_wait_for_the_start)
    ws = await websocket(daemon.ws)
    params = {"task": task, "after": -1}
    ws.send(rpc("taskd.attach", params, 1), rpc("taskd.attach", params, 2))
    assert {(await ws.receive_json())["id"] for _ in range(2)} == {1, 2}
    for number in (1, 2):
        steps.to(number)
        assert (await ws.receive_json())["params"]["done"] == number
    steps.end()
    assert (await ws.receive_json())["params"]["event"] == "succeeded"


@pytest.mark.parametrize("link", LINKS[1:])
@pytest_twisted.ensureDeferred
async def test_a_page_goes_on_watching_when_the_task_server_behind_its_gateway_is_killed(
    start, clean_start, websocket, steps, link
):
    daemon = start("--websocket", "none")
    port = daemon.port()
    gateway = clean_start("--listen", "none", "--link", link, "--task-server", daemon.tcp)
    url = f"ws://127.0.0.1:{gateway.port(1)}"
    task = await in_thread(lambda: submit(daemon.connect(), "steps", steps.path))
    pages = [Page(websocket, task) for _ in range(3)]
    for page in pages:
        await page.open(url)
    steps.to(1)
    for page in pages:
        await page.receive(event="progress", done=1)
    os.kill(daemon.process.pid, signal.SIGKILL)
    await in_thread(lambda: (daemon.wait_for_end(), daemon.wait_until_gone()))
    start("--websocket", "none", "--listen", f"tcp:{port}:interface=127.0.0.1")
    steps.to(7)
    for page in pages:
        await page.receive(event="progress", done=7)
    steps.end()
    for page in pages:
        await page.receive(event="succeeded")
        assert check(page.events) == ["queued", "started", "lost", "started", "succeeded"]


def test_a_connection_that_does_not_read_costs_little_and_nothing_is_missing_in_the_end(start):
    size, count = 200_000, 100
    daemon = start()
    slow, other = daemon.connect(), daemon.connect()
    slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    tasks = []
    for _ in range(count):
        task = submit(other, "long_text", size)
        tasks.append(task)
        slow.send(tcp_rpc(2, "taskd.attach", task=task))
        attach(other, task)
        names = check(events_until(other, {"event": "succeeded"}))
        assert names == ["queued", "started", "succeeded"]
    held = daemon.status()["budget"]["held"]
    assert held < size * count / 5
    got = {}
    while [each[-1] for each in got.values()].count("succeeded") < count:
        message = slow.receive()
        if "params" in message:
            got.setdefault(message["params"]["task"], []).append(message["params"]["event"])
    assert got == {task: ["queued", "started", "succeeded"] for task in tasks}
