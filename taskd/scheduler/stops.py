"""The stop of a task that a worker has: interrupt its function, then terminate, then kill its process.

A `Stop` decides what comes next and when; the scheduler has it done. A step is
taken only against a worker that is running this very task.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from taskd.scheduler.states import StopStep, check_stop

__all__ = ["KILL_DELAY", "Stop"]

KILL_DELAY = 2.0
"""Seconds between SIGTERM and SIGKILL: a handler for SIGTERM can save what it has, and cannot stay."""


@dataclass(slots=True)
class Stop:
    """The stop of one task: why, since when, how far it is, and when the next step is due."""

    reason: Literal["timeout", "cancelled"]
    since: float
    next_at: float
    step: StopStep = StopStep.INTERRUPTED

    def advance(self, now: float, *, is_running: bool) -> StopStep | None:
        """Take the next step if it is due, and return it; None if there is none to take.

        `is_running` says whether the worker is running the task. `next_at` is
        afterwards when to call this again.
        """
        if now < self.next_at:
            return None
        self.next_at = now + KILL_DELAY
        if self.step is StopStep.INTERRUPTED:
            self.step = check_stop(self.step, StopStep.TERMINATED if is_running else StopStep.ABANDONED)
            return self.step
        if not is_running:
            return None
        self.step = check_stop(self.step, StopStep.KILLED)
        self.next_at = inf
        return self.step
