"""Waiting for the end of a stored task, or for its progress, in this process."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

from twisted.internet.interfaces import IReactorTime

from taskd.errors import ShuttingDown
from taskd.model import Progress
from taskd.store.records import State

__all__ = ["AnsweredWait", "Waiter", "Waiters", "left_for_next_start"]

Waiter = Callable[[State, bytes | None], object]
"""Gets the state in which a task has ended, and its outcome as JSON text, if it has one. At a stop it may be
a state in which the task waits: then it is left for the next start."""


def left_for_next_start(what: str) -> ShuttingDown:
    """Return the error for those who would wait for the end of a task or a batch, which is `what`."""
    return ShuttingDown(f"the server is shutting down: {what} is left for its next start")


class AnsweredWait:
    """The work for a request that waits for an end. Implements `taskd.server.methods.StoredWork`.

    `over` is called once, and answers the request: when that for which `wait` waits has come, or after
    `seconds`, None for no limit; or at once if the connection is gone, or about to go, so that it is
    not kept for the time that it wanted to wait. `wait` returns how to wait no longer.

    It waits from the first, so that no end is missed, but `over` is not called before `begin`: until
    then whoever looks for what is waited for may still refuse the request, and answer it.
    """

    def __init__(
        self,
        clock: IReactorTime,
        seconds: float | None,
        wait: Callable[[Callable[..., object]], Callable[[], None]],
        over: Callable[[], object],
    ) -> None:
        self._over: Callable[[], object] | None = over
        self._has_begun = self._has_come = False
        self._stop = wait(self.end)
        self._timer = None if seconds is None else clock.callLater(max(seconds, 0.0), self.end)

    def begin(self, *, has_ended: bool) -> None:
        """Answer when the wait is over: now if it is, or if that which is waited for `has_ended`."""
        self._has_begun = True
        if has_ended or self._has_come:
            self.end()

    def end(self, *_: object) -> None:
        """Answer now, unless that was done; or at `begin`."""
        self._has_come = True
        over = self._over
        if over is not None and self._has_begun:
            self.give_up()
            over()

    def give_up(self) -> None:
        """Wait no longer: the request is answered by somebody else."""
        if self._over is not None:
            self._over = None
            self._stop()
            if self._timer is not None and self._timer.active():
                self._timer.cancel()

    cancel = detach = end


class Waiters:
    """Keeps who waits for which stored task, none of which has ended yet."""

    def __init__(self) -> None:
        self._waiters: dict[str, list[Waiter]] = {}
        self._listeners: dict[str, list[Callable[[Progress], object]]] = {}
        self._running: Container[str] | None = None
        self.began: Callable[[str], object] = bool  # which does nothing
        """Called with a task when somebody begins to wait for its end, and nobody else does."""

    def wait(self, task: str, waiter: Waiter) -> Callable[[], None]:
        """Call `waiter` when a task has ended; return how to wait no longer."""
        if task not in self._waiters:
            self.began(task)
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

    @property
    def awaited(self) -> Iterable[str]:
        """The tasks for whose ends somebody waits."""
        return self._waiters

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
