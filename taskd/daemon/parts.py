"""The parts of a daemon that stop in steps: the task server, its connections, the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred, succeed

from taskd.listeners.tcp import TaskFactory
from taskd.server.task_server import TaskServer

if TYPE_CHECKING:
    from taskd.listeners.gateway import Gateway

__all__ = ["GatewayPart", "Part", "Parts", "ServerPart", "TcpPart"]


class Part(Protocol):
    """A part of a daemon, as far as stopping the daemon needs it.

    Each method is called at most once, in this order, except for `abort`: it
    may come at any time, before and during `close`, and more than once.
    """

    def stop_accepting(self) -> None:
        """Refuse new work from now on; what was taken goes on."""

    def drain(self) -> Deferred[None]:
        """Fire when everything that was taken has ended."""

    def abort(self) -> None:
        """End at once what is left, so that `drain` or `close` fires soon."""

    def close(self) -> Deferred[None]:
        """Release everything; fire when nothing is left."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one daemon, by kind.

    A gateway alone has no `connections` and no `server`, a task server alone no `gateway`.
    """

    gateway: Sequence[Part] = ()
    connections: Sequence[Part] = ()
    server: Sequence[Part] = ()

    @property
    def present(self) -> list[Part]:
        """All of them."""
        return [*self.gateway, *self.connections, *self.server]

    @property
    def with_tasks(self) -> list[Part]:
        """Those that tasks are in flight in: connections only wait for these."""
        return [*self.gateway, *self.server]


# --- adapters: to be removed once the parts themselves have these four methods ---


class ServerPart:
    """A `TaskServer` as a `Part`."""

    def __init__(self, server: TaskServer) -> None:
        self._server = server
        self._drained: Deferred[None] = Deferred()
        self._is_closing = False

    def stop_accepting(self) -> None:
        """Refuse tasks."""
        self._server.drain().chainDeferred(self._drained)

    def drain(self) -> Deferred[None]:
        """Fire when every task has ended."""
        return self._drained

    def abort(self) -> None:
        """Answer every task, and kill the workers that run one; during `close`, kill every worker."""
        if self._is_closing:
            self._server.end_now()
        else:
            self._server.give_up()

    def close(self) -> Deferred[None]:
        """End every process."""
        self._is_closing = True
        return self._server.stop()


class TcpPart:
    """A `TaskFactory` as a `Part`."""

    def __init__(self, factory: TaskFactory) -> None:
        self._factory = factory

    def stop_accepting(self) -> None:
        """Do nothing: the task server refuses new tasks, the ports new connections."""

    def drain(self) -> Deferred[None]:
        """Close every connection behind what it is owed; fire when all are closed."""
        return self._factory.finish()

    def abort(self) -> None:
        """Drop every connection."""
        self._factory.abort()

    def close(self) -> Deferred[None]:
        """Do nothing: `drain` has closed everything."""
        return succeed(None)


class GatewayPart:
    """A `Gateway` as a `Part`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._drained: Deferred[None] = Deferred()

    def stop_accepting(self) -> None:
        """Refuse messages."""
        self._gateway.drain().chainDeferred(self._drained)

    def drain(self) -> Deferred[None]:
        """Fire when every message is answered."""
        return self._drained

    def abort(self) -> None:
        """Answer every message."""
        self._gateway.give_up()

    def close(self) -> Deferred[None]:
        """Close every websocket."""
        return self._gateway.close()
