"""How tasks that workers have are stopped."""

from math import inf

from taskd.errors import ImpossibleMessage, StateError
from taskd.scheduler import FunctionStats, TaskState, WorkerState
from taskd.scheduler.actions import AbandonTask, InterruptTask, KillWorker, ReclaimTasks, TerminateWorker
from taskd.scheduler.batching import LATE_SECONDS
from taskd.scheduler.stops import KILL_DELAY
from tests.unit.scheduler.case import SchedulerCase
from tests.unit.tasks import short_function


class LadderTests(SchedulerCase):
    def running(self, **more):
        self.make(1)
        task = self.submit(**more)
        self.assign()
        return task

    def test_a_task_over_its_limit_is_interrupted_then_terminated_then_killed(self):
        self.stats.grace = 3.0
        task = self.running(limit=10.0)
        self.assertEqual(self.scheduler.wake_at, 10.0)
        self.assertEqual(self.tick(9.9, task), [])
        self.assertEqual(self.scheduler.wake_at, 10.0)
        self.assertEqual(self.tick(10.0, task), [InterruptTask(1, task)])
        self.assertEqual((task.stop.reason, task.stop.since), ("timeout", 10.0))
        self.assertEqual((self.scheduler.fleet.running, self.scheduler.wake_at), (1, 13.0))
        self.assertEqual(self.tick(12.9, task), [])
        self.assertEqual(self.tick(13.0, task), [TerminateWorker(1, task)])
        self.assertEqual((task.state, self.scheduler.fleet.running), (TaskState.DONE, 0))
        self.assertEqual((self.state(1), self.scheduler.missing), (WorkerState.LEAVING, 1))
        self.assertEqual(self.scheduler.wake_at, 13.0 + KILL_DELAY)
        self.assertEqual(self.tick(14.9, task), [])
        self.assertEqual(self.tick(13.0 + KILL_DELAY, task), [KillWorker(1)])
        self.assertEqual((self.tick(100.0, task), self.scheduler.wake_at), ([], inf))
        self.assertEqual(self.scheduler.worker_exited(1, task.number, 100.0), [])
        self.assertEqual(self.stats.lost, 0)

    def test_a_cancelled_task_takes_the_same_steps(self):
        task = self.running()
        self.assertEqual(self.scheduler.cancel(task, 1.0), [InterruptTask(1, task)])
        self.assertEqual(self.scheduler.cancel(task, 2.0), [])
        self.assertEqual((task.stop.reason, task.stop.since), ("cancelled", 1.0))
        due = 1.0 + self.stats.grace
        self.assertEqual(self.scheduler.wake_at, due)
        self.assertEqual(self.tick(due, task), [TerminateWorker(1, task)])
        self.assertEqual(self.tick(due + KILL_DELAY, task), [KillWorker(1)])

    def test_a_function_without_grace_is_terminated_with_the_next_look(self):
        self.stats.grace = 0.0
        task = self.running()
        self.scheduler.cancel(task, 1.0)
        self.assertEqual(self.scheduler.wake_at, 1.0)
        self.assertEqual(self.tick(1.0, task), [TerminateWorker(1, task)])

    def test_a_task_that_ends_within_its_grace_leaves_its_worker_in_use(self):
        task = self.running()
        self.scheduler.cancel(task, 0.0)
        self.assertIs(self.scheduler.stopped(1, task.number, 1.0), task)
        self.assertEqual((task.state, self.state(1)), (TaskState.DONE, WorkerState.IDLE))
        self.assertEqual(self.tick(100.0), [])
        self.assertEqual(self.stats.done + self.stats.failed, 0)

    def test_a_result_that_was_in_flight_counts(self):
        task = self.running()
        self.scheduler.cancel(task, 0.0)
        self.assertIs(self.finish(task), task)
        self.assertEqual(self.stats.done, 1)

    def test_a_task_that_ends_after_it_was_terminated_has_no_second_outcome(self):
        for end in self.finish, lambda task: self.scheduler.stopped(1, task.number, 9.0):
            task = self.running()
            self.scheduler.cancel(task, 0.0)
            self.tick(self.stats.grace, task)
            self.assertIsNone(end(task))
            self.assertEqual(self.scheduler.fleet.departures(), [1])
            self.assertEqual((self.tick(100.0), self.scheduler.fleet.running), ([], 0))

    def test_a_worker_that_stops_a_task_unasked_is_at_fault(self):
        task = self.running()
        self.assertRaises(ImpossibleMessage, self.scheduler.stopped, 1, task.number, 0.0)

    def test_a_cancelled_task_is_lost_with_its_worker_whether_it_had_begun_or_not(self):
        for begun in True, False:
            task = self.running()
            self.scheduler.cancel(task, 0.0)
            self.assertEqual(self.scheduler.worker_exited(1, task.number if begun else 0, 1.0), [task])
            self.assertEqual((task.state, self.scheduler.fleet.running), (TaskState.DONE, 0))
            self.assertTrue(self.scheduler.is_empty)

    def test_a_cancelled_task_is_not_stopped_again_at_its_limit(self):
        task = self.running(limit=1.0)
        self.scheduler.cancel(task, 0.5)
        self.assertEqual(self.tick(1.0, task), [])
        self.assertEqual(task.stop.reason, "cancelled")


