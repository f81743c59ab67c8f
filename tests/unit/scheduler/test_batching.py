"""Batches: which workers get several short tasks at once, and how late tasks are reclaimed."""

from math import inf

from taskd.scheduler import WorkerState
from taskd.scheduler.actions import InterruptTask, ReclaimTasks
from taskd.scheduler.batching import (
    BATCH_SECONDS,
    BATCHED_LIMIT,
    LATE_SECONDS,
    MAX_TASKS_PER_WORKER,
    SHORT_WORKERS,
)
from tests.unit.scheduler.case import SchedulerCase
from tests.unit.tasks import short_function


class BatchTests(SchedulerCase):
    def test_short_tasks_are_given_to_one_worker_together(self):
        self.make(3)
        tasks = self.submit(5, short_function())
        self.assertEqual(self.assign(), [(3, tasks)])
        more = self.submit(2, short_function())
        self.assertEqual(self.assign(), [(3, more)])
        self.assertEqual(self.scheduler.fleet.running, 7)

    def test_each_task_that_is_not_short_has_a_worker_to_itself(self):
        self.make(4)
        batch = short_function()
        tasks = [self.submit(stats=stats) for stats in (batch, None, batch, None, batch)]
        self.assertEqual(
            self.assign(), [(4, [tasks[0], tasks[2], tasks[4]]), (3, [tasks[1]]), (2, [tasks[3]])]
        )

    def test_a_short_task_is_never_put_behind_a_long_one(self):
        self.make(1)
        self.submit()
        self.assign()
        self.submit(stats=short_function())
        self.assertEqual(self.assign(), [])

    def test_the_number_of_tasks_in_a_batch_is_limited(self):
        self.make(2)
        tasks = self.submit(MAX_TASKS_PER_WORKER + 1, short_function())
        self.assertEqual(self.assign(), [(2, tasks[:-1]), (1, tasks[-1:])])

    def test_the_estimated_duration_of_a_batch_is_limited(self):
        self.make(2)
        tasks = self.submit(5, short_function(seconds=BATCH_SECONDS / 2))
        self.assertEqual(self.assign(), [(2, tasks[:2]), (1, tasks[2:4])])
        self.finish(tasks[0])
        self.assertEqual(self.assign(), [])  # the open batch is full
        self.finish(tasks[1])
        self.assertEqual(self.assign(), [(2, tasks[4:])])

    def test_a_task_that_has_ended_makes_room_for_another(self):
        self.make(1)
        tasks = self.submit(MAX_TASKS_PER_WORKER, short_function())
        self.assign()
        self.finish(tasks[0])
        more = self.submit(2, short_function())
        self.assertEqual(self.assign(), [(1, more[:1])])

    def test_a_task_with_a_short_limit_is_never_batched(self):
        self.make(2)
        tight = self.submit(2, short_function(), limit=BATCHED_LIMIT / 2)
        self.assertEqual(self.assign(), [(2, tight[:1]), (1, tight[1:])])
        for task in tight:
            self.finish(task)
        wide = self.submit(2, short_function(), limit=BATCHED_LIMIT)
        self.assertEqual(self.assign(), [(1, wide)])

    def test_a_worker_gets_no_more_tasks_than_it_may_still_run(self):
        self.make(2, max_tasks=3)
        tasks = self.submit(4, short_function())
        self.assertEqual(self.assign(), [(2, tasks[:3]), (1, tasks[3:])])

    def test_the_number_of_workers_that_run_batches_is_limited(self):
        self.make(2 * SHORT_WORKERS, processors=1)
        tasks = self.submit(SHORT_WORKERS * MAX_TASKS_PER_WORKER + 5, short_function())
        given = self.assign()
        self.assertEqual([len(batch) for _, batch in given], [MAX_TASKS_PER_WORKER] * SHORT_WORKERS)
        self.finish(tasks[0])
        self.assertEqual(self.assign(), [(tasks[0].worker, [tasks[-5]])])
        self.make(2 * SHORT_WORKERS, processors=2)
        self.submit(SHORT_WORKERS * MAX_TASKS_PER_WORKER + 5, short_function())
        self.assertEqual(len(self.assign()), SHORT_WORKERS + 1)

    def test_tasks_that_a_worker_returns_go_back_to_the_head_in_their_order(self):
        scheduler = self.make(1)
        tasks = self.submit(4, short_function())
        self.assign()
        later = self.submit()
        self.assertEqual(scheduler.returned(1, [task.number for task in tasks[1:]], 0.0), [])
        self.assertEqual((scheduler.queue.all_waiting, scheduler.fleet.running), ([*tasks[1:], later], 1))
        self.assertEqual(self.state(1), WorkerState.BUSY)
        scheduler.returned(1, [tasks[0].number], 0.0)
        self.assertEqual(scheduler.queue.all_waiting, [*tasks, later])
        self.assertEqual((scheduler.fleet.running, self.state(1)), (0, WorkerState.IDLE))
        self.assertEqual(self.assign(), [(1, tasks)])
        self.assertEqual([task.attempts for task in tasks], [2] * 4)


