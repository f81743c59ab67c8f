"""A worker as the scheduler sees it, and how a running task is stopped."""

from __future__ import annotations

from dataclasses import dataclass, field

from taskd.scheduler.states import BUSY, STARTING, WorkerState, check_worker
from taskd.scheduler.task import Task

__all__ = ["WorkerView"]

MAX_TASKS_PER_WORKER = 32
"""Tasks that one worker may have at once: by then waking it costs each of them next to nothing."""

BATCH_SECONDS = 0.0005
"""Seconds of work, by the estimates, above which a worker gets no more tasks at once."""

FRESH_SECONDS = 0.001
"""Seconds since a worker was last heard of after which it is given no more: it
may have come upon a task that takes long, and what it has already waits for that."""

OVERHEAD = 0.00001
"""Seconds that a worker spends on a task beside running its function."""


@dataclass(slots=True, eq=False)
class WorkerView:
    """One worker: what it does, and since when.

    `tasks` are those that it has been given and that have not ended, in the
    order in which it runs them; `load` is about how many seconds they take;
    `heard` is when it was given the first or ended one last. `checked` is when
    it was last seen to be getting on with short ones, and `watched` the task
    that it ran then. `dismissed`: nobody is to take its place.
    """

    number: int
    generation: int
    since: float
    state: WorkerState = STARTING
    tasks: dict[int, Task] = field(default_factory=dict)
    load: float = 0.0
    heard: float = 0.0
    checked: float = 0.0
    watched: int = 0
    reclaimed: bool = False
    dismissed: bool = False
    done: int = 0

    def step(self, state: WorkerState, now: float) -> None:
        """Go to another state. Raises `StateError` where there is no such step."""
        self.state = check_worker(self.number, self.state, state)
        self.since = now

    @property
    def first(self) -> Task | None:
        """The task that it runs, as far as can be told from what it has said."""
        return next(iter(self.tasks.values()), None)

    def has_room(self, max_tasks: int | None, now: float) -> bool:
        """Whether it may be given one more short task behind its short ones."""
        tasks = len(self.tasks)
        return (
            tasks < MAX_TASKS_PER_WORKER
            and self.load < BATCH_SECONDS
            and now - self.heard < FRESH_SECONDS
            and not self.reclaimed
            and self.state is BUSY
            and (max_tasks is None or self.done + tasks < max_tasks)
        )
