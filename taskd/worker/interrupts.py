"""Interrupting a running function in a worker, and nothing else, at the daemon's signal.

The daemon writes a message to the worker's channel, and sends a signal so that
the worker reads it even while a function runs. The signal itself has no meaning:
one that comes too late finds nothing to do, and cannot hit another task.

Python runs signal handlers in the main thread, between two instructions of
whatever runs there. So the handler acts only while a task's function runs, and
not inside internal code that must not be left half-way (writing a line, for
example); there it sets a flag, which is checked when that code ends.
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
    """Raises `TaskTimeout` or `TaskCancelled` in the running function, once for each attempt.

    `read_messages` must read what the daemon has sent, and call `interrupt` for
    each `Interrupt`. It is never called recursively.
    """

    def __init__(self, read_messages: Callable[[], None]) -> None:
        self._read_messages = read_messages
        self._running: Attempt | None = None
        self._stop: Interrupt | None = None
        self._raised = False
        self._is_async = False
        self._async_task: Task[object] | None = None
        self._signalled = False
        self._shielded = False
        self._thread = get_ident()

    @property
    def running(self) -> Attempt | None:
        """The running attempt, which may be interrupted; None if no function runs."""
        return self._running

    @property
    def is_stopped(self) -> bool:
        """Whether the attempt that runs, or ran last, was interrupted."""
        return self._stop is not None

    def begin(self, attempt: Attempt, *, is_async: bool) -> None:
        """Note that the function is about to be called. Until `end`, a stop may be raised anywhere."""
        self._stop = None
        self._raised = False
        self._is_async = is_async
        self._running = attempt
        if self._signalled:
            self.handle_signal()

    def end(self) -> Interrupt | None:
        """Note that the function has ended; return the message that interrupted it, if there was one."""
        self._running = None
        return self._stop

    def on_signal(self, number: int = 0, frame: object = None) -> None:
        """Handle the signal now, or when shielded internal code ends. A handler for `signal.signal`."""
        self._signalled = True
        if self._running is not None and not self._shielded:
            self.handle_signal()

    def handle_signal(self) -> None:
        """Read the daemon's messages if a signal came, and raise a stop for the running function."""
        while self._signalled:
            self._signalled = False
            self._shielded = True
            try:
                self._read_messages()
            finally:
                self._shielded = False
        self._raise_stop()

    def interrupt(self, message: Interrupt) -> bool:
        """Note the interrupt if it is for the running attempt; return whether it is."""
        running = self._running
        if running is None or running.task != message.task or running.number != message.attempt:
            return False
        if self._stop is None:
            self._stop = message
        return True

    def _raise_stop(self) -> None:
        stop = self._stop
        if stop is None or self._raised or self._running is None:
            return
        if self._is_async:
            task = self._async_task
            if task is not None:
                self._raised = True
                # The event loop may be waiting, and must be woken up.
                task.get_loop().call_soon_threadsafe(task.cancel)
            return
        self._raised = True
        raise (
            TaskCancelled("the task was cancelled")
            if stop.cancelled
            else TaskTimeout("the time limit is over")
        )

    def expect_async_task(self) -> None:
        """Note that the function goes on as an asyncio task: a stop waits for `set_async_task` now."""
        self._is_async = True

    def set_async_task(self, task: Task[object] | None) -> None:
        """Set the asyncio task as which an ``async def`` function runs; None when it has ended."""
        self._async_task = task
        if task is not None:
            self._raise_stop()

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Postpone a stop while internal code runs that must not be left half-way."""
        if get_ident() != self._thread:
            yield  # signal handlers do not run in this thread
            return
        before, self._shielded = self._shielded, True
        try:
            yield
        finally:
            self._shielded = before
            if self._signalled and not before:
                self.handle_signal()
