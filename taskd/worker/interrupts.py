"""How a running function is interrupted, and nothing else is.

The daemon writes to the worker's channel what it wants, and sends a signal to
have it read while a function runs. The signal itself says nothing: one that
comes too late finds nothing to do, and can hit no other task.

Python runs signal handlers in the main thread, between two instructions of
whatever runs there. So the handler acts only while a task's function runs, and
not where that is in code of ours that must not be left half-way (a line that
is being written); there it leaves a mark, which is seen to afterwards.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from taskd.functions.stops import TaskCancelled, TaskTimeout
from taskd.worker.messages import Attempt, Interrupt

if TYPE_CHECKING:
    from asyncio import Task

__all__ = ["Interrupter"]


class Interrupter:
    """Raises `TaskTimeout` or `TaskCancelled` in the function that runs, once for each run.

    `look` is to read what the daemon has sent, and to call `interrupt` where
    that asks for it. It is never called while it is being called.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._running: Attempt | None = None
        self._stop: Interrupt | None = None
        self._raised = False
        self._is_async = False
        self._async_task: Task[object] | None = None
        self._poked = False
        self._shielded = False
        self._thread = get_ident()

    @property
    def running(self) -> Attempt | None:
        """What runs, and may be interrupted."""
        return self._running

    def begin(self, run: Attempt, *, is_async: bool) -> None:
        """The function is about to be called. From here until `end`, a stop may be raised anywhere."""
        self._stop = None
        self._raised = False
        self._is_async = is_async
        self._running = run
        if self._poked:
            self.attend()

    def end(self) -> Interrupt | None:
        """The function has ended. What has interrupted it, if anything has."""
        self._running = None
        return self._stop

    def poke(self, number: int = 0, frame: object = None) -> None:
        """The handler of the signal."""
        self._poked = True
        if self._running is not None and not self._shielded:
            self.attend()

    def attend(self) -> None:
        """See to what the signal was for, where there was one."""
        while self._poked:
            self._poked = False
            self._shielded = True
            try:
                self._look()
            finally:
                self._shielded = False
        self._raise()

    def interrupt(self, message: Interrupt) -> bool:
        """Have the function interrupted, if it is this one that runs; whether it is."""
        running = self._running
        if running is None or running.task != message.task or running.number != message.attempt:
            return False
        if self._stop is None:
            self._stop = message
        return True

    def _raise(self) -> None:
        stop = self._stop
        if stop is None or self._raised or self._running is None:
            return
        if self._is_async:
            task = self._async_task
            if task is not None:
                self._raised = True
                # The loop may be waiting: it has to be woken up.
                task.get_loop().call_soon_threadsafe(task.cancel)
            return
        self._raised = True
        raise (
            TaskCancelled("the task was cancelled")
            if stop.cancelled
            else TaskTimeout("the time limit is over")
        )

    def run_as(self, task: Task[object] | None) -> None:
        """The function is an ``async def``, and runs as this task of asyncio's; None for no more."""
        self._async_task = task
        if task is not None:
            self._raise()

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Code of ours that a function calls, and that must not be left half-way."""
        if get_ident() != self._thread:
            yield  # handlers do not run in this thread
            return
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
            if self._poked:
                self.attend()