class ReclaimTests(SchedulerCase):
    def batch(self, count=3, **more):
        """Give worker 1 a batch, and return its tasks."""
        self.make(1, **more)
        self.stats = short_function("batched")
        tasks = self.submit(count)
        self.assign()
        return tasks

    def test_a_worker_that_runs_the_same_task_at_two_looks_is_late_and_the_rest_is_reclaimed_once(self):
        tasks = self.batch()
        points = self.stats.points
        self.assertEqual(self.scheduler.wake_at, LATE_SECONDS)
        self.assertEqual(self.tick(LATE_SECONDS, tasks[0]), [])
        self.assertEqual(self.scheduler.wake_at, 2 * LATE_SECONDS)
        self.assertEqual(self.tick(2 * LATE_SECONDS, tasks[0]), [ReclaimTasks(1)])
        self.assertLess(self.stats.points, points)
        self.assertEqual(self.tick(1.0, tasks[0]), [])
        self.assertEqual(self.scheduler.wake_at, inf)

    def test_a_look_that_comes_too_early_changes_nothing(self):
        tasks = self.batch()
        for now in 0.0, LATE_SECONDS / 2:
            self.assertEqual(self.tick(now, tasks[0]), [])
            self.assertEqual(self.scheduler.wake_at, LATE_SECONDS)
        self.assertEqual(self.tick(LATE_SECONDS, tasks[0]), [])

    def test_a_worker_that_makes_progress_is_not_late(self):
        tasks = self.batch()
        for look, task in enumerate(tasks[:-1], start=1):
            self.assertEqual(self.tick(look * LATE_SECONDS, task), [])
            self.finish(task)
        self.assertEqual(self.tick(10 * LATE_SECONDS, tasks[-1]), [])
        self.assertEqual(self.tick(11 * LATE_SECONDS, tasks[-1]), [])

    def test_a_worker_that_waits_for_a_processor_is_not_late(self):
        self.batch()
        for look in range(1, 10):
            self.assertEqual(self.tick(look * LATE_SECONDS), [])

    def test_a_leaving_worker_can_be_late_too(self):
        tasks = self.batch()
        self.scheduler.fleet.retire(1, 0.0)
        self.assertEqual(self.tick(LATE_SECONDS, tasks[0]), [])
        self.assertEqual(self.tick(2 * LATE_SECONDS, tasks[0]), [ReclaimTasks(1)])

    def test_a_single_task_can_be_late_but_is_never_reclaimed(self):
        self.make(1)
        task = self.submit(stats=short_function())
        self.assign()
        points = task.stats.points
        for now in 1.0, 2.0, 3.0:
            self.assertEqual(self.tick(now, task), [])
        self.assertLess(task.stats.points, points)
        self.submit(stats=task.stats)
        self.assertEqual(self.assign(3.0), [])

    def test_a_worker_whose_tasks_were_reclaimed_gets_no_more_until_it_is_free(self):
        tasks = self.batch()
        self.tick(LATE_SECONDS, tasks[0])
        self.tick(2 * LATE_SECONDS, tasks[0])
        self.start(2)
        self.assertEqual(self.scheduler.returned(1, [task.number for task in tasks[1:]], 0.0), [])
        self.assertEqual(self.assign(), [(2, tasks[1:])])
        for task in tasks:
            self.finish(task)
        more = self.submit(2)
        self.assertEqual(self.assign(), [(2, more)])
        self.start(3)
        for task in more:
            self.finish(task)
        self.assertEqual(self.state(1), WorkerState.IDLE)

    def test_the_next_task_of_a_batch_is_stopped_at_its_limit_although_the_rest_was_reclaimed(self):
        """That task had begun before the worker received the order."""
        self.make(1)
        first, second = self.submit(stats=short_function()), self.submit(stats=short_function(), limit=1.0)
        self.assign()
        self.tick(LATE_SECONDS, first)
        self.assertEqual(self.tick(2 * LATE_SECONDS, first), [ReclaimTasks(1)])
        self.finish(first, 0.5)
        self.assertEqual(self.scheduler.wake_at, 1.5)
        self.assertEqual(self.tick(1.5, second), [InterruptTask(1, second)])

    def test_the_next_task_of_a_batch_is_stopped_at_its_limit_although_the_first_was_returned(self):
        self.make(1)
        first, second = self.submit(stats=short_function()), self.submit(stats=short_function(), limit=1.0)
        self.assign()
        self.scheduler.cancel(first, 0.0)
        self.tick(0.0)
        self.assertEqual(self.scheduler.returned(1, [first.number], 0.0), [first])
        self.assertEqual(self.scheduler.wake_at, 1.0)
        self.assertEqual(self.tick(1.0, second), [InterruptTask(1, second)])
