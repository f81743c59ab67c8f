"""The functions that are paused: nothing of them is started until they are resumed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from twisted.internet.defer import Deferred

from taskd.durable.run import Run
from taskd.durable.window import Window
from taskd.durable.writer import Execute
from taskd.store.base import Store

__all__ = ["Pauses"]


class Pauses:
    """Pauses functions, in the store and here. `let_go` puts back a claimed task, unless a worker has it."""

    def __init__(
        self,
        store: Store,
        execute: Execute,
        window: Window,
        runs: Mapping[str, Run],
        let_go: Callable[[Run], object],
    ) -> None:
        self._store = store
        self._execute = execute
        self._window = window
        self._runs = runs
        self._let_go = let_go
        self.functions: frozenset[str] = frozenset()
        """The functions that are paused."""

    def pause(self, function: str, *, paused: bool) -> Deferred[bool]:
        """Start nothing of a function, or go on; fires with whether it was paused, once that is stored."""

        def stored(was: bool) -> bool:  # noqa: FBT001
            changed = frozenset({function})
            self.follow(self.functions | changed if paused else self.functions - changed)
            if not paused:
                self._window.claim(function)
            return was

        return self._execute(lambda: self._store.pause(function, paused=paused)).addCallback(stored)

    def follow(self, functions: Collection[str]) -> None:
        """Start nothing of these functions, and go on with all others, as the store has it."""
        before, self.functions = self.functions, frozenset(functions)
        for run in [each for each in self._runs.values() if each.record.new.function in self.functions]:
            self._let_go(run)
        for function in before - self.functions:
            self._window.claim(function)
