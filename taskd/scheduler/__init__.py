"""The scheduler, without I/O or clock: which worker runs which task, when tasks stop, how many workers run.

Time is always an argument, in seconds. Decisions that others carry out are
returned as `taskd.scheduler.actions`.
"""

from taskd.scheduler.scheduler import Scheduler
from taskd.scheduler.states import TaskState, WorkerState
from taskd.scheduler.stats import FunctionStats

__all__ = ["FunctionStats", "Scheduler", "TaskState", "WorkerState"]
