"""The events of batches: progress, of which the newest counts, and one end.

Batches have no log: their events follow from their counts. The sequence number
of one is the number of tasks that had ended, and for the end one more.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.internet.interfaces import IReactorTime

from taskd.durable.events import Page
from taskd.store.batches import BatchRecord
from taskd.store.records import Event

__all__ = ["BatchProgress", "batch_page"]

PUSH_SECONDS = 0.25
"""Seconds between two reports of progress: nobody reads more than four a second."""


def _event(batch: BatchRecord, now: float) -> Event:
    counts = {"done": batch.done, "failed": batch.failed, "cancelled": batch.cancelled, "total": batch.total}
    if batch.ended is None:
        return Event(batch.id, batch.over, "progress", now, msgspec.json.encode(counts))
    data = msgspec.json.encode({**counts, "state": batch.state})
    return Event(batch.id, batch.total + 1, "ended", batch.ended, data)


def batch_page(batch: BatchRecord, after: int, now: float) -> Page:
    """Return the events of a batch after a sequence number: the newest one, if that is newer."""
    event = _event(batch, now)
    events = [event] if event.seq > after else []
    return Page(batch.state, event.seq, events, batch.ended is not None, owner=batch.task.owner)


class BatchProgress:
    """Pushes the events of batches; those of progress at a bounded rate."""

    def __init__(
        self, clock: IReactorTime, now: Callable[[], float], push: Callable[[list[Event]], object]
    ) -> None:
        self._clock = clock
        self._now = now
        self._push = push
        self._newest: dict[str, BatchRecord] = {}
        self._is_resting = False

    def changed(self, batches: list[BatchRecord]) -> None:
        """Push the events of batches whose counts have changed, now or in a moment."""
        ended = [_event(batch, 0.0) for batch in batches if batch.ended is not None]
        for event in ended:
            self._newest.pop(event.task, None)
        self._newest.update({batch.id: batch for batch in batches if batch.ended is None})
        if ended:
            self._push(ended)
        if self._newest and not self._is_resting:
            self._push_progress()

    def _push_progress(self) -> None:
        newest, self._newest = self._newest, {}
        self._is_resting = bool(newest)
        if newest:
            self._push([_event(batch, self._now()) for batch in newest.values()])
            self._clock.callLater(PUSH_SECONDS, self._push_progress)
