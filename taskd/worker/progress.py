"""Sending the progress of the running task to the daemon, at a bounded rate."""

from __future__ import annotations

import time
from _thread import allocate_lock
from collections.abc import Callable
from typing import TYPE_CHECKING

from taskd.functions.progress import check_report
from taskd.worker.messages import Reported

if TYPE_CHECKING:
    from threading import Condition

__all__ = ["ProgressReporter"]

PROGRESS_INTERVAL = 0.05
"""Seconds between two reports of a task: 20 a second look smooth."""


class ProgressReporter:
    """Sends the progress of the running task, at most every `PROGRESS_INTERVAL`.

    A report that comes too soon is kept, and the next one replaces it. A
    thread, started when first needed, sends the kept report when it is due,
    since the task itself may not report again for minutes.
    """

    def __init__(self, send: Callable[[Reported], None]) -> None:
        self._send = send
        self._lock = allocate_lock()
        self._wake: Condition | None = None
        self._task: int | None = None
        self._kept: Reported | None = None
        self._next_at = 0.0

    def begin(self, task: int) -> None:
        """Attribute the following reports to `task`."""
        self._task = task
        self._next_at = 0.0

    def end(self) -> None:
        """Send the kept report, if any: the task has ended, and nothing is sent for it afterwards."""
        with self._lock:
            if self._kept is not None:
                self._send(self._kept)
            self._kept = self._task = None

    def report(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Send a report, now or later, as `taskd.progress` does in a worker; raises as that does."""
        done, total, message = check_report(done, total, message)
        with self._lock:
            if self._task is None:
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
