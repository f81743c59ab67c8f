"""The scheduler: which worker runs what. Pure, and without a clock: time is an argument, in seconds."""

from taskd.scheduler.scheduler import Scheduler
from taskd.scheduler.states import TaskState, WorkerState
from taskd.scheduler.stats import FunctionStats

__all__ = ["FunctionStats", "Scheduler", "TaskState", "WorkerState"]
