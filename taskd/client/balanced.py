"""One way to several task servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.client.balancer import Balancer, Server
from taskd.client.links import Link, OnProgress
from taskd.errors import Unreachable
from taskd.messages import Call, Failure, Outcome

__all__ = ["BalancedLink"]

_log = Logger(namespace="taskd.client")


class BalancedLink:
    """Sends each call to the least busy server that answers.

    A call that could not be sent goes to the next server. One that was sent
    is never sent again: it may have been run. Its Deferred always fires with
    an outcome; that no server can be reached is one.
    """

    def __init__(self, clock: IReactorTime, servers: Sequence[str], link: Callable[[str], Link]) -> None:
        self._clock = clock
        self._balancer = Balancer(servers)
        self._links = {server: link(server) for server in servers}

    def call(self, call: Call, on_progress: OnProgress | None = None) -> Deferred[Outcome]:
        """As `Link.call`, but it fails with nothing but `CancelledError`."""
        return Deferred.fromCoroutine(self._call(call, on_progress))

    async def _call(self, call: Call, on_progress: OnProgress | None) -> Outcome:
        tried: list[Server] = []
        errors: list[str] = []
        balancer = self._balancer
        while (server := balancer.choose(self._clock.seconds(), tried)) is not None:
            balancer.started(server)
            try:
                outcome = await self._links[server.name].call(call, on_progress)
            except Unreachable as error:
                balancer.failed(server, self._clock.seconds())
                _log.warn("{error}", error=error.message)
                if error.data.get("sent"):
                    return Failure.of(error)
                tried.append(server)
                errors.append(error.message)
            except BaseException:
                balancer.abandoned(server)
                raise
            else:
                balancer.answered(server)
                return outcome
        return Failure.of(Unreachable("; ".join(errors), sent=False))

    def close(self) -> None:
        """Drop every connection."""
        for link in self._links.values():
            link.close()
