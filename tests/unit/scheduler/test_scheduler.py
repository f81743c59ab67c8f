"""Who works on what: the queue, the workers, and who gets what."""

import itertools
from math import inf

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import Busy, StateError
from taskd.scheduler import FunctionStats, Scheduler, TaskState, WorkerState
from taskd.scheduler.config import IDLE_SECONDS, MAX_QUEUE, SchedulerConfig
from taskd.scheduler.queue import FAIR_TURN
from taskd.scheduler.scheduler import BATCHED_LIMIT, MAX_LOSSES, SHORT_WORKERS
from taskd.scheduler.states import (
    STOP_STEPS,
    TASK_STEPS,
    WORKER_STEPS,
    StopStep,
    check_stop,
    check_task,
    check_worker,
)
from taskd.scheduler.workers import BATCH_SECONDS, MAX_TASKS_PER_WORKER
from tests.unit.tasks import FakeCaller, FakeTask, short


def nothing_begun(worker):
    return 0


class SchedulerCase(SynchronousTestCase):
    """Has a scheduler, and makes tasks for it."""

    def setUp(self):
        self.numbers = itertools.count(1)
        self.stats = FunctionStats("f")

    def make(self, idle=0, **config):
        """A scheduler with so many idle workers: 1, 2, …"""
        wanted = {"min_workers": idle, "max_workers": max(idle, 1), **config}
        self.scheduler = Scheduler(SchedulerConfig(**wanted))
        for number in range(1, idle + 1):
            self.start(number)
        return self.scheduler

    def start(self, number, now=0.0, generation=1):
        self.scheduler.worker_started(number, now, generation)
        self.scheduler.worker_ready(number, now)

    def task(self, stats=None, **more):
        return FakeTask(next(self.numbers), stats or self.stats, **more)

    def submit(self, count=1, stats=None, deadline=None, **more):
        """So many tasks; the only one where it is one."""
        tasks = [self.task(stats, **more) for _ in range(count)]
        for task in tasks:
            self.scheduler.submit(task, deadline)
        return tasks[0] if count == 1 else tasks

    def assign(self, now=0.0):
        return self.scheduler.assign(now)

    def finish(self, task, now=0.0, seconds=0.0, **more):
        return self.scheduler.finished(task.worker, task.number, seconds, now, **{"failed": False, **more})

    def tick(self, now, begun=nothing_begun):
        return self.scheduler.tick(now, begun)

    def state(self, number):
        return self.scheduler.workers[number].state


class StateTests(SynchronousTestCase):
    def test_the_tables_list_every_state(self):
        for kind, steps in (TaskState, TASK_STEPS), (WorkerState, WORKER_STEPS), (StopStep, STOP_STEPS):
            self.assertEqual(set(steps), set(kind))
            for before, after in steps.items():
                self.assertNotIn(before, after)
        self.assertFalse(TASK_STEPS[TaskState.DONE])
        self.assertFalse(WORKER_STEPS[WorkerState.GONE])
        self.assertFalse(STOP_STEPS[StopStep.KILLED])

    def test_a_step_that_its_table_does_not_list_is_a_bug_and_every_other_is_taken(self):
        checks = [
            (TaskState, TASK_STEPS, check_task),
            (WorkerState, WORKER_STEPS, lambda old, new: check_worker(1, old, new)),
            (StopStep, STOP_STEPS, check_stop),
        ]
        for kind, steps, check in checks:
            for old, new in itertools.product(kind, kind):
                if new in steps[old]:
                    self.assertIs(check(old, new), new)
                else:
                    error = self.assertRaises(StateError, check, old, new)
                    self.assertIn(f"cannot go from {old.name} to {new.name}", str(error))


