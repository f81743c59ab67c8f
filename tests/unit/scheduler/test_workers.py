"""The fleet: how many workers there are, and how they come and go."""

from math import inf

from taskd.errors import StateError
from taskd.scheduler import WorkerState
from taskd.scheduler.batching import MAX_TASKS_PER_WORKER
from taskd.scheduler.config import IDLE_SECONDS
from tests.unit.scheduler.case import SchedulerCase
from tests.unit.tasks import short_function


class WorkerTests(SchedulerCase):
    def test_a_worker_has_the_time_of_its_last_step(self):
        scheduler = self.make()
        scheduler.fleet.add(1, 1.0)
        since = [scheduler.fleet.workers[1].since]
        scheduler.fleet.ready(1, 2.0)
        since.append(scheduler.fleet.workers[1].since)
        task = self.submit()
        self.assign(3.0)
        since.append(scheduler.fleet.workers[1].since)
        self.finish(task, 4.0)
        since.append(scheduler.fleet.workers[1].since)
        self.assertEqual(since, [1.0, 2.0, 3.0, 4.0])

    def test_workers_are_started_once_and_ready_once(self):
        scheduler = self.make(1)
        self.assertRaises(StateError, scheduler.fleet.add, 1, 0.0)
        self.assertRaises(StateError, scheduler.fleet.ready, 1, 0.0)
        self.assertRaises(StateError, scheduler.fleet.ready, 2, 0.0)
        self.submit()
        self.assign()
        self.assertRaises(StateError, scheduler.fleet.ready, 1, 0.0)
        self.assertRaises(StateError, scheduler.worker_exited, 2, 0, 0.0)
        self.assertRaises(StateError, scheduler.fleet.retire, 2, 0.0)

    def test_a_worker_can_exit_in_any_state(self):
        scheduler = self.make(2, max_workers=5)
        scheduler.fleet.add(3, 0.0)
        self.start(4, generation=2)
        scheduler.fleet.retire(2, 0.0)
        self.assertEqual(self.state(4), WorkerState.STANDBY)
        for number in 1, 2, 3, 4:
            self.assertEqual(scheduler.worker_exited(number, 0, 0.0), [])
        self.assertEqual((scheduler.fleet.workers, scheduler.fleet.active), ({}, 0))
        self.submit()
        self.assertEqual(self.assign(), [])

    def test_a_departing_worker_that_has_exited_is_no_longer_among_the_departures(self):
        scheduler = self.make(2)
        scheduler.fleet.retire(1, 0.0)
        scheduler.fleet.retire(2, 0.0)
        scheduler.worker_exited(1, 0, 0.0)
        self.assertEqual(scheduler.fleet.departures(), [2])
        scheduler.worker_exited(2, 0, 0.0)
        self.assertEqual(scheduler.fleet.departures(), [])

    def test_a_retired_worker_ends_after_its_tasks(self):
        scheduler = self.make(1)
        tasks = self.submit(2, short_function())
        self.assign()
        scheduler.fleet.retire(1, 0.0)
        scheduler.fleet.retire(1, 0.0)
        self.assertEqual((scheduler.fleet.departures(), scheduler.fleet.active), ([], 0))
        self.submit(stats=short_function())
        self.assertEqual(self.assign(), [])
        for task in tasks:
            self.finish(task)
        self.assertEqual((scheduler.fleet.departures(), scheduler.fleet.departures()), ([1], []))
        self.assertEqual(self.state(1), WorkerState.LEAVING)

    def test_a_worker_that_is_retired_before_it_is_ready_ends_at_once(self):
        scheduler = self.make()
        scheduler.fleet.add(1, 0.0)
        scheduler.fleet.retire(1, 0.0)
        self.assertEqual(scheduler.fleet.departures(), [1])
        scheduler.fleet.ready(1, 0.0)
        self.submit()
        self.assertEqual((self.assign(), scheduler.fleet.departures()), ([], []))

    def test_a_worker_ends_after_its_maximum_number_of_tasks(self):
        scheduler = self.make(1, max_tasks=2)
        for _ in range(2):
            self.assertEqual(scheduler.fleet.departures(), [])
            task = self.submit()
            self.assign()
            self.finish(task)
        self.assertEqual((scheduler.fleet.departures(), self.state(1)), ([1], WorkerState.LEAVING))
        self.assertEqual(scheduler.missing, 1)

    def test_only_workers_that_leave_because_there_are_too_many_or_newer_ones_are_dismissed(self):
        scheduler = self.make(4, min_workers=2, idle_seconds=10.0)
        views = dict(scheduler.fleet.workers)
        scheduler.fleet.retire(1, 0.0)
        self.tick(10.0)
        self.assertEqual([number for number, view in views.items() if view.dismissed], [2])
        scheduler.fleet.switch(2, 11.0)
        self.assertEqual([number for number, view in views.items() if view.dismissed], [2, 3, 4])

    def test_a_worker_takes_no_step_that_its_table_does_not_list(self):
        scheduler = self.make(1)
        self.submit()
        scheduler.fleet.workers[1].state = WorkerState.GONE
        self.assertRaises(StateError, scheduler.assign, 0.0)


