"""The logs of stored tasks and batches, as they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred

from taskd.durable.batch_events import batch_page
from taskd.durable.events import Page, with_result
from taskd.durable.ownership import shows_arguments
from taskd.durable.run import Run
from taskd.durable.settling import without_internals
from taskd.durable.writer import Execute
from taskd.model import ANONYMOUS, Grant
from taskd.protocol.event_lines import Kind
from taskd.store.base import Store
from taskd.store.records import FINAL, Event

__all__ = ["TaskLog"]


class TaskLog:
    """Reads the logs in a store; `runs` are the claimed tasks by their ids.

    Tracebacks, output and memory are left out, unless callers get the tracebacks of their own calls
    too (`shows_tracebacks`).
    """

    def __init__(
        self, store: Store, read: Execute, now: Callable[[], float], runs: Mapping[str, Run]
    ) -> None:
        self._store = store
        self._read = read
        self._now = now
        self._runs = runs
        self.shows_tracebacks = False
        """Whether everybody gets the tracebacks; set by whoever knows."""

    def read(
        self,
        kind: Kind,
        id: str,  # noqa: A002
        after: int,
        limit: int,
        *,
        grant: Grant = ANONYMOUS,
    ) -> Deferred[Page | None]:
        """Read a part of the log of a task or a batch, and its state; None if there is none.

        Who has the `grant` gets tracebacks, if they are of its own tasks.
        """

        def page() -> Page | None:
            if kind == "batch":
                batch = self._store.batches.get(id)
                return None if batch is None else batch_page(batch, after, self._now())
            record = self._store.get(id)
            if record is None:
                return None
            events = self._store.events(id, after, limit)
            owner = record.new.owner
            if not shows_arguments(grant, owner):
                events = [self._shown(each) for each in events]
            if events and events[-1].event == "succeeded":
                record = self._store.get(id) or record  # it may have ended meanwhile
                events[-1] = with_result(events[-1], record.outcome)
            is_over = record.state in FINAL and len(events) < limit
            has_more = len(events) == limit
            return Page(record.state.name.lower(), record.last_seq, events, is_over, has_more, owner)

        return self._read(page)

    def _shown(self, event: Event) -> Event:
        return event if self.shows_tracebacks else without_internals(event)

    def completed(self, event: Event) -> Event:
        """Return an event that has just been stored as it is shown: the end of a task has its result."""
        run = self._runs.get(event.task) if event.event == "succeeded" else None
        return self._shown(event) if run is None else with_result(event, run.result)