class QueueTests(SchedulerCase):
    def test_the_queue_is_that_of_the_protocol(self):
        self.assertEqual(MAX_QUEUE, 10_000)
        scheduler = self.make()
        self.submit(10_000)
        self.assertRaises(Busy, scheduler.submit, self.task())
        self.assertEqual(scheduler.waiting, 10_000)

    def test_a_refused_task_is_left_as_it_was(self):
        scheduler = self.make(max_queue=0)
        task = self.task()
        error = self.assertRaises(Busy, scheduler.submit, task, 5.0)
        self.assertEqual((task.state, scheduler.waiting, scheduler.wake_at), (TaskState.NEW, 0, inf))
        self.assertEqual((error.code, error.data), (-32004, {"retry_after": 1.0}))

    def test_an_idle_worker_makes_room_in_the_queue(self):
        scheduler = self.make(1, max_queue=0)
        self.submit()
        self.assertRaises(Busy, scheduler.submit, self.task())
        self.assign()
        self.assertRaises(Busy, scheduler.submit, self.task())

    def test_a_task_cannot_be_submitted_once_it_is_done(self):
        self.make()
        self.assertRaises(StateError, self.scheduler.submit, self.task(state=TaskState.DONE))

    def retry_after(self, seconds, waiting, workers=1):
        """What a caller is told after one task of `seconds`, with so many waiting."""
        scheduler = self.make(workers, max_queue=waiting)
        scheduler.functions["f"] = self.stats = FunctionStats("f")
        task = self.submit()
        self.assign()
        self.finish(task, seconds=seconds)
        self.submit(waiting + workers)
        self.assign()
        return self.assertRaises(Busy, scheduler.submit, self.task()).data["retry_after"]

    def test_a_refused_caller_is_told_to_wait_longer_where_the_queue_is_slower(self):
        self.assertEqual(self.retry_after(1.0, 100), 10.0)
        self.assertEqual(self.retry_after(1.0, 100, workers=4), 2.5)
        self.assertEqual(self.retry_after(0.0, 100), 0.1)
        self.assertEqual(self.retry_after(3600.0, 100), 60.0)

    def test_every_waiting_task_can_be_found_and_listed_and_the_oldest_is_known(self):
        caller = FakeCaller(is_full=True)
        scheduler = self.make(1)
        self.assertIsNone(scheduler.oldest)
        held = self.submit(caller=caller)
        last = self.submit(priority=9)
        given = self.submit(priority=0)
        urgent = self.submit(priority=0)
        self.assign()
        self.assertEqual(scheduler.all_waiting, [urgent, held, last])
        self.assertIs(scheduler.oldest, held)
        self.assertEqual((scheduler.waiting, scheduler.running, scheduler.is_empty), (3, 1, False))
        for task in held, last, given, urgent:
            self.assertIs(scheduler.find(task.number), task)
        self.finish(given)
        self.assertIsNone(scheduler.find(given.number))
        self.assertIsNone(scheduler.find(1000))

    def test_waiting_tasks_can_be_dropped_but_for_those_of_some_functions(self):
        scheduler = self.make(1)
        other = FunctionStats("g")
        held = self.submit(caller=FakeCaller(is_full=True))
        given = self.submit(priority=0)
        self.assign()
        tasks = [self.submit(), self.submit(stats=other), self.submit()]
        self.assertEqual(scheduler.drop_waiting(unless={"g": 1}), [held, tasks[0], tasks[2]])
        self.assertEqual((scheduler.all_waiting, scheduler.running), ([tasks[1]], 1))
        self.assertEqual(scheduler.drop_waiting(), [tasks[1]])
        self.assertEqual(scheduler.drop_waiting(), [])
        self.finish(given)
        self.assertTrue(scheduler.is_empty)
        self.assertTrue(all(task.state is TaskState.DONE for task in [held, given, *tasks]))


