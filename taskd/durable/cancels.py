"""The cancelling of stored tasks, wherever they are: in the store, in a queue, in a worker, elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Protocol

from taskd.durable.elsewhere import Elsewhere
from taskd.durable.events import EventHub
from taskd.durable.once import OnceGate
from taskd.durable.run import Run, Runner
from taskd.durable.settling import CANCELLED_WAITING, STOPPING
from taskd.durable.waiters import Waiters
from taskd.durable.writer import StoreWriter
from taskd.model import Outcome
from taskd.store.base import StoreError
from taskd.store.records import ENDED, Event, State

__all__ = ["FENCE_GRACE", "Cancels"]

FENCE_GRACE = 0.5
"""Seconds that a function has to end once its node may be taken for dead: then its process is terminated, and
killed before others run the task."""

Answer = Callable[[State | StoreError | None], object]
"""Gets the state in which a task was, None if there is none."""


class _Tasks(Protocol):
    """The stored tasks, as far as cancelling needs them."""

    @property
    def writer(self) -> StoreWriter:
        """What writes to the store."""

    @property
    def waiters(self) -> Waiters:
        """Who waits for the ends of tasks."""

    @property
    def hub(self) -> EventHub:
        """Pushes their events."""

    @property
    def elsewhere(self) -> Elsewhere | None:
        """What other nodes run; None if there are none."""

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Settle an attempt."""

    def let_go(self, run: Run) -> None:
        """Put back what was claimed, unless a worker has it."""


class Cancels:
    """Cancels tasks; `runs` are those that this node has claimed, by their ids."""

    def __init__(self, tasks: _Tasks, runner: Runner, once: OnceGate, runs: Mapping[str, Run]) -> None:
        self._tasks = tasks
        self._runner = runner
        self._once = once
        self._runs = runs

    def cancel(self, task: str, answer: Answer) -> None:
        """Cancel a task, whether it waits, runs, or is scheduled.

        The answer comes once it has ended, but for one that has ended before: then at once.
        """
        run = self._runs.get(task)
        waiters = self._tasks.waiters
        if run is not None and run.task is not None and run.task.is_in_flight:
            state = State.RUNNING if run.has_started else State.WAITING
            waiters.wait(task, lambda _state, _outcome: answer(state))
            self._runner.cancel(run.task)
        elif run is not None and run.task is None:
            waiters.wait(task, lambda _state, _outcome: answer(State.WAITING))
            if run.is_marked:  # its start is being stored
                run.is_cancelled = True
            else:
                self._once.drop(run)
                self._tasks.ended(run, CANCELLED_WAITING)
        else:
            self._tasks.writer.cancel(task, partial(self._cancelled, task, answer))

    def _cancelled(self, task: str, answer: Answer, state: State | StoreError | None) -> None:
        elsewhere = self._tasks.elsewhere
        if elsewhere is not None and state in (State.RUNNING, State.WAITING) and task not in self._runs:
            # Another node may have it, even if its start is not stored yet: the receipt is its end.
            self._tasks.waiters.wait(task, lambda _state, _outcome: answer(state))
            elsewhere.changed([task])
            return
        if isinstance(state, State) and state not in ENDED and state is not State.RUNNING:
            self._tasks.waiters.announce(task, State.CANCELLED, None)
        answer(state)

    def fence(self) -> None:
        """End all that this node has claimed, within seconds: others may run it."""
        for run in list(self._runs.values()):
            self._tasks.let_go(run)
            if run.record.new.id not in self._runs:
                continue
            run.is_fenced = True
            if run.task is not None and self._runner.withdraw(run.task):
                self._tasks.ended(run, STOPPING)
            elif run.task is not None and run.task.is_in_flight:
                self._runner.cancel(run.task, FENCE_GRACE)

    # --- batches ---

    def members_claimed(self, batch: str) -> list[str]:
        """Return the ids of the tasks of a batch that this node has claimed, in their order."""
        return sorted(task for task, run in self._runs.items() if run.record.new.batch == batch)

    def noted(self, events: list[Event]) -> None:
        """Pass on that the store has cancelled tasks."""
        self._tasks.hub.publish(events)
        for event in events:
            self._tasks.waiters.announce(event.task, State.CANCELLED, None)

    def claimed(self, tasks: Collection[str]) -> None:
        """Cancel those of these tasks that this node has claimed."""
        for task in tasks:
            if task in self._runs:
                self.cancel(task, bool)
