"""The interruption of a function that runs in a thread: between two of its instructions."""

from __future__ import annotations

import ctypes
import sys
from _thread import get_ident
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from time import sleep

from taskd.functions.stops import TaskCancelled, TaskStopped, TaskTimeout
from taskd.worker.interrupts import Interrupter
from taskd.worker.messages import Attempt, Interrupt

__all__ = ["ThreadInterrupter"]


class _Cancelled(TaskCancelled):
    """Is raised by the interpreter, which makes it without arguments."""

    def __init__(self) -> None:
        super().__init__("the task was cancelled")


class _TimedOut(TaskTimeout):
    """Is raised by the interpreter, which makes it without arguments."""

    def __init__(self) -> None:
        super().__init__("the time limit is over")


class _Taken(BaseException):
    """Takes the place of a stop that nobody was there to meet."""


BRIEFLY = 0.02
"""Seconds that a stop is there for in `_raise_briefly`: several times those after which threads change."""

_set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc


def _raise_in(thread: int, stop: type[TaskStopped]) -> None:
    """Have a thread raise an exception at its next instruction."""
    if sys.version_info < (3, 12) and sys.gettrace() is not None:
        _raise_briefly(thread, stop)
    else:
        _set_exception(ctypes.c_ulong(thread), ctypes.py_object(stop))


def _raise_briefly(thread: int, stop: type[TaskStopped]) -> None:
    """Do so within `BRIEFLY`, or not at all.

    While an exception waits for its thread, a Python 3.11 that traces calls no function in any thread.
    So nothing is called here but C, and the exception that this thread gives itself ends that state.
    """
    target, own = ctypes.c_ulong(thread), ctypes.c_ulong(get_ident())
    raised, taken = ctypes.py_object(stop), ctypes.py_object(_Taken)
    try:
        _set_exception(target, raised)
        sleep(BRIEFLY)
        _set_exception(target, None)
        _set_exception(own, taken)
        for _ in (1, 2, 3):
            pass
    except _Taken:
        pass


class ThreadInterrupter(Interrupter):
    """An `Interrupter` of the thread that makes it, which other threads tell to `interrupt`.

    A function that waits in C code, as in ``time.sleep``, is interrupted when that returns.
    """

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self._lock = RLock()
        self._early: Interrupt | None = None  # for an attempt that was about to begin

    def begin(self, attempt: Attempt, *, is_async: bool) -> None:
        """Note that the function is about to be called. Raises a stop that has come already."""
        with self._lock:
            super().begin(attempt, is_async=is_async)
            early, self._early = self._early, None
            if early is not None and super().interrupt(early):
                self._raise_stop()

    def end(self) -> Interrupt | None:
        """Note that the function has ended, and take back a stop that it has not met."""
        with self._lock:
            stop = super().end()
        if self._raised:
            try:
                for _ in (1, 2, 3):  # at the end of each turn a stop that is due is raised
                    pass
            except TaskStopped:
                pass
        return stop

    def interrupt(self, message: Interrupt) -> bool:
        """Interrupt the attempt that runs, or that is about to begin, if it is the one that is meant."""
        with self._lock:
            if not super().interrupt(message):
                self._early = message
                return False
            if self._is_async:
                self._raise_stop()
            elif not (self._raised or self._shielded):
                self._raised = True
                _raise_in(self._thread, _Cancelled if message.cancelled else _TimedOut)
        return True

    def expect_async_task(self) -> None:
        """Note that the function goes on as an asyncio task. As `Interrupter.expect_async_task`."""
        with self._lock:
            super().expect_async_task()

    def set_async_task(self, task: object) -> None:
        """Set the asyncio task as which the function runs. As `Interrupter.set_async_task`."""
        with self._lock:
            super().set_async_task(task)  # type: ignore[arg-type]

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Postpone a stop. As `Interrupter.shield`."""
        if get_ident() != self._thread:
            yield
            return
        with self._lock:
            before, self._shielded = self._shielded, True
        try:
            yield
        finally:
            with self._lock:
                self._shielded = before
                if not before:
                    self._raise_stop()
