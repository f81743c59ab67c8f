"""The suspension of a worker: somebody has stopped its process (SIGSTOP), and may let it go on (SIGCONT)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.pool.timer import Timer

__all__ = ["SUSPENDED_SECONDS", "Suspension"]

_log = Logger(namespace="taskd.pool")

SUSPENDED_SECONDS = 5.0
"""Seconds for which a worker without a task may be stopped before it is killed: whoever
looks at a process needs less, and a task that it is given meanwhile should not wait longer."""


class Suspension:
    """The times at which one worker's process stops and goes on.

    `check` is called when it has been stopped for `SUSPENDED_SECONDS`. It kills
    the process, or tolerates the suspension; in the latter case it is called again
    after the same time, for the worker may have been given more tasks.
    """

    def __init__(self, clock: IReactorTime, check: Callable[[], None]) -> None:
        self._timer = Timer(clock, check)
        self._tolerated = ""
        """The worker of which the log says that it is stopped while it runs a task, "" if it does not."""

    def begin(self) -> None:
        """Note that the process was stopped."""
        self._timer.start(SUSPENDED_SECONDS)

    def tolerate(self, worker: str, task: str) -> None:
        """Leave the process alone, because the task that it has begun may go on; log that once.

        Whoever has stopped it may want just that.
        """
        if not self._tolerated:
            self._tolerated = worker
            _log.warn(
                "{who} was stopped by a signal while it runs {label}: kill -CONT lets the task go on, "
                "taskd cancel ends it",
                who=worker,
                label=task,
            )
        self._timer.start(SUSPENDED_SECONDS)

    def end(self) -> None:
        """Note that the process goes on, or has ended. Idempotent."""
        self._timer.cancel()
        if self._tolerated:
            _log.info("{who} goes on, or has ended", who=self._tolerated)
            self._tolerated = ""
