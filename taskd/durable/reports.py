"""The progress and the partial results of one attempt, on their way to its task's log and to who watches.

An event of the log is pushed after its commit. Progress is pushed at once, unless
an event that comes before it is still to be committed, and stored at most four
times a second; only the newest is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Raw
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from taskd.durable.writer import StoreWriter
from taskd.store.records import Event

__all__ = ["Reports"]

PROGRESS_SECONDS = 0.25
"""Seconds between two times that the progress of a task is stored."""

MAX_LOGGED = 10_000
"""Partial results of an attempt that are stored: enough for anything that people look at."""

MAX_LOGGED_BYTES = 16 * 1024 * 1024
"""Bytes of the partial results of an attempt that are stored."""

MAX_HELD = 1000
"""Partial results that are not stored, and wait until something before them is committed."""


class Reports:
    """The reports of one attempt. `next_seq` gives out its sequence numbers, `push` passes events on.

    If the start of the attempt is not committed yet, `committed` must be called when it is.
    """

    __slots__ = (
        "_clock",
        "_has_ended",
        "_held",
        "_is_cut",
        "_logged",
        "_logged_bytes",
        "_newest",
        "_next",
        "_next_seq",
        "_now",
        "_push",
        "_pushed",
        "_task",
        "_timer",
        "_uncommitted",
        "_writer",
    )

    def __init__(
        self,
        task: str,
        next_seq: Callable[[], int],
        writer: StoreWriter,
        push: Callable[[Iterable[Event]], None],
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        is_start_committed: bool,
    ) -> None:
        self._task = task
        self._next_seq = next_seq
        self._writer = writer
        self._push = push
        self._clock = clock
        self._now = now
        self._uncommitted = 0 if is_start_committed else 1  # events that have not been pushed either
        self._newest: bytes | None = None  # progress that has been neither pushed nor stored
        self._pushed: Event | None = None  # progress that has been pushed, and not stored
        self._held: list[bytes] = []
        self._next = -1.0
        self._timer: IDelayedCall | None = None
        self._logged = self._logged_bytes = 0
        self._is_cut = self._has_ended = False

    def progressed(self, data: bytes) -> None:
        """Push progress, and store it in time; `data` is JSON text of an object."""
        if self._has_ended:
            return
        self._newest = data
        self._push_newest()
        if self._timer is None:
            delay = self._next - self._clock.seconds()
            if delay <= 0:
                self._store()
            else:
                self._timer = self._clock.callLater(delay, self._due)

    def partial(self, value: Raw) -> None:
        """Store a partial result, and push it when it is stored."""
        if self._has_ended:
            return
        data = b'{"value":%b}' % value
        self._logged += 1
        self._logged_bytes += len(data)
        is_cut = self._logged > MAX_LOGGED or self._logged_bytes > MAX_LOGGED_BYTES
        if not is_cut or not self._is_cut:
            self._store()  # before what follows it
            self._write("gap" if is_cut else "partial", b"{}" if is_cut else data)
            self._is_cut = is_cut
        if is_cut:
            self._push_unstored(data)

    def _push_unstored(self, data: bytes) -> None:
        if not self._uncommitted:
            self._push([self._event("partial", data)])
        elif len(self._held) < MAX_HELD:
            self._held.append(data)

    def committed(self, _is_own: bool = True) -> None:  # noqa: FBT001, FBT002
        """Push what waited for an event that is committed now."""
        self._uncommitted -= 1
        if not self._uncommitted and not self._has_ended:
            if self._held:
                held, self._held = self._held, []
                self._push([self._event("partial", data) for data in held])
            if self._newest is not None:
                self._push_newest()

    def end(self) -> None:
        """Store the last progress, and push nothing more: the attempt has ended."""
        self._store()
        self._has_ended = True
        self._held = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _push_newest(self) -> None:
        if self._newest is not None and not self._uncommitted:
            self._pushed, self._newest = self._event("progress", self._newest), None
            self._push([self._pushed])

    def _due(self) -> None:
        self._timer = None
        self._store()

    def _store(self) -> None:
        """Store the newest progress, if it is not stored."""
        if self._newest is not None:
            data, self._newest, self._pushed = self._newest, None, None
            self._write("progress", data)
        elif self._pushed is not None:
            self._writer.event(self._pushed)
            self._pushed = None
        else:
            return
        self._next = self._clock.seconds() + PROGRESS_SECONDS

    def _write(self, event: str, data: bytes) -> None:
        self._uncommitted += 1
        self._writer.event(self._event(event, data), self.committed)

    def _event(self, event: str, data: bytes) -> Event:
        return Event(self._task, self._next_seq(), event, self._now(), data)
