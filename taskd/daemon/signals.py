"""The daemon's signal handlers: SIGHUP reloads the app, a second SIGINT or SIGTERM ends at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

from twisted.logger import Logger

from taskd.net.reactor import Reactor

__all__ = ["ABORT_SECONDS", "ANSWER_SECONDS", "StopSignals", "has_terminal", "reload_at_hangup"]

_log = Logger(namespace="taskd")

ANSWER_SECONDS = 2.0
"""Seconds that the reactor has to notice a second signal: some milliseconds do, unless it is blocked."""

ABORT_SECONDS = 5.0
"""Seconds that everything then has to end in order, once the workers are killed: more than a
fork server needs, whose helpers have a second to clean up."""


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal: if not, tty(4) cannot be opened."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def reload_at_hangup(
    reactor: Reactor, reload: Callable[[], None], has_terminal: Callable[[], bool] = has_terminal
) -> None:
    """Call `reload` at every SIGHUP, but stop the reactor if the terminal is gone.

    A closing terminal sends SIGHUP, too. Call this after the process has
    daemonised itself, since it checks now whether there is a terminal to lose.
    """
    had_terminal = has_terminal()

    def reload_or_stop() -> None:
        if had_terminal and not has_terminal():
            _log.warn("the terminal is gone: stopping")
            reactor.stop()
        else:
            reload()

    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(reload_or_stop))


def end_by_signal(number: int) -> None:
    """End this process by a signal, whatever it does at present."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class StopSignals:
    """The handling of SIGINT and SIGTERM from the first to the last; a daemon has one.

    The first signal stops the reactor, as Twisted's own handlers do, which
    `install` keeps for it. At the second, `skip` is called in the reactor: if it
    returns True, the next signal counts as the second again; otherwise `abort` is called. If the
    reactor does not call it within `ANSWER_SECONDS`, or is not done after another
    `ABORT_SECONDS`, or at the third signal, the process ends by the signal, whatever its main
    thread stands in: a system call is interrupted, and Python calls the handler before
    it goes on with the call. `kill` is called then. It must kill every
    process that the daemon has started, without the reactor. `end` ends the process.
    """

    def __init__(
        self,
        reactor: Reactor,
        abort: Callable[[], None],
        kill: Callable[[], None],
        skip: Callable[[], bool],
        end: Callable[[int], None] = end_by_signal,
    ) -> None:
        self._reactor = reactor
        self._abort = abort
        self._kill = kill
        self._skip = skip
        self._end_process = end
        self._stops: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._received = 0
        self._last: int = signal.SIGTERM

    def install(self) -> None:
        """Install the handlers; call this when the reactor runs, which has installed its own. Idempotent."""
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler) and number not in self._stops:
                self._stops[number] = handler
                signal.signal(number, self._handle)

    def stopping(self) -> None:
        """Note that the daemon is stopping, for whatever reason: the next signal counts as the second."""
        self._received = max(self._received, 1)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received += 1
        self._last = number
        if self._received == 1:
            self._stops[number](number, frame)
        elif self._received == 2:
            signal.signal(signal.SIGALRM, self._end)
            signal.setitimer(signal.ITIMER_REAL, ANSWER_SECONDS)
            self._reactor.callFromThread(self._abort_now)
        else:
            self._end()

    def _abort_now(self) -> None:
        if self._skip():
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._received = 1
            return
        signal.setitimer(signal.ITIMER_REAL, ABORT_SECONDS)
        _log.warn("a second signal to stop: ending at once")
        self._abort()

    def _end(self, *_: object) -> None:
        """End the process, and everything that it has started."""
        # Handlers run inside each other: somebody who sends signals without a pause would fill the stack.
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(ignored, signal.SIG_IGN)
        number = self._last
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            self._kill()
        finally:
            self._end_process(number)
