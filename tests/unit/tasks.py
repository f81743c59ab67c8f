"""Tasks for the tests of the scheduler: nothing but what `SchedulableTask` asks for."""

from dataclasses import dataclass, field

from taskd.scheduler import FunctionStats, TaskState
from taskd.scheduler.stats import KNOWN_SHORT
from taskd.scheduler.workers import Stop


@dataclass(eq=False)
class FakeCaller:
    """Who asked for a task; while it is full its tasks are not begun."""

    is_full: bool = False


@dataclass(eq=False)
class FakeTask:
    """One task. `Scheduler` sets `state` and what follows it."""

    number: int
    stats: FunctionStats = field(default_factory=lambda: FunctionStats("f"))
    priority: int = 5
    limit: float | None = None
    caller: FakeCaller | None = None
    deadline: float | None = None
    state: TaskState = TaskState.NEW
    worker: int = 0
    attempt: int = 0
    losses: int = 0
    started: float = 0.0
    stop: Stop | None = None

    @property
    def is_throttled(self):
        return self.caller is not None and self.caller.is_full

    def __repr__(self):
        return f"<#{self.number} {self.stats.name} {self.state.name}>"


def short(name="short", **stats):
    """A function that is known to be short, and stays so after one surprise."""
    return FunctionStats(name, points=2 * KNOWN_SHORT, **stats)
