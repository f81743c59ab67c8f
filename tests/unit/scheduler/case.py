"""The base of the scheduler's test cases."""

import itertools

from twisted.trial.unittest import SynchronousTestCase

from taskd.scheduler import FunctionStats, Scheduler
from taskd.scheduler.config import SchedulerConfig
from tests.unit.tasks import make_lane, make_task


class SchedulerCase(SynchronousTestCase):
    """A test case with a scheduler, tasks for it, and short forms of a server's calls."""

    def setUp(self):
        self.numbers = itertools.count(1)
        self.stats = FunctionStats("f")

    def make(self, idle=0, **config):
        """Make a scheduler with so many idle workers: 1, 2, …"""
        wanted = {"min_workers": idle, "max_workers": max(idle, 1), **config}
        self.scheduler = Scheduler(SchedulerConfig(**wanted))
        self.lane = make_lane()
        for number in range(1, idle + 1):
            self.start(number)
        return self.scheduler

    def start(self, number, now=0.0, generation=1):
        self.scheduler.fleet.add(number, now, generation)
        self.scheduler.fleet.ready(number, now)

    def task(self, stats=None, **more):
        if "subscriber" not in more:
            more.setdefault("lane", self.lane)
        return make_task(next(self.numbers), stats or self.stats, **more)

    def submit(self, count=1, stats=None, **more):
        """Submit so many tasks, and return them; the task itself if it is one."""
        tasks = [self.task(stats, **more) for _ in range(count)]
        for task in tasks:
            self.scheduler.functions.setdefault(task.stats.name, task.stats)
            self.scheduler.submit(task)
        return tasks[0] if count == 1 else tasks

    def assign(self, now=0.0):
        return self.scheduler.assign(now)

    def finish(self, task, now=0.0, seconds=0.0, **more):
        return self.scheduler.finished(task.worker, task.number, seconds, now, **{"failed": False, **more})

    def tick(self, now, *begun):
        """Run the due pass of the scheduler; each task of `begun` is the last begun by its worker."""
        latest = {task.worker: task.number for task in begun}
        return self.scheduler.tick(now, lambda worker: latest.get(worker, 0))

    def state(self, number):
        return self.scheduler.fleet.workers[number].state