class HeldTests(SchedulerCase):
    def test_a_task_whose_caller_is_full_waits_and_holds_up_nobody(self):
        scheduler = self.make(2)
        full = FakeCaller(is_full=True)
        held, other, last = self.submit(caller=full), self.submit(), self.submit(caller=full)
        self.assertEqual(self.assign(), [(2, [other])])
        self.assertEqual((held.state, scheduler.waiting, scheduler.is_empty), (TaskState.THROTTLED, 2, False))
        full.is_full = False
        self.assertEqual(self.assign(), [])
        scheduler.release()
        self.assertEqual(self.assign(), [(1, [held])])
        self.finish(other)
        self.assertEqual(self.assign(), [(2, [last])])

    def test_those_that_were_held_come_before_those_that_came_later(self):
        scheduler = self.make(1)
        full = FakeCaller(is_full=True)
        held = self.submit(2, caller=full)
        self.assign()
        later = self.submit()
        full.is_full = False
        scheduler.release()
        self.assertEqual(scheduler.all_waiting, [*held, later])

    def test_a_held_task_makes_the_server_busy_for_nobody(self):
        scheduler = self.make(1, max_queue=0)
        self.submit(caller=FakeCaller(is_full=True))
        self.assign()
        self.submit()
        self.assertRaises(Busy, scheduler.submit, self.task())

    def test_only_the_held_tasks_can_be_dropped(self):
        scheduler = self.make(1)
        held = self.submit(caller=FakeCaller(is_full=True))
        self.submit(2)
        self.assign()
        self.assertEqual(scheduler.drop_throttled(), [held])
        self.assertEqual((held.state, scheduler.waiting), (TaskState.DONE, 1))
        self.assertEqual(scheduler.drop_throttled(), [])

    def test_a_held_task_can_be_cancelled_and_its_deadline_counts(self):
        scheduler = self.make(1)
        full = FakeCaller(is_full=True)
        cancelled, expired = self.submit(caller=full), self.submit(caller=full, deadline=1.0)
        self.assign()
        self.assertEqual(scheduler.cancel(cancelled, 0.0), [])
        self.assertEqual([action.task for action in self.tick(1.0)], [expired])
        self.assertEqual([task.state for task in (cancelled, expired)], [TaskState.DONE] * 2)
        scheduler.release()
        self.assertTrue(scheduler.is_empty)


class TurnTests(SchedulerCase):
    def test_tasks_of_one_priority_run_first_in_first_out(self):
        self.make(1)
        tasks = self.submit(5)
        order = []
        while given := self.assign():
            [(_, [task])] = given
            order.append(task)
            self.finish(task)
        self.assertEqual(order, tasks)

    def test_urgent_tasks_come_first(self):
        self.make(1)
        late, middle, urgent = self.submit(priority=9), self.submit(), self.submit(priority=0)
        order = []
        while given := self.assign():
            order += given[0][1]
            self.finish(order[-1])
        self.assertEqual(order, [urgent, middle, late])

    @given(st.lists(st.integers(0, 9), max_size=4), st.integers(1, 3))
    def test_an_unimportant_task_starts_at_the_latest_after_ten_times_as_many_as_were_before_it(
        self, before, workers
    ):
        self.make(workers)
        for priority in before:
            self.submit(priority=priority)
        wanted = self.submit(priority=9)
        started = []
        while wanted.state is TaskState.WAITING:
            self.submit(workers + 1, priority=0)
            given = [task for _, tasks in self.assign() for task in tasks]
            started += given
            for task in given:
                self.finish(task)
        self.assertLess(started.index(wanted), FAIR_TURN * (len(before) + 1))

    def test_a_task_is_bound_only_to_an_idle_worker(self):
        scheduler = self.make()
        self.submit(2)
        self.assertEqual(self.assign(), [])
        scheduler.worker_started(1, 0.0)
        self.assertEqual(self.assign(), [])
        scheduler.worker_ready(1, 0.0)
        self.assertEqual(len(self.assign()), 1)
        self.assertEqual(self.assign(), [])

    def test_the_worker_that_was_idle_last_works_first(self):
        self.make(3)
        first = self.submit(2)
        self.assertEqual([worker for worker, _ in self.assign()], [3, 2])
        self.finish(first[0])
        self.submit()
        self.assertEqual([worker for worker, _ in self.assign()], [3])

    def test_a_task_knows_who_runs_it_since_when_and_how_often_it_was_given(self):
        self.make(1)
        task = self.submit()
        self.assign(7.0)
        self.assertEqual((task.state, task.worker, task.attempt, task.started), (TaskState.GIVEN, 1, 1, 7.0))
        self.scheduler.worker_lost(1, 0, 8.0)
        self.assertEqual((task.state, task.worker), (TaskState.WAITING, 0))
        self.start(2, 8.0)
        self.assign(9.0)
        self.assertEqual((task.worker, task.attempt, task.started), (2, 2, 9.0))

    def test_a_worker_cannot_finish_what_it_does_not_have(self):
        self.make(2)
        tasks = self.submit(2)
        self.assign()
        self.finish(tasks[0])
        self.assertRaises(StateError, self.finish, tasks[0])
        other = tasks[0].worker
        self.assertRaises(StateError, self.scheduler.finished, other, tasks[1].number, 0.0, 0.0, failed=False)
        self.assertRaises(StateError, self.scheduler.finished, 9, tasks[1].number, 0.0, 0.0, failed=False)
        self.assertRaises(StateError, self.scheduler.returned, other, [tasks[1].number], 0.0)

    def test_runs_are_counted_but_for_those_whose_arguments_did_not_fit(self):
        self.make(1)
        for seconds, failed in (1.0, False), (3.0, True), (None, True):
            task = self.submit()
            self.assign()
            self.assertIs(self.finish(task, seconds=seconds, failed=failed), task)
        self.assertEqual((self.stats.done, self.stats.failed, self.stats.mean), (1, 1, 2.0))
        self.assertEqual(self.scheduler.workers[1].done, 3)


