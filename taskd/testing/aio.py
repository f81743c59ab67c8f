"""`AsyncClient` for tests: the real one, of a task server in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Self, Unpack

from taskd.client.aio import CONNECT_TIMEOUT, Links
from taskd.client.aio import AsyncClient as RealClient
from taskd.client.aio_link import AsyncLink
from taskd.client.words import GivenOptions
from taskd.functions.registry import Registry, registry
from taskd.testing.server import WORKERS, MemoryServer
from taskd.testing.tokens import GivenTokens

__all__ = ["AsyncClient", "FixtureClient"]


async def _until_the_loop_ends(link: AsyncLink) -> AsyncGenerator[None]:
    """Close a link when the loop ends, which ends the generators that have begun in it."""
    try:
        yield
    finally:
        await link.close()
        await asyncio.sleep(0)  # in which the transports close their sockets


class _EndingLinks(Links):
    """The links of a client that nobody closes within the event loop of its test."""

    def __init__(self, server: str, connect_timeout: float) -> None:
        super().__init__(server, None, connect_timeout)
        self._ends: dict[AsyncLink, AsyncGenerator[None]] = {}

    def here(self) -> AsyncLink:
        """Return the link of the event loop that is running, which is closed when that ends."""
        link = super().here()
        if link not in self._ends:
            end = self._ends[link] = _until_the_loop_ends(link)
            with suppress(StopIteration):  # it waits at its yield from now on
                end.__anext__().send(None)
        return link


class AsyncClient(RealClient):
    """A `taskd.client.AsyncClient` of a `MemoryServer` of its own, which `close` ends.

    `functions`, `workers` and `tokens` are as for `MemoryServer`, `token` is as for the real client.
    """

    def __init__(
        self,
        functions: Registry = registry,
        *,
        workers: int = WORKERS,
        tokens: GivenTokens | None = None,
        token: str | Callable[[], str | Awaitable[str]] | None = None,
    ) -> None:
        self._server = MemoryServer(functions, workers=workers, tokens=tokens)
        super().__init__(self._server.address, token=token)

    def with_options(self, **options: Unpack[GivenOptions]) -> Self:
        """Return a client with other options, of the same server."""
        made = super().with_options(**options)
        made._server = self._server
        return made

    async def close(self) -> None:
        """Drop the connections, and end the server."""
        await super().close()
        self._server.close()


class FixtureClient(RealClient):
    """The client of a fixture: its connections end with the event loop of the test that uses it."""

    def __init__(self, server: str) -> None:
        super().__init__(server)
        self._links = _EndingLinks(server, CONNECT_TIMEOUT)
