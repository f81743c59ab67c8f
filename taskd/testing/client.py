"""`Client` for tests: the real one, of a task server in this process."""

from __future__ import annotations

from collections.abc import Callable

from taskd.client.addresses import server_address
from taskd.client.blocking import Client as RealClient
from taskd.client.exchanges import Exchanges
from taskd.client.tokens import Credentials, credentials_of
from taskd.functions.registry import Registry, registry
from taskd.testing.server import WORKERS, MemoryServer
from taskd.testing.tokens import GivenTokens

__all__ = ["Client"]


class _OwnExchanges(Exchanges):
    """The exchanges with a server that is closed with them."""

    def __init__(
        self, server: MemoryServer, pool: int, connect_timeout: float, credentials: Credentials | None
    ) -> None:
        address = server_address(server.address)
        super().__init__(address, None, pool, connect_timeout, credentials=credentials)
        self._server = server

    def close(self) -> None:
        """Close the connections, and the server."""
        super().close()
        self._server.close()


class Client(RealClient):
    """A `taskd.client.Client` of a `MemoryServer` of its own, which `close` ends.

    `functions`, `workers` and `tokens` are as for `MemoryServer`, `token` is as for the real client.
    """

    def __init__(
        self,
        functions: Registry = registry,
        *,
        workers: int = WORKERS,
        tokens: GivenTokens | None = None,
        token: str | Callable[[], str] | None = None,
    ) -> None:
        credentials = credentials_of(token)
        server = MemoryServer(functions, workers=workers, tokens=tokens)
        super().__init__(server.address)
        self._exchanges = _OwnExchanges(server, 10, 5.0, credentials)
