"""The table of the protocol, over TCP and over the websocket of a gateway with each kind of link."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_twisted

from tests.live.support import APPS, Daemon, kept_daemon
from tests.protocol_rows import TCP, WEBSOCKET, Row, mismatch, seen_on_tcp, seen_on_websocket
from tests.protocol_table import MAX_MESSAGE, rows_on

LINKS = ("per-message", "pooled", "local")

OPTIONS = ("--app", str(APPS / "plain.py"), "--workers", "2", "--max-message", str(MAX_MESSAGE))

Open = Callable[[str], Awaitable[Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A task server with a gateway, for every row."""
    with kept_daemon(*OPTIONS, directory=tmp_path_factory.mktemp("server")) as daemon:
        yield daemon


@pytest.fixture(scope="module", params=LINKS)
def url(
    request: pytest.FixtureRequest, server: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a gateway in front of the server."""
    link = request.param
    if link == "per-message":
        yield server.ws
        return
    if link == "local":
        with kept_daemon(*OPTIONS, "--link", link, directory=tmp_path_factory.mktemp(link)) as daemon:
            yield daemon.ws
        return
    options = (
        "--listen",
        "none",
        "--task-server",
        server.tcp,
        "--link",
        link,
        "--max-message",
        str(MAX_MESSAGE),
    )
    with kept_daemon(*options, directory=tmp_path_factory.mktemp(link), ready="listening on") as gateway:
        yield f"ws://127.0.0.1:{gateway.port(1)}"


@pytest.mark.parametrize("row", rows_on(TCP), ids=str)
def test_a_row_of_the_table_holds_over_tcp(server: Daemon, row: Row) -> None:
    connection = server.connect()
    try:
        connection.send(*row.sent_on_tcp)
        if not row.ends:
            connection.end_sending()
        replies = [seen_on_tcp(line) for line in connection.receive_lines()]
    finally:
        connection.close()
    assert mismatch(row, TCP, replies) is None


@pytest.mark.parametrize("row", rows_on(WEBSOCKET), ids=str)
@pytest_twisted.ensureDeferred
async def test_a_row_of_the_table_holds_over_a_websocket(url: str, websocket: Open, row: Row) -> None:
    from tests.live.peers import within

    ws = await websocket(url)
    ws.send(*row.sent)
    if row.closes is not None:
        assert (await within(ws.closed))[0] == row.closes
        return
    replies = [seen_on_websocket(await ws.receive()) for _ in row.replies]
    assert mismatch(row, WEBSOCKET, replies) is None
    # No other reply was in flight: bare replies keep their order, and others do not wait.
    assert await ws.send({"function": "hello"}).receive() == "task complete"
    assert ws.unread == 0
