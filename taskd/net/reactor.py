"""The type of the reactor that taskd's code takes as an argument.

Twisted describes a reactor by many small interfaces, and none of its types
combines those that a program needs. Here `Reactor` does.
"""

from __future__ import annotations

import time
from typing import cast

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorSocket,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
)

__all__ = ["Reactor", "installed_reactor", "use_steady_time"]


class Reactor(
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorSocket,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
):
    """The interfaces of a reactor that taskd uses: those that the epoll, poll and asyncio reactors share."""


def use_steady_time(reactor: Reactor) -> None:
    """Have a reactor's timers go by a clock that nobody can set, unless it has timers already.

    Twisted's go by the time of day: if that is put back by an hour, every timer
    is late by an hour.
    """
    if not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic  # type: ignore[method-assign]


def installed_reactor() -> Reactor:
    """Return the process's reactor, for the entry points that Twisted calls without one.

    Importing the reactor installs the default one, unless another is installed.
    So only an entry point may call this function.
    """
    from twisted.internet import reactor

    return cast(Reactor, reactor)
