"""Waiting for a Deferred before the reactor runs, so that a failed start ends the process.

twistd starts services before it runs the reactor. Only then can a failed start
still end the process with an exit status.
"""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from taskd.errors import StartError
from taskd.net.reactor import Reactor

__all__ = ["wait_for"]

TURN_SECONDS = 0.1
"""Seconds of the longest turn of the reactor, in which a Ctrl-C is noticed."""

_Result = TypeVar("_Result")


def wait_for(reactor: Reactor, deferred: Deferred[_Result]) -> _Result:
    """Turn the reactor by hand until `deferred` has fired, and return the result.

    Raises the failure of `deferred`, and `StartError` after Ctrl-C. The reactor
    must not be running.
    """
    results: list[_Result] = []
    failures: list[Failure] = []
    deferred.addCallbacks(results.append, failures.append)
    try:
        while not results and not failures:
            reactor.iterate(TURN_SECONDS)
    except KeyboardInterrupt:
        raise StartError("taskd: interrupted at the start") from None
    if failures:
        failures[0].raiseException()
    return results[0]
