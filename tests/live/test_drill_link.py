"""The link of a drill to the store's server: it forwards, and can be cut or held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from taskd.drill.link import StoreLink
from tests.live.peers import within
from tests.live.support import TIMEOUT

SHORT = 0.1
"""Seconds in which nothing may come."""


def aio(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Deferred[None]]:
    """Run a test that is a coroutine of asyncio's, in the loop that the reactor uses."""

    @wraps(test)
    def started() -> Deferred[None]:
        deferred: Deferred[None] = within(Deferred.fromFuture(asyncio.ensure_future(test())), TIMEOUT)
        return deferred

    return started


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.write(b"the end")
    writer.close()


@asynccontextmanager
async def linked() -> AsyncIterator[StoreLink]:
    """Run a server that sends everything back, and a link to it."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link = StoreLink(lambda: asyncio.open_connection("127.0.0.1", port))
    await link.start()
    try:
        yield link
    finally:
        await link.close()
        server.close()


async def connected(link: StoreLink) -> Ends:
    return await asyncio.open_connection("127.0.0.1", link.port)


async def ask(ends: Ends, data: bytes) -> bytes:
    reader, writer = ends
    writer.write(data)
    return await reader.readexactly(len(data))


async def must_be_reset(ends: Ends) -> None:
    with pytest.raises(ConnectionResetError):  # an orderly close would be an end without one
        await ends[0].read(1)


@aio
async def test_a_link_forwards_both_ways_and_the_end_as_well() -> None:
    async with linked() as link:
        ends = await connected(link)
        assert await ask(ends, b"x" * 200_000) == b"x" * 200_000
        ends[1].write_eof()
        assert await ends[0].read() == b"the end"


@aio
async def test_a_cut_link_resets_connections_and_new_ones_until_it_is_restored() -> None:
    async with linked() as link:
        ends = await connected(link)
        await ask(ends, b"one")
        link.cut()
        await must_be_reset(ends)
        await must_be_reset(await connected(link))
        link.restore()
        assert await ask(await connected(link), b"two") == b"two"


@aio
async def test_a_held_link_forwards_nothing_until_it_is_restored() -> None:
    async with linked() as link:
        old = await connected(link)
        await ask(old, b"one")
        link.hold()
        new = await connected(link)
        asking = [asyncio.ensure_future(ask(ends, b"two")) for ends in (old, new)]
        done, _ = await asyncio.wait(asking, timeout=SHORT)
        assert not done
        link.restore()
        assert await asyncio.gather(*asking) == [b"two", b"two"]


@aio
async def test_a_link_to_a_server_that_is_away_closes_the_connection() -> None:
    async def refused() -> Ends:
        raise ConnectionRefusedError

    link = StoreLink(refused)
    await link.start()
    assert await (await connected(link))[0].read() == b""
    await link.close()
