"""Stored tasks behind a gateway with two task servers, one of them by TLS: each call finds the right one."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
import trustme

from tests.live.peers import in_thread, rpc
from tests.live.support import APPS, Connection, data_of
from tests.live.support import rpc as tcp_rpc

APP = ("--app", str(APPS / "watched.py"), "--workers", "1", "--websocket", "none")
UNREACHABLE = -32007


@pytest.fixture
def secured(tmp_path):
    """The endpoint strings of a server with a certificate and, with the port left out, of its clients."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf = ca.issue_cert("localhost")
    leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
    own = f"ssl:0:interface=127.0.0.1:privateKey={tmp_path}/own.pem:certKey={tmp_path}/own.pem"
    return own, f"tls:localhost:{{}}:trustRoots={tmp_path}/ca.pem"


class Page:
    """A websocket that keeps the events that it gets apart from the replies."""

    def __init__(self, ws):
        self._ws = ws
        self.events = []

    async def call(self, method, **params):
        self._ws.send(rpc(f"taskd.{method}", params))
        return await self.reply()

    async def reply(self):
        while "params" in (message := await self._ws.receive_json()):
            self.events.append(message["params"])
        return message

    async def batch(self, *calls):
        """Send a batch; its replies must come before all events."""
        self._ws.send(
            [rpc(f"taskd.{method}", params, number) for number, (method, params) in enumerate(calls)]
        )
        replies = json.loads(await self._ws.receive())
        assert isinstance(replies, list)
        return [reply["result"] for reply in sorted(replies, key=lambda reply: reply["id"])]

    async def names_until(self, task, last):
        """Return the names of the events of a task, up to `last`."""
        while not any(event["task"] == task and event["event"] == last for event in self.events):
            self.events.append((await self._ws.receive_json())["params"])
        return [event["event"] for event in self.events if event["task"] == task]


@pytest.mark.parametrize("link", ["per-message", "pooled"])
@pytest_twisted.ensureDeferred
async def test_a_stored_task_is_found_whichever_task_server_has_it(clean_start, websocket, secured, link):
    own, of_client = secured
    servers = [
        clean_start(*APP, "--store", "sqlite:first.db"),
        clean_start(*APP, "--store", "sqlite:second.db", "--listen", own),
    ]
    ports = [await in_thread(server.port) for server in servers]
    addresses = ("--task-server", f"tcp:127.0.0.1:{ports[0]}", "--task-server", of_client.format(ports[1]))
    gateway = clean_start("--listen", "none", "--link", link, *addresses)
    url = f"ws://127.0.0.1:{await in_thread(gateway.port)}"
    page, other = Page(await websocket(url)), Page(await websocket(url))

    # With these tokens both servers get tasks, and the same token gives the same one.
    tasks = [
        (await page.call("submit", function="busy", args=[0, 0], token=str(n)))["result"] for n in range(6)
    ]
    again = [
        (await other.call("submit", function="busy", args=[0, 0], token=str(n)))["result"] for n in range(6)
    ]
    assert [each["task"] for each in again] == [each["task"] for each in tasks]
    assert all(each["joined"] for each in again)
    ids = [each["task"] for each in tasks]
    client: Connection = await in_thread(servers[0].connect)
    of_first = {each["task"] for each in (await in_thread(client.ask, tcp_rpc(1, "taskd.list")))["result"]}
    assert 0 < len(of_first) < 6
    mine, others = next(iter(of_first)), next(id_ for id_ in ids if id_ not in of_first)

    for id_ in (mine, others):
        assert (await page.call("wait", task=id_))["result"]["state"] == "succeeded"
        assert (await page.call("get", task=id_))["result"]["task"] == id_
        log = (await page.call("events", task=id_))["result"]
        assert [event["event"] for event in log] == ["queued", "started", "succeeded"]
        assert (await page.call("why", task=id_))["result"]["state"] == "succeeded"
        assert (await page.call("cancel", task=id_))["result"] == {"was": "done"}
    for reply in await page.batch(*(("attach", {"task": id_}) for id_ in (mine, others))):
        assert reply["state"] == "succeeded"
    for id_ in (mine, others):
        assert await page.names_until(id_, "succeeded") == ["queued", "started", "succeeded"]

    later = [
        (await page.call("submit", function="busy", args=[0, 0], options={"delay": 1000}, token=f"later {n}"))
        for n in range(6)
    ]
    for reply in later:
        id_ = reply["result"]["task"]
        assert (await page.call("attach", task=id_))["result"]["state"] == "scheduled"
        assert (await other.call("cancel", task=id_))["result"] == {"was": "scheduled"}
        assert await page.names_until(id_, "cancelled") == ["queued", "cancelled"]
    assert data_of(await page.call("get", task="unknown"), -32602)["argument"] == "task"

    client.close()
    await in_thread(servers[0].stop)
    assert (await page.call("get", task=others))["result"]["state"] == "succeeded"
    assert (await page.call("attach", task=others))["result"]["state"] == "succeeded"
    for method in ("get", "attach"):
        assert (await page.call(method, task=mine))["error"]["code"] == UNREACHABLE
