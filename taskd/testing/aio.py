"""`AsyncClient` for tests: the real one, of a task server in this process."""

from __future__ import annotations

from typing import Self, Unpack

from taskd.client.aio import AsyncClient as RealClient
from taskd.client.words import GivenOptions
from taskd.functions.registry import Registry, registry
from taskd.testing.server import WORKERS, MemoryServer

__all__ = ["AsyncClient"]


class AsyncClient(RealClient):
    """A `taskd.client.AsyncClient` of a `MemoryServer` of its own, which `close` ends.

    `functions` and `workers` are as for `MemoryServer`.
    """

    def __init__(self, functions: Registry = registry, *, workers: int = WORKERS) -> None:
        self._server = MemoryServer(functions, workers=workers)
        super().__init__(self._server.address)

    def with_options(self, **options: Unpack[GivenOptions]) -> Self:
        """Return a client with other options, of the same server."""
        made = super().with_options(**options)
        made._server = self._server
        return made

    async def close(self) -> None:
        """Drop the connections, and end the server."""
        await super().close()
        self._server.close()
