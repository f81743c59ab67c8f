"""How tasks are stopped, and batches that take too long are reclaimed."""

from math import inf

from taskd.errors import StateError
from taskd.scheduler import TaskState, WorkerState
from taskd.scheduler.actions import AbandonTask, InterruptTask, KillWorker, ReclaimTasks, TerminateWorker
from taskd.scheduler.stats import FunctionStats
from taskd.scheduler.stops import LATE_SECONDS
from taskd.scheduler.workers import KILL_DELAY
from tests.unit.scheduler.test_scheduler import SchedulerCase
from tests.unit.tasks import short


class StopCase(SchedulerCase):
    def begun(self, *tasks):
        """Tells that each of these was begun last by the worker that has it."""
        latest = {task.worker: task.number for task in tasks}
        return lambda worker: latest.get(worker, 0)

    def tick_with(self, now, *begun):
        return self.tick(now, self.begun(*begun))


class ReclaimTests(StopCase):
    def batch(self, count=3, **more):
        """A batch that worker 1 has, and its tasks."""
        self.make(1, **more)
        self.stats = short("batched")
        tasks = self.submit(count)
        self.assign()
        return tasks

    def test_what_runs_at_two_looks_is_late_and_the_rest_is_called_back_once(self):
        tasks = self.batch()
        points = self.stats.points
        self.assertEqual(self.scheduler.wake_at, LATE_SECONDS)
        self.assertEqual(self.tick_with(LATE_SECONDS, tasks[0]), [])
        self.assertEqual(self.scheduler.wake_at, 2 * LATE_SECONDS)
        self.assertEqual(self.tick_with(2 * LATE_SECONDS, tasks[0]), [ReclaimTasks(1)])
        self.assertLess(self.stats.points, points)
        self.assertEqual(self.tick_with(1.0, tasks[0]), [])
        self.assertEqual(self.scheduler.wake_at, inf)

    def test_a_look_that_comes_too_early_sees_nothing(self):
        tasks = self.batch()
        for now in 0.0, LATE_SECONDS / 2:
            self.assertEqual(self.tick_with(now, tasks[0]), [])
            self.assertEqual(self.scheduler.wake_at, LATE_SECONDS)
        self.assertEqual(self.tick_with(LATE_SECONDS, tasks[0]), [])

    def test_one_that_gets_on_is_not_late(self):
        tasks = self.batch()
        for look, task in enumerate(tasks[:-1], start=1):
            self.assertEqual(self.tick_with(look * LATE_SECONDS, task), [])
            self.finish(task)
        self.assertEqual(self.tick_with(10 * LATE_SECONDS, tasks[-1]), [])
        self.assertEqual(self.tick_with(11 * LATE_SECONDS, tasks[-1]), [])

    def test_one_that_waits_for_a_processor_is_not_late(self):
        self.batch()
        for look in range(1, 10):
            self.assertEqual(self.tick_with(look * LATE_SECONDS), [])

    def test_one_that_leaves_is_looked_at_too(self):
        tasks = self.batch()
        self.scheduler.retire(1, 0.0)
        self.assertEqual(self.tick_with(LATE_SECONDS, tasks[0]), [])
        self.assertEqual(self.tick_with(2 * LATE_SECONDS, tasks[0]), [ReclaimTasks(1)])

    def test_a_single_task_is_looked_at_and_never_called_back(self):
        self.make(1)
        task = self.submit(stats=short())
        self.assign()
        points = task.stats.points
        for now in 1.0, 2.0, 3.0:
            self.assertEqual(self.tick_with(now, task), [])
        self.assertLess(task.stats.points, points)
        self.submit(stats=task.stats)
        self.assertEqual(self.assign(3.0), [])

    def test_one_that_was_called_back_gets_nothing_more_until_it_is_free(self):
        tasks = self.batch()
        self.tick_with(LATE_SECONDS, tasks[0])
        self.tick_with(2 * LATE_SECONDS, tasks[0])
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

    def test_the_next_of_a_batch_is_stopped_at_its_limit_though_the_rest_was_called_back(self):
        """It had begun before the worker heard of that."""
        self.make(1)
        first, second = self.submit(stats=short()), self.submit(stats=short(), limit=1.0)
        self.assign()
        self.tick_with(LATE_SECONDS, first)
        self.assertEqual(self.tick_with(2 * LATE_SECONDS, first), [ReclaimTasks(1)])
        self.finish(first, 0.5)
        self.assertEqual(self.scheduler.wake_at, 1.5)
        self.assertEqual(self.tick_with(1.5, second), [InterruptTask(1, second)])

    def test_the_next_of_a_batch_is_stopped_at_its_limit_though_the_first_was_returned(self):
        self.make(1)
        first, second = self.submit(stats=short()), self.submit(stats=short(), limit=1.0)
        self.assign()
        self.scheduler.cancel(first, 0.0)
        self.tick_with(0.0)
        self.assertEqual(self.scheduler.returned(1, [first.number], 0.0), [first])
        self.assertEqual(self.scheduler.wake_at, 1.0)
        self.assertEqual(self.tick_with(1.0, second), [InterruptTask(1, second)])