class BatchTests(SchedulerCase):
    def test_short_tasks_are_given_to_one_worker_together(self):
        self.make(3)
        tasks = self.submit(5, short())
        self.assertEqual(self.assign(), [(3, tasks)])
        more = self.submit(2, short())
        self.assertEqual(self.assign(), [(3, more)])
        self.assertEqual(self.scheduler.running, 7)

    def test_other_tasks_have_a_worker_for_themselves(self):
        self.make(4)
        batch = short()
        tasks = [self.submit(stats=stats) for stats in (batch, None, batch, None, batch)]
        self.assertEqual(
            self.assign(), [(4, [tasks[0], tasks[2], tasks[4]]), (3, [tasks[1]]), (2, [tasks[3]])]
        )

    def test_a_short_task_is_never_put_behind_a_long_one(self):
        self.make(1)
        self.submit()
        self.assign()
        self.submit(stats=short())
        self.assertEqual(self.assign(), [])

    def test_a_batch_is_at_most_so_many(self):
        self.make(2)
        tasks = self.submit(MAX_TASKS_PER_WORKER + 1, short())
        self.assertEqual(self.assign(), [(2, tasks[:-1]), (1, tasks[-1:])])

    def test_a_batch_takes_at_most_so_long_by_the_estimates(self):
        self.make(2)
        tasks = self.submit(5, short(estimate=BATCH_SECONDS / 2))
        self.assertEqual(self.assign(), [(2, tasks[:2]), (1, tasks[2:4])])
        self.finish(tasks[0])
        self.assertEqual(self.assign(), [])  # the open one is full
        self.finish(tasks[1])
        self.assertEqual(self.assign(), [(2, tasks[4:])])

    def test_what_has_ended_makes_room(self):
        self.make(1)
        tasks = self.submit(MAX_TASKS_PER_WORKER, short())
        self.assign()
        self.finish(tasks[0])
        more = self.submit(2, short())
        self.assertEqual(self.assign(), [(1, more[:1])])

    def test_a_task_with_a_short_limit_is_never_batched(self):
        self.make(2)
        tight = self.submit(2, short(), limit=BATCHED_LIMIT / 2)
        self.assertEqual(self.assign(), [(2, tight[:1]), (1, tight[1:])])
        for task in tight:
            self.finish(task)
        wide = self.submit(2, short(), limit=BATCHED_LIMIT)
        self.assertEqual(self.assign(), [(1, wide)])

    def test_a_worker_gets_no_more_than_it_may_run(self):
        self.make(2, max_tasks=3)
        tasks = self.submit(4, short())
        self.assertEqual(self.assign(), [(2, tasks[:3]), (1, tasks[3:])])

    def test_only_so_many_workers_run_batches_at_once(self):
        self.make(2 * SHORT_WORKERS, processors=1)
        tasks = self.submit(SHORT_WORKERS * MAX_TASKS_PER_WORKER + 5, short())
        given = self.assign()
        self.assertEqual([len(batch) for _, batch in given], [MAX_TASKS_PER_WORKER] * SHORT_WORKERS)
        self.finish(tasks[0])
        self.assertEqual(self.assign(), [(tasks[0].worker, [tasks[-5]])])
        self.make(2 * SHORT_WORKERS, processors=2)
        self.submit(SHORT_WORKERS * MAX_TASKS_PER_WORKER + 5, short())
        self.assertEqual(len(self.assign()), SHORT_WORKERS + 1)

    def test_tasks_that_a_worker_returns_go_back_to_the_head_in_their_order(self):
        scheduler = self.make(1)
        tasks = self.submit(4, short())
        self.assign()
        later = self.submit()
        self.assertEqual(scheduler.returned(1, [task.number for task in tasks[1:]], 0.0), [])
        self.assertEqual((scheduler.all_waiting, scheduler.running), ([*tasks[1:], later], 1))
        self.assertEqual(self.state(1), WorkerState.BUSY)
        scheduler.returned(1, [tasks[0].number], 0.0)
        self.assertEqual(scheduler.all_waiting, [*tasks, later])
        self.assertEqual((scheduler.running, self.state(1)), (0, WorkerState.IDLE))
        self.assertEqual(self.assign(), [(1, tasks)])
        self.assertEqual([task.attempt for task in tasks], [2] * 4)


