"""Following a stored task or a batch to its end: each event once, though the connection is lost meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import deferLater

from taskd.cli.stored_ids import Target
from taskd.client import TaskClient
from taskd.errors import Busy, ShuttingDown, Unreachable
from taskd.net.reactor import Reactor
from taskd.protocol.stored_methods import ATTACH, EVENTS, WAIT

__all__ = ["Event", "Follower", "fetch_events"]

Event = dict[str, Any]
"""An event, as ``taskd.event`` has it."""

RETRY_SECONDS = 0.5
"""Seconds between two attempts to reach a server that is gone: a restart takes one or two."""

PATIENCE = 60.0
"""Seconds for which a server that is gone is expected to come back."""

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
        self._is_stopping = False

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
        reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        is_attached = False
        lost_at: float | None = None
        while True:
            try:
                await client.request(ATTACH, target.params(after=self._after))
                is_attached, lost_at = True, None
                answer: dict[str, Any] = await client.request(WAIT, target.params())
                # The answer may have overtaken events that are being pushed.
                for event in await fetch_events(client, target, self._after):
                    self.pushed(event)
            except (Unreachable, Busy, ShuttingDown) as error:
                if self._is_stopping or not is_attached:
                    raise
                now = reactor.seconds()
                if lost_at is None:
                    lost_at = now
                    self._on_lost(error.message)
                elif now - lost_at > PATIENCE:
                    raise
                await deferLater(reactor, RETRY_SECONDS)
            else:
                return answer

    def _stop(self) -> None:
        self._is_stopping = True
