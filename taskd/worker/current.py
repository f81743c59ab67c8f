"""The source of `taskd.current_task` in a worker."""

from __future__ import annotations

import time
from _thread import _count
from contextvars import ContextVar, Token

from taskd.functions.current import NO_TASK, CurrentTask
from taskd.worker.interrupts import Interrupter
from taskd.worker.messages import Attempt, DescribedAttempt
from taskd.worker.older_threads import OlderThreads

__all__ = ["CurrentTasks"]

_NO_THREADS = OlderThreads()


class _Running:
    """A described attempt, and when it began (`time.perf_counter`)."""

    __slots__ = ("attempt", "started")

    def __init__(self, attempt: DescribedAttempt, started: float) -> None:
        self.attempt = attempt
        self.started = started

    def task(self) -> CurrentTask:
        """Return what the attempt's function learns of its task."""
        given = self.attempt
        left = None
        if given.limit is not None:
            left = max(given.limit - (time.perf_counter() - self.started), 0.0)
        return CurrentTask(
            given.task, given.id, given.attempt, left, given.was_interrupted, given.traceparent, given.node
        )


_in_context: ContextVar[_Running | None] = ContextVar("taskd_current_task", default=None)
"""The described attempt whose code runs in this context."""


class CurrentTasks:
    """Knows the task that runs.

    Code that runs in the context of a described attempt belongs to that one, whenever it
    runs. A thread has no context; it belongs to the running attempt, unless it is
    older. Of other attempts nothing is noted: only their number is known.
    """

    def __init__(self, interrupter: Interrupter) -> None:
        self._interrupter = interrupter
        self._running: _Running | None = None
        self._threads = _NO_THREADS
        self._before: Token[_Running | None] | None = None

    def begin(self, attempt: DescribedAttempt, started: float) -> None:
        """Note that a described attempt begins; `end` must follow, in the same context."""
        self._threads = OlderThreads() if _count() else _NO_THREADS
        self._running = _Running(attempt, started)
        self._before = _in_context.set(self._running)

    def end(self) -> None:
        """Note that the attempt has ended."""
        self._running = None
        if self._before is not None:
            _in_context.reset(self._before)
            self._before = None

    def current(self) -> CurrentTask:
        """Return the task to which the calling code belongs, as `taskd.current_task` does."""
        running = _in_context.get()
        if running is None and self._running is not None and not self._threads.have_current():
            running = self._running
        if running is not None:
            return running.task()
        attempt = self._interrupter.running
        return CurrentTask(attempt.task) if type(attempt) is Attempt else NO_TASK
