"""`Client` for tests: the real one, of a task server in this process."""

from __future__ import annotations

from taskd.client.addresses import server_address
from taskd.client.blocking import Client as RealClient
from taskd.client.exchanges import Exchanges
from taskd.functions.registry import Registry, registry
from taskd.testing.server import WORKERS, MemoryServer

__all__ = ["Client"]


class _OwnExchanges(Exchanges):
    """The exchanges with a server that is closed with them."""

    def __init__(self, server: MemoryServer, pool: int, connect_timeout: float) -> None:
        super().__init__(server_address(server.address), None, pool, connect_timeout)
        self._server = server

    def close(self) -> None:
        """Close the connections, and the server."""
        super().close()
        self._server.close()


class Client(RealClient):
    """A `taskd.client.Client` of a `MemoryServer` of its own, which `close` ends.

    `functions` and `workers` are as for `MemoryServer`.
    """

    def __init__(self, functions: Registry = registry, *, workers: int = WORKERS) -> None:
        server = MemoryServer(functions, workers=workers)
        super().__init__(server.address)
        self._exchanges = _OwnExchanges(server, pool=10, connect_timeout=5.0)
