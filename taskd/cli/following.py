"""Following a stored task or a batch to its end: each event once, though the connection is lost meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import deferLater

from taskd.cli.stored_ids import Target
from taskd.client import TaskClient
from taskd.errors import Busy, ShuttingDown, TaskdError, Unreachable
from taskd.net.reactor import Reactor
from taskd.protocol.method_names import ATTACH, EVENTS, GET, WAIT

__all__ = ["Event", "Follower", "Patience", "fetch_events", "wait_for_end"]

Event = dict[str, Any]
"""An event, as ``taskd.event`` has it."""

RETRY_SECONDS = 0.5
"""Seconds between two attempts to reach a server that is gone: a restart takes one or two."""

PATIENCE = 60.0
"""Seconds for which a server that is gone is expected to come back."""

RESTARTING = (Unreachable, Busy, ShuttingDown)
"""The errors of a server that is being restarted."""

PAGE = 1000
"""Events that are asked for at once: as many as the server gives."""


async def fetch_events(client: TaskClient, target: Target, after: int = 0) -> list[Event]:
    """Fetch the log after an event, to its end."""
    events: list[Event] = []
    while True:
        if events:
            after = events[-1]["seq"]
        page = await client.request(EVENTS, target.params(after=after, limit=PAGE))
        events += page
        if not page:  # a page of long events is shorter than asked for
            return events


class Patience:
    """The patience with a server that is being restarted: `PATIENCE` seconds from when it was lost.

    `on_lost` is called with the reason whenever the connection is lost.
    """

    def __init__(self, reactor: Reactor, on_lost: Callable[[str], object]) -> None:
        self._reactor = reactor
        self._on_lost = on_lost
        self._lost_at: float | None = None
        self._is_stopping = False
        reactor.addSystemEventTrigger("before", "shutdown", self._stop)

    def _stop(self) -> None:
        self._is_stopping = True

    def found(self) -> None:
        """Note that the server answers."""
        self._lost_at = None

    async def endure(self, error: TaskdError) -> None:
        """Wait a moment before the next try; raise the error instead if that is no use."""
        now = self._reactor.seconds()
        if self._is_stopping or not isinstance(error, RESTARTING):
            raise error
        if self._lost_at is None:
            self._lost_at = now
            self._on_lost(error.message)
        elif now - self._lost_at > PATIENCE:
            raise error
        await deferLater(self._reactor, RETRY_SECONDS)


class Follower:
    """Follows one task or batch: every one of its events is shown once, in order.

    `pushed` must be called with each event that the server pushes. Events up to
    the sequence number `after` are left out. `on_lost` is called with the reason
    when the connection is lost; then the server has `PATIENCE` seconds to come back.
    """

    def __init__(self, *, on_lost: Callable[[str], object], after: int = 0) -> None:
        self._on_lost = on_lost
        self._after = after
        self._target: Target | None = None
        self._show: Callable[[Event], object] = bool  # which does nothing

    def pushed(self, event: Event) -> None:
        """Show an event, unless it was shown before, or is about something else."""
        target = self._target
        if target is not None and event.get(target.kind) == target.id and event["seq"] > self._after:
            self._after = event["seq"]
            self._show(event)

    async def follow(
        self, reactor: Reactor, client: TaskClient, target: Target, show: Callable[[Event], object]
    ) -> dict[str, Any]:
        """Show the events until the end; return the answer of ``taskd.wait``.

        Raises `TaskdError` if the server refuses, or does not come back.
        """
        self._target, self._show = target, show
        patience = Patience(reactor, self._on_lost)
        is_attached = False
        while True:
            try:
                await client.request(ATTACH, target.params(after=self._after))
                is_attached = True
                patience.found()
                answer: dict[str, Any] = await client.request(WAIT, target.params())
                # The answer may have overtaken events that are being pushed.
                for event in await fetch_events(client, target, self._after):
                    self.pushed(event)
            except RESTARTING as error:
                if not is_attached:
                    raise
                await patience.endure(error)
            else:
                return answer


async def wait_for_end(
    reactor: Reactor,
    client: TaskClient,
    target: Target,
    timeout: float | None,
    on_lost: Callable[[str], object],
) -> dict[str, Any]:
    """Wait for the end of a task or a batch, at most `timeout` seconds, over a restart of the server too.

    Returns the answer of ``taskd.wait``. Raises `TaskdError` if the server refuses, or does not come back.
    """
    patience = Patience(reactor, on_lost)
    started = reactor.seconds()
    is_lost = False
    while True:
        left = {} if timeout is None else {"timeout": max(timeout - (reactor.seconds() - started), 0.0)}
        try:
            if is_lost:
                await client.request(GET, target.params())
                patience.found()
                is_lost = False
            answer: dict[str, Any] = await client.request(WAIT, target.params(**left))
        except TaskdError as error:
            await patience.endure(error)
            is_lost = True
        else:
            return answer
