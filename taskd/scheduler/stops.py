"""The stop of a running task: interrupt its function, then terminate, then kill its process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from taskd.scheduler.states import StopStep, check_stop

__all__ = ["KILL_DELAY", "Stop"]

KILL_DELAY = 2.0
"""Seconds between SIGTERM and SIGKILL: a handler for SIGTERM can save what it has, and cannot stay."""


@dataclass(slots=True)
class Stop:
    """The stop of a running task: why, since when, and what comes when."""

    reason: Literal["timeout", "cancelled"]
    since: float
    next_at: float
    step: StopStep = StopStep.RAISED

    def terminate(self, now: float) -> None:
        """Its grace is over."""
        self.step = check_stop(self.step, StopStep.TERMINATED)
        self.next_at = now + KILL_DELAY

    def kill(self) -> None:
        """SIGTERM has not ended it."""
        self.step = check_stop(self.step, StopStep.KILLED)
        self.next_at = float("inf")