class CancelTests(SchedulerCase):
    def test_a_waiting_task_is_out_of_the_queue_at_once(self):
        scheduler = self.make()
        task, other = self.submit(2)
        self.assertEqual(scheduler.cancel(task, 0.0), [])
        self.assertEqual((task.state, scheduler.queue.all_waiting), (TaskState.DONE, [other]))
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
        tasks = self.submit(3, short_function())
        self.assign()
        self.assertEqual(scheduler.cancel(tasks[1], 0.0), [InterruptTask(2, tasks[1]), ReclaimTasks(2)])
        self.assertEqual(scheduler.cancel(tasks[2], 0.0), [InterruptTask(2, tasks[2])])
        self.assertEqual(scheduler.returned(2, [tasks[1].number], 0.0), [tasks[1]])
        self.assertEqual(scheduler.returned(2, [tasks[2].number], 0.0), [tasks[2]])
        self.assertEqual((scheduler.fleet.running, scheduler.queue.waiting), (1, 0))
        self.assertIs(self.finish(tasks[0]), tasks[0])

    def test_a_stop_never_touches_the_task_that_runs_before_the_stopped_one(self):
        scheduler = self.make(1)
        tasks = self.submit(2, short_function())
        self.assign()
        scheduler.cancel(tasks[1], 0.0)
        due = tasks[1].stats.grace
        self.assertEqual(self.tick(due, tasks[0]), [AbandonTask(tasks[1])])
        self.assertEqual((tasks[1].state, tasks[0].state), (TaskState.DONE, TaskState.GIVEN))
        self.assertEqual(self.tick(due + KILL_DELAY, tasks[0]), [])
        self.assertEqual(self.state(1), WorkerState.BUSY)
        self.assertEqual(scheduler.returned(1, [tasks[1].number], due), [])
        self.assertIs(self.finish(tasks[0]), tasks[0])
        self.assertEqual(self.state(1), WorkerState.IDLE)

    def test_an_abandoned_task_that_begins_all_the_same_is_killed(self):
        scheduler = self.make(1)
        tasks = self.submit(2, short_function())
        self.assign()
        scheduler.cancel(tasks[1], 0.0)
        due = tasks[1].stats.grace
        self.tick(due, tasks[0])
        self.assertEqual(self.tick(due + KILL_DELAY, tasks[0]), [])
        self.finish(tasks[0])
        self.assertEqual(scheduler.wake_at, due + 2 * KILL_DELAY)
        self.assertEqual(self.tick(due + 2 * KILL_DELAY, tasks[1]), [KillWorker(1)])

    def test_tasks_queued_behind_a_killed_task_run_on_another_worker(self):
        scheduler = self.make(1)
        tasks = self.submit(3, short_function())
        self.assign()
        scheduler.cancel(tasks[0], 0.0)
        self.assertEqual(self.tick(tasks[0].stats.grace, tasks[0]), [TerminateWorker(1, tasks[0])])
        self.assertEqual(scheduler.worker_exited(1, tasks[0].number, 6.0), [])
        self.assertEqual((scheduler.queue.all_waiting, scheduler.fleet.running), (tasks[1:], 0))

    def test_an_abandoned_task_is_forgotten_with_its_worker(self):
        scheduler = self.make(1)
        tasks = self.submit(2, short_function())
        self.assign()
        scheduler.cancel(tasks[1], 0.0)
        self.tick(tasks[1].stats.grace, tasks[0])
        self.assertEqual(scheduler.worker_exited(1, tasks[0].number, 6.0), [tasks[0]])
        self.assertTrue(scheduler.is_empty)


class LimitTests(SchedulerCase):
    def test_each_task_of_a_batch_has_its_own_limit_from_its_own_start(self):
        self.make(1)
        tasks = self.submit(2, short_function(), limit=1.0)
        self.assign(0.0)
        self.finish(tasks[0], 0.9)
        self.assertEqual(self.tick(1.0, tasks[1]), [])
        self.assertLessEqual(self.scheduler.wake_at, 1.9)
        self.assertEqual(self.tick(1.9, tasks[1]), [InterruptTask(1, tasks[1])])

    def test_tasks_behind_one_that_is_over_its_limit_are_reclaimed(self):
        self.make(1)
        tasks = self.submit(2, short_function(), limit=1.0)
        self.assign()
        self.assertEqual(self.tick(LATE_SECONDS, tasks[0]), [])
        self.assertEqual(self.tick(1.0, tasks[0]), [ReclaimTasks(1), InterruptTask(1, tasks[0])])

    def test_a_task_without_a_limit_runs_for_ever(self):
        self.make(1)
        task = self.submit(stats=FunctionStats("endless"))
        self.assign()
        self.assertEqual((self.tick(1e9, task), self.scheduler.wake_at), ([], inf))
