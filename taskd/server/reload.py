"""New code while the old one works: load it, warm it up, switch over.

The workers of the new code are all started before any of the old ones leaves,
so that nothing waits meanwhile; and where the new code does not load, or a
worker of it ends before it is ready, nothing has happened.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from twisted.logger import Logger

from taskd.errors import StateError
from taskd.functions.registry import FunctionInfo

__all__ = ["Reload", "ReloadState"]

_log = Logger(namespace="taskd.reload")


class ReloadState(Enum):
    """How far a reload is."""

    LOADING = "loading"
    WARMING = "warming"
    SWITCHED = "switched"
    FAILED = "failed"


RELOAD_STEPS = {
    ReloadState.LOADING: {ReloadState.WARMING, ReloadState.FAILED},
    ReloadState.WARMING: {ReloadState.SWITCHED, ReloadState.FAILED},
    ReloadState.SWITCHED: frozenset[ReloadState](),
    ReloadState.FAILED: frozenset[ReloadState](),
}
"""Every step that a reload can take."""


class Reload:
    """One reload, to `generation`.

    `start_worker` starts one of its workers, and tells whether it could;
    `switch` is called with the new functions once all are ready.
    """

    def __init__(
        self,
        generation: int,
        start_worker: Callable[[int], bool],
        switch: Callable[[list[FunctionInfo]], None],
    ) -> None:
        self.generation = generation
        self.state = ReloadState.LOADING
        self._start_worker = start_worker
        self._switch = switch
        self._functions: list[FunctionInfo] = []
        self._awaited = 0

    @property
    def is_in_flight(self) -> bool:
        """Whether it has neither succeeded nor failed."""
        return self.state in (ReloadState.LOADING, ReloadState.WARMING)

    def loaded(self, functions: list[FunctionInfo], workers: int) -> None:
        """The new code is imported: have so many of its workers started, one at least.

        Where fewer can be started now, those have to do; the others follow.
        """
        self._step(ReloadState.WARMING)
        self._functions = functions
        self._awaited = sum(self._start_worker(self.generation) for _ in range(max(workers, 1)))
        if not self._awaited:
            self.failed("no worker of the new code could be started")

    def worker_ready(self) -> None:
        """One of its workers is ready."""
        self._awaited -= 1
        if self._awaited == 0 and self.state is ReloadState.WARMING:
            self._step(ReloadState.SWITCHED)
            self._switch(self._functions)
            _log.info(
                "reloaded: {count} functions, generation {generation}",
                count=len(self._functions),
                generation=self.generation,
            )

    def failed(self, reason: str) -> None:
        """The new code cannot be used."""
        self._step(ReloadState.FAILED)
        _log.error("not reloaded: {reason}\nThe old code goes on.", reason=reason)

    def _step(self, state: ReloadState) -> None:
        if state not in RELOAD_STEPS[self.state]:
            raise StateError(f"a reload cannot go from {self.state.value} to {state.value}")
        self.state = state
