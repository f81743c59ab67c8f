"""The steps of one stop, and their delays: interrupt the function, then terminate and kill its process.

A `Stop` decides what comes next and when; `taskd.scheduler.stopping` makes
actions of it. The process is terminated or killed only while it runs this very task.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from taskd.scheduler.states import StopStep, check_stop

__all__ = ["KILL_DELAY", "Stop"]

KILL_DELAY = 2.0
"""Seconds between SIGTERM and SIGKILL: a handler for SIGTERM can save its state, but not linger."""


@dataclass(slots=True)
class Stop:
    """The stop of one task: its reason, its start, its current step, and when the next step is due."""

    reason: Literal["timeout", "cancelled"]
    since: float
    next_at: float
    step: StopStep = StopStep.INTERRUPTED

    def advance(self, now: float, *, is_running: bool) -> StopStep | None:
        """Take the next step if it is due, and return it; None if there is none to take.

        `is_running` says whether the worker is running the task. Afterwards
        `next_at` is the time to call this again.
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
