"""The daemon's signal handlers: SIGHUP reloads the app, a second SIGINT or SIGTERM ends at once.

Twisted handles the first SIGINT or SIGTERM: it stops the reactor, which stops the service.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from twisted.logger import Logger

from taskd.net.reactor import Reactor

__all__ = ["abort_at_second_signal", "has_terminal", "reload_at_hangup"]

_log = Logger(namespace="taskd")


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


def abort_at_second_signal(reactor: Reactor, abort: Callable[[], None]) -> None:
    """Call `abort` at the next SIGINT or SIGTERM, while the daemon is already stopping."""

    def abort_now() -> None:
        _log.warn("a second signal to stop: ending at once")
        abort()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: reactor.callFromThread(abort_now))