class WorkerTests(SchedulerCase):
    def test_a_worker_tells_since_when_it_does_what_it_does(self):
        scheduler = self.make()
        scheduler.worker_started(1, 1.0)
        since = [scheduler.workers[1].since]
        scheduler.worker_ready(1, 2.0)
        since.append(scheduler.workers[1].since)
        task = self.submit()
        self.assign(3.0)
        since.append(scheduler.workers[1].since)
        self.finish(task, 4.0)
        since.append(scheduler.workers[1].since)
        self.assertEqual(since, [1.0, 2.0, 3.0, 4.0])

    def test_workers_are_started_once_and_ready_once(self):
        scheduler = self.make(1)
        self.assertRaises(StateError, scheduler.worker_started, 1, 0.0)
        self.assertRaises(StateError, scheduler.worker_ready, 1, 0.0)
        self.assertRaises(StateError, scheduler.worker_ready, 2, 0.0)
        self.submit()
        self.assign()
        self.assertRaises(StateError, scheduler.worker_ready, 1, 0.0)
        self.assertRaises(StateError, scheduler.worker_lost, 2, 0, 0.0)
        self.assertRaises(StateError, scheduler.retire, 2, 0.0)

    def test_a_step_of_a_worker_that_is_in_no_table_is_a_bug(self):
        scheduler = self.make(1)
        self.submit()
        scheduler.workers[1].state = WorkerState.GONE
        self.assertRaises(StateError, scheduler.assign, 0.0)

    def test_what_was_begun_is_lost_with_its_worker_and_the_rest_waits_again(self):
        scheduler = self.make(1)
        batch = short()
        tasks = self.submit(4, batch)
        self.assign()
        later = self.submit()
        self.assertEqual(scheduler.worker_lost(1, tasks[1].number, 1.0), tasks[:2])
        self.assertEqual([task.state for task in tasks[:2]], [TaskState.DONE] * 2)
        self.assertEqual((scheduler.all_waiting, scheduler.running), ([*tasks[2:], later], 0))
        self.assertEqual((batch.lost, batch.is_short), (2, False))
        self.assertEqual(scheduler.workers, {})

    def test_a_worker_that_had_begun_nothing_loses_nothing(self):
        scheduler = self.make(1)
        tasks = self.submit(3, short())
        self.assign()
        self.assertEqual(scheduler.worker_lost(1, 77, 1.0), [])
        self.assertEqual((scheduler.all_waiting, scheduler.running), (tasks, 0))

    def test_a_worker_can_be_lost_whatever_it_does(self):
        scheduler = self.make(2, max_workers=5)
        scheduler.worker_started(3, 0.0)
        self.start(4, generation=2)
        scheduler.retire(2, 0.0)
        self.assertEqual(self.state(4), WorkerState.STANDBY)
        for number in 1, 2, 3, 4:
            self.assertEqual(scheduler.worker_lost(number, 0, 0.0), [])
        self.assertEqual((scheduler.workers, scheduler.active), ({}, 0))
        self.submit()
        self.assertEqual(self.assign(), [])

    def test_one_that_is_to_end_and_is_lost_before_that_is_not_told_to_end(self):
        scheduler = self.make(2)
        scheduler.retire(1, 0.0)
        scheduler.retire(2, 0.0)
        scheduler.worker_lost(1, 0, 0.0)
        self.assertEqual(scheduler.departures(), [2])
        scheduler.worker_lost(2, 0, 0.0)
        self.assertEqual(scheduler.departures(), [])

    def test_one_that_retires_ends_after_its_tasks(self):
        scheduler = self.make(1)
        tasks = self.submit(2, short())
        self.assign()
        scheduler.retire(1, 0.0)
        scheduler.retire(1, 0.0)
        self.assertEqual((scheduler.departures(), scheduler.active), ([], 0))
        self.submit(stats=short())
        self.assertEqual(self.assign(), [])
        for task in tasks:
            self.finish(task)
        self.assertEqual((scheduler.departures(), scheduler.departures()), ([1], []))
        self.assertEqual(self.state(1), WorkerState.LEAVING)

    def test_one_that_retires_before_it_is_ready_ends_at_once(self):
        scheduler = self.make()
        scheduler.worker_started(1, 0.0)
        scheduler.retire(1, 0.0)
        self.assertEqual(scheduler.departures(), [1])
        scheduler.worker_ready(1, 0.0)
        self.submit()
        self.assertEqual((self.assign(), scheduler.departures()), ([], []))

    def test_a_worker_ends_after_so_many_tasks(self):
        scheduler = self.make(1, max_tasks=2)
        for _ in range(2):
            self.assertEqual(scheduler.departures(), [])
            task = self.submit()
            self.assign()
            self.finish(task)
        self.assertEqual((scheduler.departures(), self.state(1)), ([1], WorkerState.LEAVING))
        self.assertEqual(scheduler.missing, 1)

    def test_a_task_before_which_workers_end_is_not_tried_for_ever(self):
        scheduler = self.make()
        task = self.submit()
        for number in range(1, MAX_LOSSES + 2):
            self.start(number)
            self.assertEqual(self.assign(), [(number, [task])])
            lost = scheduler.worker_lost(number, 0, 0.0)
        self.assertEqual(lost, [task])
        self.assertEqual((task.state, scheduler.waiting, scheduler.running), (TaskState.DONE, 0, 0))


