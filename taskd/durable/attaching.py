"""The methods about the events of stored tasks: ``taskd.attach``, ``taskd.detach`` and ``taskd.events``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Protocol

from msgspec import Raw
from twisted.internet.defer import Deferred

from taskd.durable.answers import answer_by, refused, result, unknown
from taskd.durable.events import EventHub, Page, params_of
from taskd.durable.ownership import check_may_see
from taskd.errors import Busy, InvalidParams
from taskd.model import ANONYMOUS, Failure, Grant, Outcome, Result
from taskd.protocol.event_lines import Kind
from taskd.server.methods import Asker
from taskd.store.records import Event

__all__ = ["Attaching", "named_target"]

MAX_WATCHES = 10_000
"""Tasks and batches that one connection watches at once: each takes some 500 bytes."""

MAX_EVENTS = 1000
"""Events in one answer to ``taskd.events``."""

MAX_EVENT_BYTES = 1024 * 1024
"""Bytes of the events in one answer to ``taskd.events``, unless it is one event; then others can be read."""


class ReadLog(Protocol):
    """Reads a part of the log of a task or a batch, and its state; None if there is none."""

    def __call__(
        self, kind: Kind, task: str, after: int, limit: int, /, *, grant: Grant = ANONYMOUS
    ) -> Deferred[Page | None]: ...


class Attaching:
    """Handles the methods about events. `read` reads the logs, `hub` pushes what is added to them."""

    def __init__(self, hub: EventHub, read: ReadLog) -> None:
        self._hub = hub
        self._read = read

    def attach(
        self, asker: Asker, task: str | None = None, batch: str | None = None, after: int = 0
    ) -> Outcome | None:
        """Answer with the state, and push the events to the asker's connection."""
        kind, id_ = _named("attach", task, batch)
        _check_after("attach", after, least=-1)
        requester = asker.requester
        if requester.watches >= MAX_WATCHES:
            raise Busy(
                f"taskd.attach: a connection watches at most {MAX_WATCHES} tasks and batches; detach some"
            )
        if not asker.wants_answer:
            raise InvalidParams("taskd.attach: has an answer, so it must have an id")

        def answer(page: Page | Exception | None) -> None:
            asker.answer(_outcome(page, kind, id_))
            if isinstance(page, Page) and asker.when_sent(partial(self._hub.release, requester, id_)):
                self._hub.hold(requester, id_)

        grant = asker.grant
        self._hub.attach(requester, kind, id_, after, answer, lambda page: _check(grant, page))
        return None

    def detach(self, asker: Asker, task: str | None = None, batch: str | None = None) -> Outcome:
        """Push no more events to the asker's connection."""
        _, id_ = _named("detach", task, batch)
        was = self._hub.detach(asker.requester, id_)
        return result({"was": "attached" if was else "not attached"})

    def events(
        self, asker: Asker, task: str | None, batch: str | None, after: int, limit: int
    ) -> Outcome | None:
        """Answer with events."""
        kind, id_ = _named("events", task, batch)
        _check_after("events", after)
        if not 0 < limit <= MAX_EVENTS:
            raise InvalidParams(f"taskd.events: limit is 1 to {MAX_EVENTS}, not {limit}", argument="limit")

        grant = asker.grant

        def answer(page: Page | None) -> None:
            if page is None:
                asker.answer(_outcome(page, kind, id_))
            else:
                _check(grant, page)
                asker.answer(Result(Raw(b"[%b]" % b",".join(_some(kind, page.events)))))

        reading = self._read(kind, id_, after, limit, grant=grant)
        answer_by(reading, answer, asker.answer)
        return None


def _check(grant: Grant, page: Page) -> None:
    if page.owner is not None:
        check_may_see(grant, page.owner)


def _some(kind: Kind, events: list[Event]) -> Iterator[bytes]:
    """Encode events, up to `MAX_EVENT_BYTES` together, but one at least."""
    size = 0
    for event in events:
        params = params_of(kind, event)
        size += len(params)
        if size > MAX_EVENT_BYTES and size > len(params):
            return
        yield params


def _named(method: str, task: str | None, batch: str | None) -> tuple[Kind, str]:
    if (task is None) is (batch is None):
        raise InvalidParams(f"taskd.{method}: takes either a task or a batch", argument="task")
    return ("batch", batch) if batch is not None else ("task", task or "")


def named_target(
    task: str | None = None,
    batch: str | None = None,
    after: int = 0,  # noqa: ARG001  # the other parameter of an attach
) -> tuple[Kind, str]:
    """Return what an attach names. Raises `InvalidParams` unless it is one task or batch."""
    return _named("attach", task, batch)


def _check_after(method: str, after: int, least: int = 0) -> None:
    if after < least:
        raise InvalidParams(
            f"taskd.{method}: after is the sequence number of an event, or 0 for all, or -1 (of attach) for "
            f"new ones alone, not {after}",
            argument="after",
        )


def _outcome(page: Page | Exception | None, kind: Kind, id_: str) -> Outcome:
    if isinstance(page, Exception):
        return refused(page)
    if page is None:
        return Failure.of(unknown(kind, id_))
    return result({"state": page.state, "seq": page.seq})
