"""The signals of a worker that taskd needs, put back after a task that changed them, and timers stopped."""

from __future__ import annotations

import faulthandler
import signal

# The functions of `signal` make each number an enum's member, which takes up to a hundred times as long.
from _signal import getsignal, pthread_sigmask, setitimer  # type: ignore[import-not-found]
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

from taskd.worker.messages import POKE

__all__ = ["SignalState"]

_Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | signal.Handlers | None

_SIG_BLOCK = int(signal.SIG_BLOCK)

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

_STOPPING = frozenset({POKE, signal.SIGTERM})
"""The signals that the daemon sends to a worker and that it may catch."""

_PUT_BACK = (POKE, int(signal.SIGTERM), int(signal.SIGCHLD), int(signal.SIGPIPE))
"""The signals whose handlers are put back: those, one without whose default a program that the next
task runs has no exit status, and one whose default ends the process at a write to a closed socket."""


class SignalState:
    """The handlers of some signals, the signal mask and the timers, as they were before the first task.

    `on_poke` handles `POKE`. Handlers of other signals are the app's own business.
    """

    def __init__(self, on_poke: Callable[[int, FrameType | None], object]) -> None:
        self._on_poke = on_poke
        self._handlers: dict[int, _Handler] = {}
        self._mask: set[int] = set()
        self._idle_timers: tuple[int, ...] = ()
        self._crash_stacks = False

    def keep(self) -> None:
        """Note what must be put back, and handle `POKE` even if a start hook took it over."""
        signal.signal(POKE, self._on_poke)
        self._handlers = {number: getsignal(number) for number in _PUT_BACK}
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING) - _STOPPING
        self._idle_timers = tuple(timer for timer in _TIMERS if not any(signal.getitimer(timer)))
        self._crash_stacks = faulthandler.is_enabled()

    def put_back(self) -> None:
        """Stop the timers that the task has started, and put back what it has changed."""
        for timer in self._idle_timers:
            setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()
        for number, handler in self._handlers.items():
            if getsignal(number) != handler:
                _handle(number, handler)
        if pthread_sigmask(_SIG_BLOCK, ()) != self._mask:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if self._crash_stacks and not faulthandler.is_enabled():
            faulthandler.enable()


def _handle(number: int, handler: _Handler) -> None:
    # faulthandler prints the stack at SIGTERM, from a handler that Python's own has replaced.
    prints_stack = faulthandler.unregister(number)  # type: ignore[func-returns-value]
    if handler is not None:  # None for one that is not Python's
        signal.signal(number, handler)
    if prints_stack:
        faulthandler.register(number, all_threads=False, chain=True)
