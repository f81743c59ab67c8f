"""Who works on what: pure, and without a clock (time is an argument, in seconds)."""

from taskd.scheduler.functions import FunctionStats
from taskd.scheduler.scheduler import Scheduler
from taskd.scheduler.states import JobState, WorkerState

__all__ = ["FunctionStats", "JobState", "Scheduler", "WorkerState"]
