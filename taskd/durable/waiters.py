"""Waiting for the end of a stored task, or for its progress, in this process."""

from __future__ import annotations

from collections.abc import Callable, Container

from twisted.internet.interfaces import IReactorTime

from taskd.errors import ShuttingDown
from taskd.model import Progress
from taskd.store.records import State

__all__ = ["Waiter", "Waiters", "Waiting", "call_in_time", "left_for_next_start"]

Waiter = Callable[[State, bytes | None], object]
"""Gets the state in which a task has ended, and its outcome as JSON text, if it has one. At a stop it may be
a state in which the task waits: then it is left for the next start."""


def left_for_next_start(what: str) -> ShuttingDown:
    """Return the error for those who would wait for the end of a task or a batch, which is `what`."""
    return ShuttingDown(f"the server is shutting down: {what} is left for its next start")


def call_in_time(
    clock: IReactorTime,
    seconds: float | None,
    wait: Callable[[Callable[..., object]], Callable[[], None]],
    over: Callable[[], object],
) -> Callable[[], None]:
    """Call `over` once: when that for which `wait` waits has come, or after `seconds`, None for no limit.

    `wait` returns how to wait no longer. Returns how to have `over` called at once, unless it has been.
    """
    is_over = False

    def end(*_: object) -> None:
        nonlocal is_over
        if not is_over:
            is_over = True
            stop()
            if timer is not None and timer.active():
                timer.cancel()
            over()

    stop = wait(end)
    timer = None if seconds is None else clock.callLater(max(seconds, 0.0), end)
    return end


class Waiting:
    """The work for a request that waits for an end. Implements `taskd.server.methods.StoredWork`.

    `over` has the request answered at once. So a connection that is gone, or is about to go, is
    not kept for the time that it wanted to wait.
    """

    def __init__(self, over: Callable[[], None]) -> None:
        self._over = over

    def cancel(self) -> None:
        """Wait no longer."""
        self._over()

    detach = cancel


class Waiters:
    """Keeps who waits for which stored task, none of which has ended yet."""

    def __init__(self) -> None:
        self._waiters: dict[str, list[Waiter]] = {}
        self._listeners: dict[str, list[Callable[[Progress], object]]] = {}
        self._running: Container[str] | None = None

    def wait(self, task: str, waiter: Waiter) -> Callable[[], None]:
        """Call `waiter` when a task has ended; return how to wait no longer."""
        waiters = self._waiters.setdefault(task, [])
        waiters.append(waiter)

        def stop() -> None:
            if waiter in waiters:
                waiters.remove(waiter)
                if not waiters and self._waiters.get(task) is waiters:
                    del self._waiters[task]

        return stop

    def listen(self, task: str, listener: Callable[[Progress], object]) -> None:
        """Call `listener` with the progress of a task, until that has ended."""
        self._listeners.setdefault(task, []).append(listener)
        self.wait(task, lambda _state, _outcome: self._listeners.pop(task, None))

    def are_there(self, task: str) -> bool:
        """Return whether anybody waits for the end of a task, or for its progress."""
        return task in self._waiters

    def stop(self, running: Container[str]) -> None:
        """Keep nobody waiting, now or later, for a task that is not `running`: it does not end in time."""
        self._running = running
        for task in [each for each in self._waiters if each not in running]:
            self.announce(task, State.WAITING, None)

    def is_left(self, task: str) -> bool:
        """Return whether a task does not end before the stop that has begun."""
        return self._running is not None and task not in self._running

    def announce(self, task: str, state: State, outcome: bytes | None) -> None:
        """Call those who wait for the end of a task, which has been stored."""
        for waiter in [*self._waiters.pop(task, ())]:  # of which each takes itself out
            waiter(state, outcome)

    def progressed(self, task: str, progress: Progress) -> None:
        """Call those who wait for the progress of a task."""
        for listener in self._listeners.get(task, ()):
            listener(progress)