class BoundsTests(SchedulerCase):
    def test_workers_up_to_the_minimum_are_always_missing(self):
        scheduler = self.make(min_workers=2, max_workers=5)
        self.assertEqual(scheduler.missing, 2)
        scheduler.fleet.add(1, 0.0)
        self.assertEqual(scheduler.missing, 1)
        scheduler.fleet.retire(1, 0.0)
        self.assertEqual(scheduler.missing, 2)

    def test_workers_up_to_the_maximum_are_missing_while_tasks_wait(self):
        scheduler = self.make(min_workers=0, max_workers=5)
        self.assertEqual(scheduler.missing, 0)
        self.submit(2)
        self.assertEqual(scheduler.missing, 2)
        scheduler.fleet.add(1, 0.0)
        self.assertEqual(scheduler.missing, 1)
        self.submit(10)
        self.assertEqual(scheduler.missing, 4)
        for number in 2, 3, 4, 5:
            scheduler.fleet.add(number, 0.0)
        self.assertEqual(scheduler.missing, 0)

    def test_no_worker_is_missing_while_one_is_idle(self):
        scheduler = self.make(1, min_workers=0, max_workers=5)
        self.submit()
        self.assertEqual(scheduler.missing, 0)

    def test_one_worker_is_missing_for_each_batch_of_short_tasks(self):
        scheduler = self.make(min_workers=0, max_workers=100)
        self.submit(MAX_TASKS_PER_WORKER + 1, short_function())
        self.assertEqual(scheduler.missing, 2)

    def test_no_worker_is_missing_for_a_cancelled_task(self):
        scheduler = self.make(min_workers=0, max_workers=5)
        task = self.submit()
        scheduler.cancel(task, 0.0)
        self.assertEqual(scheduler.missing, 0)

    def test_idle_workers_above_the_minimum_leave_after_the_idle_time(self):
        scheduler = self.make(min_workers=1, max_workers=5)
        for number in 1, 2, 3:
            self.start(number, float(number))
        self.assertEqual(scheduler.wake_at, 2 + IDLE_SECONDS)
        self.tick(1.0)
        self.assertEqual((scheduler.fleet.departures(), scheduler.wake_at), ([], 1 + IDLE_SECONDS))
        self.tick(1.0 + IDLE_SECONDS)
        self.assertEqual((scheduler.fleet.departures(), scheduler.wake_at), ([1], 2 + IDLE_SECONDS))
        self.tick(1000.0)
        self.assertEqual((scheduler.fleet.departures(), scheduler.wake_at), ([2], inf))
        self.assertEqual((self.state(3), scheduler.fleet.active, scheduler.missing), (WorkerState.IDLE, 1, 0))

    def test_an_idle_worker_above_the_minimum_that_has_worked_leaves_too(self):
        scheduler = self.make(2, min_workers=1, max_workers=2, idle_seconds=10.0)
        self.tick(0.0)
        task = self.submit()
        self.assign(5.0)
        self.finish(task, 6.0)
        self.tick(10.0)
        self.assertEqual(scheduler.fleet.departures(), [1])
        self.tick(100.0)
        self.assertEqual(scheduler.fleet.departures(), [])


class ReloadTests(SchedulerCase):
    def test_new_code_stands_by_until_the_switch_and_then_the_old_leaves(self):
        scheduler = self.make(2)
        tasks = self.submit(2)
        self.assign()
        self.start(3, generation=2)
        self.start(4, generation=2)
        scheduler.fleet.add(5, 0.0, 2)
        more = self.submit(3)
        self.assertEqual((self.assign(), scheduler.fleet.active), ([], 2))
        self.assertEqual([self.state(number) for number in (3, 4)], [WorkerState.STANDBY] * 2)
        self.finish(tasks[0])
        scheduler.fleet.switch(2, 1.0)
        self.assertEqual((scheduler.fleet.generation, scheduler.fleet.active), (2, 3))
        self.assertEqual([number for number, _ in self.assign()], [4, 3])
        scheduler.fleet.ready(5, 2.0)
        self.assertEqual(self.assign(), [(5, more[2:])])
        self.assertEqual(scheduler.fleet.departures(), [tasks[0].worker])
        self.finish(tasks[1])
        self.assertEqual(scheduler.fleet.departures(), [tasks[1].worker])

    def test_a_worker_that_leaves_already_departs_once_after_a_switch(self):
        scheduler = self.make(1)
        scheduler.fleet.retire(1, 0.0)
        scheduler.fleet.switch(2, 0.0)
        self.assertEqual(scheduler.fleet.departures(), [1])

    def test_workers_of_the_new_code_do_not_count_before_the_switch(self):
        scheduler = self.make(min_workers=0, max_workers=3)
        scheduler.fleet.add(1, 0.0, 2)
        self.submit(2)
        self.assertEqual((scheduler.missing, scheduler.fleet.active), (2, 0))
        scheduler.fleet.ready(1, 0.0)
        self.assertEqual(scheduler.missing, 2)

    def test_a_worker_that_stands_by_can_exit_or_be_retired(self):
        scheduler = self.make(1)
        self.start(2, generation=2)
        self.start(3, generation=2)
        scheduler.worker_exited(2, 0, 0.0)
        scheduler.fleet.retire(3, 0.0)
        self.assertEqual((scheduler.fleet.departures(), scheduler.fleet.active), ([3], 1))
        scheduler.fleet.switch(2, 0.0)
        self.assertEqual((scheduler.fleet.departures(), scheduler.fleet.active), ([1], 0))

    def test_idle_workers_of_the_new_code_leave_after_the_idle_time_from_the_switch(self):
        scheduler = self.make(1, min_workers=0, idle_seconds=10.0)
        self.submit()
        self.assign()
        self.start(2, generation=2)
        self.tick(5.0)
        self.assertEqual(scheduler.wake_at, inf)
        scheduler.fleet.switch(2, 6.0)
        self.assertEqual(scheduler.wake_at, 16.0)
        self.tick(16.0)
        self.assertEqual(scheduler.fleet.departures(), [2])