class LadderTests(StopCase):
    def running(self, **more):
        self.make(1)
        task = self.submit(**more)
        self.assign()
        return task

    def test_a_task_over_its_limit_is_interrupted_then_terminated_then_killed(self):
        self.stats.grace = 3.0
        task = self.running(limit=10.0)
        self.assertEqual(self.scheduler.wake_at, 10.0)
        self.assertEqual(self.tick_with(9.9, task), [])
        self.assertEqual(self.scheduler.wake_at, 10.0)
        self.assertEqual(self.tick_with(10.0, task), [InterruptTask(1, task)])
        self.assertEqual((task.stop.reason, task.stop.since), ("timeout", 10.0))
        self.assertEqual((self.scheduler.running, self.scheduler.wake_at), (1, 13.0))
        self.assertEqual(self.tick_with(12.9, task), [])
        self.assertEqual(self.tick_with(13.0, task), [TerminateWorker(1, task)])
        self.assertEqual((task.state, self.scheduler.running), (TaskState.DONE, 0))
        self.assertEqual((self.state(1), self.scheduler.missing), (WorkerState.LEAVING, 1))
        self.assertEqual(self.scheduler.wake_at, 13.0 + KILL_DELAY)
        self.assertEqual(self.tick_with(14.9, task), [])
        self.assertEqual(self.tick_with(13.0 + KILL_DELAY, task), [KillWorker(1)])
        self.assertEqual((self.tick_with(100.0, task), self.scheduler.wake_at), ([], inf))
        self.assertEqual(self.scheduler.worker_lost(1, task.number, 100.0), [])
        self.assertEqual(self.stats.lost, 0)

    def test_a_cancelled_task_takes_the_same_steps(self):
        task = self.running()
        self.assertEqual(self.scheduler.cancel(task, 1.0), [InterruptTask(1, task)])
        self.assertEqual(self.scheduler.cancel(task, 2.0), [])
        self.assertEqual((task.stop.reason, task.stop.since), ("cancelled", 1.0))
        due = 1.0 + self.stats.grace
        self.assertEqual(self.scheduler.wake_at, due)
        self.assertEqual(self.tick_with(due, task), [TerminateWorker(1, task)])
        self.assertEqual(self.tick_with(due + KILL_DELAY, task), [KillWorker(1)])

    def test_a_function_without_grace_is_terminated_with_the_next_look(self):
        self.stats.grace = 0.0
        task = self.running()
        self.scheduler.cancel(task, 1.0)
        self.assertEqual(self.scheduler.wake_at, 1.0)
        self.assertEqual(self.tick_with(1.0, task), [TerminateWorker(1, task)])

    def test_a_task_that_ends_within_its_grace_leaves_its_worker_in_use(self):
        task = self.running()
        self.scheduler.cancel(task, 0.0)
        self.assertIs(self.scheduler.stopped(1, task.number, 1.0), task)
        self.assertEqual((task.state, self.state(1)), (TaskState.DONE, WorkerState.IDLE))
        self.assertEqual(self.tick_with(100.0), [])
        self.assertEqual(self.stats.done + self.stats.failed, 0)

    def test_a_result_that_was_under_way_counts(self):
        task = self.running()
        self.scheduler.cancel(task, 0.0)
        self.assertIs(self.finish(task), task)
        self.assertEqual(self.stats.done, 1)

    def test_a_task_that_ends_after_it_was_answered_is_answered_no_more(self):
        for end in self.finish, lambda task: self.scheduler.stopped(1, task.number, 9.0):
            task = self.running()
            self.scheduler.cancel(task, 0.0)
            self.tick_with(self.stats.grace, task)
            self.assertIsNone(end(task))
            self.assertEqual(self.scheduler.departures(), [1])
            self.assertEqual((self.tick_with(100.0), self.scheduler.running), ([], 0))

    def test_nobody_stops_a_task_unasked(self):
        task = self.running()
        self.assertRaises(StateError, self.scheduler.stopped, 1, task.number, 0.0)

    def test_one_that_was_cancelled_is_lost_with_its_worker_begun_or_not(self):
        for begun in True, False:
            task = self.running()
            self.scheduler.cancel(task, 0.0)
            self.assertEqual(self.scheduler.worker_lost(1, task.number if begun else 0, 1.0), [task])
            self.assertEqual((task.state, self.scheduler.running), (TaskState.DONE, 0))
            self.assertTrue(self.scheduler.is_empty)

    def test_a_cancelled_task_is_not_stopped_again_at_its_limit(self):
        task = self.running(limit=1.0)
        self.scheduler.cancel(task, 0.5)
        self.assertEqual(self.tick_with(1.0, task), [])
        self.assertEqual(task.stop.reason, "cancelled")


