"""Sending the progress of the running task to the daemon, at a bounded rate."""

from __future__ import annotations

import time
from _thread import _count, allocate_lock
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from taskd.functions.hiding import Hide, unhidden
from taskd.functions.progress import check_report
from taskd.worker.messages import Reported
from taskd.worker.older_threads import OlderThreads

if TYPE_CHECKING:
    from threading import Condition

__all__ = ["UNREPORTED", "ProgressReporter", "running_task"]

PROGRESS_INTERVAL = 0.05
"""Seconds between two reports of a task: 20 a second look smooth."""


running_task: ContextVar[int | None] = ContextVar("taskd_running_task", default=None)
"""The number of the task whose code runs in this context, `UNREPORTED` if its progress is not wanted;
None in a context that is not a copy of the worker's, such as that of a thread."""

UNREPORTED = 0
"""No task's number. Tasks whose progress is not wanted share it, which saves setting it for each."""

_NO_THREADS = OlderThreads()


class ProgressReporter:
    """Sends the progress of the running task, at most every `PROGRESS_INTERVAL`.

    What an earlier task has left behind reports nothing: an asyncio task, a
    callback or a thread that runs in its context, and a thread without a context
    that was busy when the running task began.

    A report that comes too soon is kept, and the next one replaces it. A
    thread, started when first needed, sends the kept report when it is due,
    since the task itself may not report again for minutes.

    `hider` returns what masks the secrets of the running task in the texts.
    """

    def __init__(
        self, send: Callable[[Reported], None], hider: Callable[[], Hide] = lambda: unhidden
    ) -> None:
        self._send = send
        self._hider = hider
        self._hide: Hide | None = None
        self._lock = allocate_lock()
        self._wake: Condition | None = None
        self._task: int | None = None
        self._kept: Reported | None = None
        self._next_at = 0.0
        self._threads = _NO_THREADS

    def begin(self, task: int) -> None:
        """Attribute the following reports to `task`, which must be `running_task` in its context."""
        threads = OlderThreads() if _count() else _NO_THREADS
        with self._lock:  # an older thread may be reporting just now
            self._threads = threads
            self._task = task
            self._next_at = 0.0
            self._hide = None

    def end(self) -> None:
        """Send the kept report, if any: the task has ended, and nothing is sent for it afterwards."""
        with self._lock:
            if self._kept is not None:
                self._send(self._kept)
            self._kept = self._task = self._hide = None

    def report(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Send a report, now or later, as `taskd.progress` does in a worker; raises as that does."""
        if message is not None and self._hide is None:
            self._hide = self._hider()
        done, total, message = check_report(done, total, message, self._hide or unhidden)
        with self._lock:
            if self._task is None or not self._is_of_task():
                return
            report = Reported(self._task, done, total, message)
            now = time.monotonic()
            if now >= self._next_at:
                self._kept = None
                self._next_at = now + PROGRESS_INTERVAL
                self._send(report)
                return
            self._kept = report
            if self._wake is None:
                # Imported only here: `threading` costs each process that is forked with it 0.4 MiB.
                from threading import Condition, Thread

                self._wake = Condition(self._lock)
                Thread(target=self._send_kept, args=(self._wake,), name="progress", daemon=True).start()
            self._wake.notify()

    def _is_of_task(self) -> bool:
        """Return whether the calling code belongs to the running task."""
        task = running_task.get()
        if task is not None:
            return task == self._task
        # Threads start with an empty context, but for those of asyncio.to_thread and the like.
        return not self._threads.have_current()

    def _send_kept(self, wake: Condition) -> None:
        with wake:
            while True:
                if self._kept is None:
                    wake.wait()
                elif (left := self._next_at - time.monotonic()) > 0:
                    wake.wait(left)
                else:
                    self._next_at = time.monotonic() + PROGRESS_INTERVAL
                    self._send(self._kept)
                    self._kept = None
