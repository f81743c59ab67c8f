"""The shortest path through the whole system."""

import pytest_twisted

from taskd.client import TaskClient
from tests.live.support import Daemon


def test_a_bare_request_gets_its_result(daemon: Daemon) -> None:
    assert daemon.connect().ask({"function": "hello", "args": {"name": "Ann"}}) == "Hello, Ann!"


@pytest_twisted.ensureDeferred
async def test_a_client_gets_a_result_through_the_websocket(daemon: Daemon) -> None:
    from twisted.internet import reactor

    client = TaskClient(reactor, daemon.ws)
    assert await client.call("hello", name="Ann") == "Hello, Ann!"
    client.close()
