"""The watchers of stored tasks and batches, and the pushing of events to them.

A watcher gets every event of the log once and in order: it is added first, then
the log is read after what it has seen, then events are pushed as they come,
except those that it has got. While a connection is slow to read, nothing is
kept for it: once it reads again, the log is read after the last event that it
has got. So it misses only progress that newer progress has replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.durable.answers import unknown
from taskd.errors import InternalError, TaskdError
from taskd.model import Failure
from taskd.protocol.event_lines import Kind, event_line, event_params
from taskd.store.base import StoreError
from taskd.store.records import Event

__all__ = ["EventHub", "Page", "Watcher", "params_of", "with_result"]

_log = Logger(namespace="taskd.store")

PAGE = 50
"""Events that are read from a log at once: each may be long, and the next are read once these are sent."""

PAGE_BYTES = 131_072
"""Bytes of events that are read from a log at once, judging by those read before: a connection that is slow
to read takes about as many, and the others would be read again."""

MAX_READS = 2
"""Logs that are read at once: whoever else reads waits no longer than these take."""

MAX_EARLY = 1000
"""Events that are kept for a watcher while the log is read for it: more come only if reading takes long,
and then the log is read again."""

NEVER = (1 << 62) - 1
"""A sequence number that no event has."""

CROWD = 50
"""Connections that watch the same, up to which they get all progress at once."""

PACE = 0.25
"""Seconds between two reports of progress to more of them: 1000 of them take some 15 ms each time."""

UNFLUSHED = 65536
"""Bytes that are given to a connection before it is asked whether it reads them."""

LAST_EVENTS = frozenset({"succeeded", "cancelled", "expired", "ended", "detached"})
"""Events after which there are no others, whatever anybody does; "detached" is in no log."""


class Page(msgspec.Struct, frozen=True):
    """A part of a log, and the state of what it is about, read before it.

    `seq` is the number of the last event that was in the log then. If it
    `has_more`, the events after these can be read; nothing can follow if `is_over`.
    """

    state: str
    seq: int
    events: list[Event]
    is_over: bool = False
    has_more: bool = False
    owner: str | None = None
    """Whom it belongs to, None if that is not known here, but where it was read."""


Read = Callable[[Kind, str, int, int], "Deferred[Page | None]"]
"""Reads up to so many events of a task or a batch after a sequence number; None if it does not exist."""


class Watcher(Protocol):
    """A connection that events can be pushed to."""

    watches: int
    """How many tasks and batches the connection watches."""

    @property
    def is_congested(self) -> bool:
        """Whether the connection is slow to read; `EventHub.resume` is called when it is not any more."""

    def notify(self, line: bytes, /) -> None:
        """Send a notification, without its LF. `flush` follows."""

    def flush(self) -> None:
        """Send what has been passed on."""


class _State(Enum):
    READING = auto()
    """The log is being read."""
    LIVE = auto()
    BEHIND = auto()
    """The connection is slow: the log is read when it reads again."""
    HELD = auto()
    """The answer to the attach has not been sent: the log is read when it has been."""


class _Watch:
    """One connection that watches one task or batch; `sent` is the number of the last event that it got."""

    __slots__ = ("early", "has_missed", "id", "kind", "page", "sent", "state", "watcher")

    def __init__(self, watcher: Watcher, kind: Kind, id: str, sent: int) -> None:  # noqa: A002
        self.watcher = watcher
        self.kind = kind
        self.id = id
        self.sent = sent
        self.state = _State.READING
        self.early: list[Event] = []
        self.has_missed = False
        self.page = PAGE
        """Events to be read from the log at once."""


class EventHub:
    """Pushes events to whoever watches. `read` reads the logs, `now` returns the seconds since 1970.

    `completed` returns a published event as it should be pushed, and is called only if somebody gets it.
    `unwatched` is called with the kind and the id of what nobody watches any more.
    At most `max_reads` logs are read at once.
    """

    def __init__(
        self,
        clock: IReactorTime,
        read: Read,
        now: Callable[[], float],
        completed: Callable[[Event], Event] = lambda event: event,
        unwatched: Callable[[Kind, str], object] = lambda kind, id_: None,  # noqa: ARG005
        max_reads: int = MAX_READS,
    ) -> None:
        self._clock = clock
        # The newest progress of what many watch: None if it has been pushed, and newer progress has to wait.
        self._paced: dict[str, Event | None] = {}
        # The newest progress of what is watched, if nothing follows it. It may not be in the log yet.
        self._newest: dict[str, Event] = {}
        self._read = read
        self._reads = DeferredSemaphore(max_reads)
        self._now = now
        self._completed = completed
        self._unwatched = unwatched
        self._watches: dict[str, dict[Watcher, _Watch]] = {}
        self._by_watcher: dict[Watcher, dict[str, _Watch]] = {}
        self._unflushed: dict[Watcher, int] = {}
        self.began: Callable[[str], object] = bool  # which does nothing
        """Called with a task or batch when somebody begins to watch it, and nobody else does."""

    @property
    def watched(self) -> int:
        """The number of tasks and batches that anybody watches."""
        return len(self._watches)

    def watched_of(self, kind: Kind) -> list[str]:
        """Return the tasks or the batches that anybody watches."""
        return [id_ for id_, by in self._watches.items() if next(iter(by.values())).kind == kind]

    def kind_of(self, id_: str) -> Kind | None:
        """Return whether it is a task or a batch that somebody watches; None if nobody does."""
        by = self._watches.get(id_)
        return None if by is None else next(iter(by.values())).kind

    def is_watched(self, id: str) -> bool:  # noqa: A002
        """Return whether anybody watches a task or a batch."""
        return id in self._watches

    # --- who watches ---

    def attach(
        self,
        watcher: Watcher,
        kind: Kind,
        id: str,  # noqa: A002
        after: int,
        answer: Callable[[Page | Exception | None], object],
        check: Callable[[Page], object] = bool,  # which raises nothing
    ) -> None:
        """Push the events of a task or batch after `after` to a connection, until `detach` or the last one.

        If `after` is negative, only events that are not in the log yet are pushed.
        `answer` is called before the first event, with a page for the state, None if
        there is no such task or batch, or why the log cannot be read. `check` raises
        `TaskdError` if the watcher may not read it.
        """
        self.detach(watcher, id)
        watch = _Watch(watcher, kind, id, after)
        if id not in self._watches:
            self.began(id)
        self._watches.setdefault(id, {})[watcher] = watch
        self._by_watcher.setdefault(watcher, {})[id] = watch
        watcher.watches += 1

        def is_there(page: Page | None) -> Page | None:
            if page is None:
                self._forget(watch)
            else:
                check(page)
            answer(page)
            return page

        def cannot(reason: TwistedFailure) -> None:
            self._forget(watch)
            if isinstance(reason.value, StoreError | TaskdError):
                answer(reason.value)
            else:
                answer(InternalError("a bug in taskd; see its log"))
                _broke(reason)

        reading = self._reads.run(self._read, kind, id, after if after >= 0 else NEVER, PAGE)
        reading.addCallback(is_there)
        reading.addErrback(cannot)
        reading.addCallback(self._have_read, watch)
        reading.addErrback(_broke)

    def detach(self, watcher: Watcher, id: str) -> bool:  # noqa: A002
        """Push no more events of a task or batch to a connection; return whether any were."""
        watch = self._by_watcher.get(watcher, {}).get(id)
        if watch is not None:
            self._forget(watch)
        return watch is not None

    def hold(self, watcher: Watcher, id: str) -> None:  # noqa: A002
        """Push the events of a task or batch to a connection after `release` only.

        Call this when an attach is answered, if the answer is not sent at once.
        """
        watch = self._by_watcher.get(watcher, {}).get(id)
        if watch is not None:
            watch.state = _State.HELD

    def release(self, watcher: Watcher, id: str) -> None:  # noqa: A002
        """Begin to push events that were on `hold`."""
        watch = self._by_watcher.get(watcher, {}).get(id)
        if watch is not None and watch.state is _State.HELD:
            self._read_on(watch)

    def gone(self, watcher: Watcher) -> None:
        """Push nothing more to a connection."""
        for watch in list(self._by_watcher.get(watcher, {}).values()):
            self._forget(watch)

    def _forget(self, watch: _Watch) -> None:
        watches = self._watches.get(watch.id, {})
        if watches.get(watch.watcher) is not watch:
            return
        watch.watcher.watches -= 1
        del watches[watch.watcher]
        if not watches:
            del self._watches[watch.id]
            self._newest.pop(watch.id, None)
        others = self._by_watcher[watch.watcher]
        del others[watch.id]
        if not others:
            del self._by_watcher[watch.watcher]
        if not watches:
            self._unwatched(watch.kind, watch.id)

    def _is_over(self, watch: _Watch) -> bool:
        return self._watches.get(watch.id, {}).get(watch.watcher) is not watch

    def lose(self, id: str) -> None:  # noqa: A002
        """Push a last event to all who watch a task or batch: it does not exist any more."""
        for watch in list(self._watches.get(id, {}).values()):
            self._lose(watch)
        self._flush()

    def _lose(self, watch: _Watch) -> None:
        error = msgspec.json.encode(Failure.of(unknown(watch.kind, watch.id)))
        event = Event(watch.id, max(watch.sent, 0), "detached", self._now(), b'{"error":%b}' % error)
        self._send(watch, event, event_line(params_of(watch.kind, event)))
        self._flush()

    # --- live events ---

    def publish(self, events: Iterable[Event]) -> None:
        """Push events to whoever watches: of each task or batch in order, its id being `Event.task`.

        They are in its log by now, or are progress, or are of what has no log.
        """
        watched = self._watches
        for event in events:
            watches = watched.get(event.task)
            if watches is None:
                continue
            if event.event == "progress":
                newest = self._newest.get(event.task)
                if newest is not None and event.seq <= newest.seq:
                    continue  # pushed before, and in the log by now
                self._newest[event.task] = event
                if len(watches) > CROWD and not self._may_push(event):
                    continue
            else:
                self._newest.pop(event.task, None)
                if (paced := self._paced.get(event.task)) is not None:
                    self._paced[event.task] = None
                    self._publish(paced, watches)
            self._publish(self._completed(event), watches)
        self._flush()

    def _may_push(self, event: Event) -> bool:
        """Return whether to push progress now; if not it is pushed later, or newer progress in its place."""
        if event.task in self._paced:
            self._paced[event.task] = event
            return False
        if not self._paced:
            self._clock.callLater(PACE, self._push_paced)
        self._paced[event.task] = None
        return True

    def _push_paced(self) -> None:
        paced, self._paced = self._paced, {}
        for id_, event in paced.items():
            if event is not None:
                self._paced[id_] = None
                self._publish(event, self._watches.get(id_, {}))
        if self._paced:
            self._clock.callLater(PACE, self._push_paced)
        self._flush()

    def _publish(self, event: Event, watches: dict[Watcher, _Watch]) -> None:
        line = b""
        for watch in list(watches.values()):
            if event.seq <= watch.sent:
                continue
            if watch.state is _State.LIVE:
                if watch.watcher.is_congested:
                    watch.state = _State.BEHIND
                else:
                    line = line or event_line(params_of(watch.kind, event))
                    self._send(watch, event, line)
            elif watch.state is _State.READING:
                if len(watch.early) < MAX_EARLY:
                    watch.early.append(event)
                else:
                    watch.has_missed = True
            elif watch.state is _State.BEHIND and not watch.watcher.is_congested:  # the log could not be read
                self._read_on(watch)

    def _send(self, watch: _Watch, event: Event, line: bytes) -> None:
        watcher = watch.watcher
        watch.sent = event.seq
        watcher.notify(line)
        unflushed = self._unflushed.get(watcher, 0) + len(line)
        self._unflushed[watcher] = unflushed
        if event.event in LAST_EVENTS:
            self._forget(watch)
        if unflushed > UNFLUSHED:
            del self._unflushed[watcher]
            watcher.flush()

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, {}
        for watcher in unflushed:
            watcher.flush()

    # --- reading the log ---

    def resume(self, watcher: Watcher) -> None:
        """Go on with a connection that was congested."""
        for watch in list(self._by_watcher.get(watcher, {}).values()):
            if watch.state is _State.BEHIND:
                self._read_on(watch)

    def look_again(self, ids: Iterable[str] | None = None) -> None:
        """Read the logs of these tasks and batches for who watches them, of all by default.

        Something may have been added to them unseen.
        """
        for id_ in list(self._watches) if ids is None else ids:
            for watch in list(self._watches.get(id_, {}).values()):
                if watch.state is _State.READING:
                    watch.has_missed = True
                elif watch.state is not _State.HELD and not watch.watcher.is_congested:
                    self._read_on(watch)

    def _read_on(self, watch: _Watch) -> None:
        watch.state = _State.READING
        watch.has_missed = False
        watch.early = []
        reading = self._reads.run(self._read_page, watch)
        reading.addCallbacks(self._have_read, self._cannot_read, callbackArgs=(watch,), errbackArgs=(watch,))
        reading.addErrback(_broke)

    def _read_page(self, watch: _Watch) -> Deferred[Page | None]:
        if self._is_over(watch):
            return succeed(None)
        return self._read(watch.kind, watch.id, watch.sent, watch.page)

    def _read_next(self, watch: _Watch) -> None:
        if not self._is_over(watch):
            self._read_on(watch)

    def _cannot_read(self, reason: TwistedFailure, watch: _Watch) -> None:
        _log.warn("the events of {id} cannot be read: {why}", id=watch.id, why=reason.getErrorMessage())
        watch.state = _State.BEHIND

    def _have_read(self, page: Page | None, watch: _Watch) -> None:
        if self._is_over(watch):
            return
        if page is None:
            self._lose(watch)
            return
        if watch.sent < 0:
            watch.sent = page.seq
        size = sum(len(event.data) for event in page.events)
        watch.page = min(PAGE, PAGE_BYTES * len(page.events) // size or 1) if size else PAGE
        if watch.state is _State.HELD:
            watch.early = []
            return
        if not self._send_all(watch, page.events):
            return
        if page.has_more or watch.has_missed:
            # In a turn of its own, so that others have theirs; the log may be read at once.
            self._clock.callLater(0, self._read_next, watch)
            return
        early, watch.early = watch.early, []
        if (newest := self._newest.get(watch.id)) is not None:
            early.append(newest)
        if self._send_all(watch, early):
            watch.state = _State.LIVE
            if page.is_over:
                self._forget(watch)

    def _send_all(self, watch: _Watch, events: list[Event]) -> bool:
        """Send those of these events that are new; return whether all were, and more may follow."""
        for event in events:
            if watch.watcher.is_congested:
                watch.state = _State.BEHIND
                watch.early = []
                return False
            if event.seq > watch.sent:
                self._send(watch, event, event_line(params_of(watch.kind, event)))
                if self._is_over(watch):
                    break
        self._flush()
        return not self._is_over(watch)


def with_result(event: Event, result: bytes | None) -> Event:
    """Return the event of a task that has succeeded with its result, which its log does not repeat."""
    return event if result is None else msgspec.structs.replace(event, data=b'{"result":%b}' % result)


def params_of(kind: Kind, event: Event) -> bytes:
    """Encode an event as a JSON object."""
    return event_params(kind, event.task, event.seq, event.event, round(event.at, 3), event.data)


def _broke(reason: TwistedFailure) -> None:
    _log.failure("a bug in taskd", reason)
