"""`TaskClient` for tests: the real one, of a task server in this process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, Self, Unpack

from taskd.client.twisted import TaskClient as RealClient
from taskd.client.words import GivenOptions
from taskd.functions.registry import Registry, registry
from taskd.net.reactor import Reactor
from taskd.testing.server import WORKERS, MemoryServer
from taskd.testing.tokens import GivenTokens

__all__ = ["TaskClient"]


class TaskClient(RealClient):
    """A `taskd.client.TaskClient` of a `MemoryServer` of its own, which `close` ends.

    `reactor` is the one that the test runs in: in a test of trial, return the Deferred.
    `functions`, `workers` and `tokens` are as for `MemoryServer`, `link` and `token` are as for the real
    client.
    """

    def __init__(
        self,
        reactor: Reactor,
        functions: Registry = registry,
        *,
        workers: int = WORKERS,
        link: Literal["per-call", "pooled"] = "per-call",
        tokens: GivenTokens | None = None,
        token: str | Callable[[], str | Awaitable[str]] | None = None,
    ) -> None:
        self._server = MemoryServer(functions, workers=workers, tokens=tokens)
        super().__init__(reactor, self._server.address, link=link, token=token)

    def with_options(self, **options: Unpack[GivenOptions]) -> Self:
        """Return a client with other options, of the same server."""
        made = super().with_options(**options)
        made._server = self._server
        return made

    def close(self) -> None:
        """Drop the connections, and end the server."""
        super().close()
        self._server.close()
