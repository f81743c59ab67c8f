"""The reactor, as one type.

Twisted describes a reactor by many small interfaces, and no type of its own
combines those that a program needs. Whatever takes a reactor takes it as `Reactor`.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorProcess,
    IReactorSocket,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
)

__all__ = ["Reactor", "installed_reactor"]


class Reactor(
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorProcess,
    IReactorSocket,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
):
    """What taskd uses of Twisted's reactor on Linux: epoll's, asyncio's and poll's provide all of it."""


def installed_reactor() -> Reactor:
    """Return the process's reactor, for the entry points that Twisted calls without one.

    Importing the reactor installs the default one, unless another is installed: only an entry point may
    call this function.
    """
    from twisted.internet import reactor

    return cast(Reactor, reactor)
