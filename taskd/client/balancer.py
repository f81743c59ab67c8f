"""The choice of the task server that gets the next call. Pure: time is an argument, in seconds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["Balancer", "ServerLoad"]

FIRST_PENALTY = 1.0
"""Seconds that a server is left alone after it failed once; doubled each time."""

MAX_PENALTY = 30.0
"""Seconds: the longest. A server that comes back is then used again within half a minute."""


@dataclass(slots=True, eq=False)
class ServerLoad:
    """One task server: how many calls it has in flight, and how it did lately."""

    name: str
    in_flight: int = 0
    failures: int = 0
    left_alone_until: float = float("-inf")


class Balancer:
    """Chooses the least busy server, and leaves those alone that fail."""

    def __init__(self, names: Collection[str]) -> None:
        self.servers = [ServerLoad(name) for name in names]
        self._only = self.servers[0] if len(self.servers) == 1 else None  # as it mostly is

    def choose(self, now: float, tried: Collection[ServerLoad] = ()) -> ServerLoad | None:
        """The least busy server that is not left alone, and was not `tried`.

        Where all that are left failed lately, the one whose time ends first:
        it may be back, and trying costs less than not answering.
        """
        if self._only is not None and not tried:
            return self._only
        candidates = [server for server in self.servers if server not in tried]
        if not candidates:
            return None
        available = [server for server in candidates if server.left_alone_until <= now]
        if available:
            return min(available, key=lambda server: server.in_flight)
        return min(candidates, key=lambda server: server.left_alone_until)

    def started(self, server: ServerLoad) -> None:
        """A call goes to `server`."""
        server.in_flight += 1

    def answered(self, server: ServerLoad) -> None:
        """`server` answered a call."""
        server.in_flight -= 1
        server.failures = 0
        server.left_alone_until = float("-inf")

    def abandoned(self, server: ServerLoad) -> None:
        """Count a call of `server` for which nobody waits any more; that says nothing about the server."""
        server.in_flight -= 1

    def failed(self, server: ServerLoad, now: float) -> None:
        """`server` could not be reached, or broke off: leave it alone for a growing while.

        Calls that fail together (all of one server that went away) count once.
        """
        server.in_flight -= 1
        if server.left_alone_until <= now:
            server.left_alone_until = now + min(FIRST_PENALTY * 2.0**server.failures, MAX_PENALTY)
            server.failures = min(server.failures + 1, 16)