class BoundsTests(SchedulerCase):
    def test_the_least_are_always_wanted(self):
        scheduler = self.make(min_workers=2, max_workers=5)
        self.assertEqual(scheduler.missing, 2)
        scheduler.worker_started(1, 0.0)
        self.assertEqual(scheduler.missing, 1)
        scheduler.retire(1, 0.0)
        self.assertEqual(scheduler.missing, 2)

    def test_more_are_wanted_where_tasks_wait_up_to_the_most(self):
        scheduler = self.make(min_workers=0, max_workers=5)
        self.assertEqual(scheduler.missing, 0)
        self.submit(2)
        self.assertEqual(scheduler.missing, 2)
        scheduler.worker_started(1, 0.0)
        self.assertEqual(scheduler.missing, 1)
        self.submit(10)
        self.assertEqual(scheduler.missing, 4)
        for number in 2, 3, 4, 5:
            scheduler.worker_started(number, 0.0)
        self.assertEqual(scheduler.missing, 0)

    def test_none_are_wanted_while_one_is_idle(self):
        scheduler = self.make(1, min_workers=0, max_workers=5)
        self.submit()
        self.assertEqual(scheduler.missing, 0)

    def test_a_worker_is_wanted_for_each_batch_of_short_tasks(self):
        scheduler = self.make(min_workers=0, max_workers=100)
        self.submit(MAX_TASKS_PER_WORKER + 1, short())
        self.assertEqual(scheduler.missing, 2)

    def test_tasks_that_nobody_can_run_want_no_worker(self):
        scheduler = self.make(min_workers=0, max_workers=5)
        task = self.submit()
        scheduler.cancel(task, 0.0)
        self.assertEqual(scheduler.missing, 0)

    def test_the_surplus_leaves_after_it_was_idle_for_so_long(self):
        scheduler = self.make(min_workers=1, max_workers=5)
        for number in 1, 2, 3:
            self.start(number, float(number))
        self.assertEqual(scheduler.wake_at, 2 + IDLE_SECONDS)
        self.tick(1.0)
        self.assertEqual((scheduler.departures(), scheduler.wake_at), ([], 1 + IDLE_SECONDS))
        self.tick(1.0 + IDLE_SECONDS)
        self.assertEqual((scheduler.departures(), scheduler.wake_at), ([1], 2 + IDLE_SECONDS))
        self.tick(1000.0)
        self.assertEqual((scheduler.departures(), scheduler.wake_at), ([2], inf))
        self.assertEqual((self.state(3), scheduler.active, scheduler.missing), (WorkerState.IDLE, 1, 0))

    def test_a_surplus_that_comes_of_work_leaves_too(self):
        scheduler = self.make(2, min_workers=1, max_workers=2, idle_seconds=10.0)
        scheduler.tick(0.0, nothing_begun)
        task = self.submit()
        self.assign(5.0)
        self.finish(task, 6.0)
        self.tick(10.0)
        self.assertEqual(scheduler.departures(), [1])
        self.tick(100.0)
        self.assertEqual(scheduler.departures(), [])


