"""Reloading the app while the old code serves: load the new code, warm it up, switch over.

The new code's workers are all started before any old one leaves, so that
nothing waits meanwhile. If the new code cannot be loaded, or one of its workers
ends before it is ready, the old code continues as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from taskd.errors import StartError, StateError
from taskd.functions.registry import FunctionInfo

__all__ = ["RELOAD_STEPS", "CodePool", "ReloadState", "Reloader", "next_state"]

_log = Logger(namespace="taskd.reload")


class ReloadState(Enum):
    """The state of the latest reload; `IDLE` before the first one."""

    IDLE = "idle"
    LOADING = "loading"
    WARMING = "warming"
    SWITCHED = "switched"
    FAILED = "failed"


RELOAD_STEPS = {
    ReloadState.IDLE: {ReloadState.LOADING},
    ReloadState.LOADING: {ReloadState.WARMING, ReloadState.FAILED},
    ReloadState.WARMING: {ReloadState.SWITCHED, ReloadState.FAILED},
    ReloadState.SWITCHED: {ReloadState.LOADING},
    ReloadState.FAILED: {ReloadState.LOADING},
}
"""Every step that reloads can take."""


def next_state(old: ReloadState, new: ReloadState) -> ReloadState:
    """Return `new`. Raises `StateError` if a reload cannot go from `old` to it."""
    if new not in RELOAD_STEPS[old]:
        raise StateError(f"a reload cannot go from {old.value} to {new.value}")
    return new


_IN_PROGRESS = (ReloadState.LOADING, ReloadState.WARMING)


class CodePool(Protocol):
    """The pool, as far as a reload needs it."""

    def reload(self) -> int | None:
        """Import the app again, beside the code in use; return the new generation.

        Returns None if there is no code in use yet. Raises `StartError` if no fork server can be started.
        """

    def switch(self) -> None:
        """Use the new generation from now on."""

    def abandon_next(self) -> None:
        """Give up the new generation."""


class Reloader:
    """The reloads of a server, one at a time: a new one replaces one in progress.

    `start_worker` starts a worker of a generation, and returns whether that was
    possible; `use` makes the server use a generation and its functions.
    """

    def __init__(
        self,
        pool: CodePool,
        start_worker: Callable[[int], bool],
        use: Callable[[int, list[FunctionInfo]], None],
    ) -> None:
        self._pool = pool
        self._start_worker = start_worker
        self._use = use
        self._state = ReloadState.IDLE
        self._generation = 0
        self._functions: list[FunctionInfo] = []
        self._awaited = 0
        self._ended: Deferred[str] = Deferred()

    @property
    def in_progress(self) -> bool:
        """Whether a reload has neither succeeded nor failed yet."""
        return self._state in _IN_PROGRESS

    def is_loading(self, generation: int) -> bool:
        """Return whether `generation` is the one that is being loaded or warmed up."""
        return self.in_progress and generation == self._generation

    def start(self) -> Deferred[str]:
        """Load the app again, and use it once its workers are ready; the result is logged.

        Return a Deferred that fires with the result in words, whatever it is.
        """
        if self.in_progress:
            self.fail("another reload was asked for")
        try:
            generation = self._pool.reload()
        except StartError as error:
            _log.error("not reloaded: {error}", error=error)
            return succeed(f"not reloaded: {error}")
        if generation is None:
            _log.warn("not reloaded: the app has not been loaded yet")
            return succeed("not reloaded: the app has not been loaded yet")
        _log.info("reloading: generation {generation}", generation=generation)
        self._step(ReloadState.LOADING)
        self._generation = generation
        self._ended = Deferred()
        return self._ended

    def loaded(self, functions: list[FunctionInfo], workers: int) -> None:
        """Start `workers` workers of the new code, which is now imported, but at least one.

        If fewer can be started now, the reload goes on with these; others follow later.
        """
        self._step(ReloadState.WARMING)
        self._functions = functions
        self._awaited = sum(self._start_worker(self._generation) for _ in range(max(workers, 1)))
        if not self._awaited:
            self.fail("no worker of the new code could be started")

    def worker_is_ready(self) -> None:
        """Count a worker of the new code that is ready; switch over when all are."""
        self._awaited -= 1
        if self._awaited == 0 and self._state is ReloadState.WARMING:
            self._step(ReloadState.SWITCHED)
            self._pool.switch()
            self._use(self._generation, self._functions)
            _log.info(
                "reloaded: {count} functions, generation {generation}",
                count=len(self._functions),
                generation=self._generation,
            )
            self._ended.callback(f"reloaded: {len(self._functions)} functions, generation {self._generation}")

    def fail(self, reason: str) -> None:
        """Give up the reload in progress. Raises `StateError` if there is none."""
        self._step(ReloadState.FAILED)
        _log.error("not reloaded: {reason}\nThe old code goes on.", reason=reason)
        self._pool.abandon_next()
        self._ended.callback(f"not reloaded, the old code goes on: {reason}")

    def _step(self, state: ReloadState) -> None:
        self._state = next_state(self._state, state)