class CancelTests(StopCase):
    def test_a_waiting_task_is_out_of_the_queue_at_once(self):
        scheduler = self.make()
        task, other = self.submit(2)
        self.assertEqual(scheduler.cancel(task, 0.0), [])
        self.assertEqual((task.state, scheduler.all_waiting), (TaskState.DONE, [other]))
        self.start(1)
        self.assertEqual(self.assign(), [(1, [other])])

    def test_a_task_that_is_done_cannot_be_cancelled(self):
        self.make(1)
        task = self.submit()
        self.assertRaises(StateError, self.scheduler.cancel, self.task(), 0.0)
        self.assign()
        self.finish(task)
        self.assertRaises(StateError, self.scheduler.cancel, task, 0.0)

    def test_a_task_in_a_batch_is_returned_and_the_others_run_elsewhere(self):
        scheduler = self.make(2)
        tasks = self.submit(3, short())
        self.assign()
        self.assertEqual(scheduler.cancel(tasks[1], 0.0), [InterruptTask(2, tasks[1]), ReclaimTasks(2)])
        self.assertEqual(scheduler.cancel(tasks[2], 0.0), [InterruptTask(2, tasks[2])])
        self.assertEqual(scheduler.returned(2, [tasks[1].number], 0.0), [tasks[1]])
        self.assertEqual(scheduler.returned(2, [tasks[2].number], 0.0), [tasks[2]])
        self.assertEqual((scheduler.running, scheduler.waiting), (1, 0))
        self.assertIs(self.finish(tasks[0]), tasks[0])

    def test_a_stop_never_touches_the_task_that_runs_before_the_stopped_one(self):
        scheduler = self.make(1)
        tasks = self.submit(2, short())
        self.assign()
        scheduler.cancel(tasks[1], 0.0)
        due = tasks[1].stats.grace
        self.assertEqual(self.tick_with(due, tasks[0]), [AbandonTask(tasks[1])])
        self.assertEqual((tasks[1].state, tasks[0].state), (TaskState.DONE, TaskState.GIVEN))
        self.assertEqual(self.tick_with(due + KILL_DELAY, tasks[0]), [])
        self.assertEqual(self.state(1), WorkerState.BUSY)
        self.assertEqual(scheduler.returned(1, [tasks[1].number], due), [])
        self.assertIs(self.finish(tasks[0]), tasks[0])
        self.assertEqual(self.state(1), WorkerState.IDLE)

    def test_one_that_was_abandoned_and_begins_nevertheless_does_not_stay(self):
        scheduler = self.make(1)
        tasks = self.submit(2, short())
        self.assign()
        scheduler.cancel(tasks[1], 0.0)
        due = tasks[1].stats.grace
        self.tick_with(due, tasks[0])
        self.finish(tasks[0])
        self.assertEqual(self.tick_with(due + KILL_DELAY, tasks[1]), [KillWorker(1)])

    def test_what_stands_behind_a_task_that_is_killed_runs_elsewhere(self):
        scheduler = self.make(1)
        tasks = self.submit(3, short())
        self.assign()
        scheduler.cancel(tasks[0], 0.0)
        self.assertEqual(self.tick_with(tasks[0].stats.grace, tasks[0]), [TerminateWorker(1, tasks[0])])
        self.assertEqual(scheduler.worker_lost(1, tasks[0].number, 6.0), [])
        self.assertEqual((scheduler.all_waiting, scheduler.running), (tasks[1:], 0))

    def test_an_abandoned_task_is_forgotten_with_its_worker(self):
        scheduler = self.make(1)
        tasks = self.submit(2, short())
        self.assign()
        scheduler.cancel(tasks[1], 0.0)
        self.tick_with(tasks[1].stats.grace, tasks[0])
        self.assertEqual(scheduler.worker_lost(1, tasks[0].number, 6.0), [tasks[0]])
        self.assertTrue(scheduler.is_empty)


class LimitTests(StopCase):
    def test_each_of_a_batch_has_its_own_limit_from_its_own_start(self):
        self.make(1)
        tasks = self.submit(2, short(), limit=1.0)
        self.assign(0.0)
        self.finish(tasks[0], 0.9)
        self.assertEqual(self.tick_with(1.0, tasks[1]), [])
        self.assertLessEqual(self.scheduler.wake_at, 1.9)
        self.assertEqual(self.tick_with(1.9, tasks[1]), [InterruptTask(1, tasks[1])])

    def test_what_stands_behind_a_task_over_its_limit_is_called_back(self):
        self.make(1)
        tasks = self.submit(2, short(), limit=1.0)
        self.assign()
        self.assertEqual(self.tick_with(LATE_SECONDS, tasks[0]), [])
        self.assertEqual(self.tick_with(1.0, tasks[0]), [ReclaimTasks(1), InterruptTask(1, tasks[0])])

    def test_a_task_without_a_limit_runs_for_ever(self):
        self.make(1)
        task = self.submit(stats=FunctionStats("endless"))
        self.assign()
        self.assertEqual((self.tick_with(1e9, task), self.scheduler.wake_at), ([], inf))