class ReloadTests(SchedulerCase):
    def test_new_code_stands_by_until_the_switch_and_then_the_old_leaves(self):
        scheduler = self.make(2)
        tasks = self.submit(2)
        self.assign()
        self.start(3, generation=2)
        self.start(4, generation=2)
        scheduler.worker_started(5, 0.0, 2)
        more = self.submit(3)
        self.assertEqual((self.assign(), scheduler.standing_by, scheduler.active), ([], 2, 2))
        self.finish(tasks[0])
        scheduler.switch(2, 1.0)
        self.assertEqual((scheduler.generation, scheduler.active, scheduler.standing_by), (2, 3, 0))
        self.assertEqual([number for number, _ in self.assign()], [4, 3])
        scheduler.worker_ready(5, 2.0)
        self.assertEqual(self.assign(), [(5, more[2:])])
        self.assertEqual(scheduler.departures(), [tasks[0].worker])
        self.finish(tasks[1])
        self.assertEqual(scheduler.departures(), [tasks[1].worker])

    def test_one_that_leaves_already_is_told_to_end_once(self):
        scheduler = self.make(1)
        scheduler.retire(1, 0.0)
        scheduler.switch(2, 0.0)
        self.assertEqual(scheduler.departures(), [1])

    def test_workers_that_are_started_for_the_new_code_do_not_count_before(self):
        scheduler = self.make(min_workers=0, max_workers=3)
        scheduler.worker_started(1, 0.0, 2)
        self.submit(2)
        self.assertEqual((scheduler.missing, scheduler.active), (2, 0))
        scheduler.worker_ready(1, 0.0)
        self.assertEqual(scheduler.missing, 2)

    def test_one_that_stands_by_can_be_lost_or_retire(self):
        scheduler = self.make(1)
        self.start(2, generation=2)
        self.start(3, generation=2)
        scheduler.worker_lost(2, 0, 0.0)
        scheduler.retire(3, 0.0)
        self.assertEqual((scheduler.departures(), scheduler.active, scheduler.standing_by), ([3], 1, 0))
        scheduler.switch(2, 0.0)
        self.assertEqual((scheduler.departures(), scheduler.active), ([1], 0))

    def test_a_surplus_of_the_new_code_leaves_in_its_time(self):
        scheduler = self.make(1, min_workers=0, idle_seconds=10.0)
        self.submit()
        self.assign()
        self.start(2, generation=2)
        self.tick(5.0)
        self.assertEqual(scheduler.wake_at, inf)
        scheduler.switch(2, 6.0)
        self.assertEqual(scheduler.wake_at, 16.0)
        self.tick(16.0)
        self.assertEqual(scheduler.departures(), [2])


class DeadlineTests(SchedulerCase):
    def test_a_task_that_waits_past_its_deadline_is_not_started(self):
        scheduler = self.make()
        task, other = self.submit(deadline=3.0), self.submit(deadline=5.0)
        self.assertEqual(scheduler.wake_at, 3.0)
        self.assertEqual(self.tick(2.0), [])
        self.assertEqual(scheduler.wake_at, 3.0)
        self.assertEqual([action.task for action in self.tick(3.0)], [task])
        self.assertEqual((task.state, scheduler.all_waiting), (TaskState.DONE, [other]))
        self.assertEqual(scheduler.wake_at, 5.0)

    def test_a_task_that_comes_back_has_its_deadline_still(self):
        for back in 1.0, 4.0:
            scheduler = self.make(1)
            task = self.submit(deadline=3.0)
            self.assign()
            self.tick(2.0)
            if back > 3.0:
                self.tick(3.5)
            scheduler.worker_lost(1, 0, back)
            self.assertEqual(scheduler.wake_at, 3.0)
            self.assertEqual([action.task for action in self.tick(4.0)], [task])
            self.assertTrue(scheduler.is_empty)

    def test_a_task_that_was_started_has_no_deadline_any_more(self):
        scheduler = self.make(1)
        task = self.submit(deadline=3.0)
        self.assign()
        self.assertEqual(self.tick(3.0), [])
        self.assertEqual((task.state, scheduler.wake_at), (TaskState.GIVEN, inf))
