"""The place of a waiting task in the queue, and what the workers do meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from taskd.scheduler import Scheduler
from taskd.scheduler.states import BUSY, IDLE, WAITING
from taskd.scheduler.task import Task

__all__ = ["Position", "position_of"]


@dataclass(frozen=True, slots=True)
class Position:
    """The place of a waiting task: `before` are the tasks of its lane that come first.

    `waiting` are all tasks in the queue. Of the `workers` that are ready, so many are `busy`.
    """

    before: int
    waiting: int
    workers: int
    busy: int


def position_of(scheduler: Scheduler, task: Task) -> Position | None:
    """Return the place of a task in the queue, None if it does not wait there."""
    if task.state is not WAITING:
        return None
    queue = scheduler.queue
    queue.line_up()
    turn = (task.priority, task.number)
    before = sum(
        other.state is WAITING and (other.priority, other.number) < turn
        for line in task.lane.lines
        for other in line
    )
    states = [worker.state for worker in scheduler.fleet.workers.values()]
    busy = states.count(BUSY)
    return Position(before, queue.waiting, busy + states.count(IDLE), busy)
