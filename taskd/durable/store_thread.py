"""The thread in which a store waits for its disk."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

__all__ = ["StoreThread"]


class StoreThread:
    """A thread that runs functions one after another, in their order.

    Passing something to a thread pool takes several times as long, and every submit waits for that.
    """

    def __init__(self, reactor: IReactorFromThreads, name: str = "store") -> None:
        self._reactor = reactor
        self._work: SimpleQueue[tuple[Callable[[], Any], Deferred[Any]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name)
        self._thread.start()

    def execute(self, function: Callable[[], Any]) -> Deferred[Any]:
        """Run a function in the thread; the Deferred fires in the reactor with its result."""
        fires: Deferred[Any] = Deferred()
        self._work.put((function, fires))
        return fires

    def end(self) -> None:
        """End the thread, once it has run what it was given, and wait for that."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (given := self._work.get()) is not None:
            function, fires = given
            try:
                result = function()
            except BaseException:
                self._reactor.callFromThread(fires.errback, Failure())
            else:
                self._reactor.callFromThread(fires.callback, result)
            del given, function, fires  # which the thread would keep while it waits
