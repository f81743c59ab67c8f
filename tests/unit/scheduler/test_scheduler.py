"""The scheduler: the queue's bounds, turns, outcomes, losses and deadlines."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from taskd.errors import Busy, ImpossibleMessage, StateError
from taskd.scheduler import FunctionStats, TaskState
from taskd.scheduler.config import MAX_QUEUE
from taskd.scheduler.lane_order import FAIR_TURN
from taskd.scheduler.scheduler import MAX_LOSSES
from tests.unit.scheduler.case import SchedulerCase
from tests.unit.tasks import FakeSubscriber, make_lane, short_function


class QueueTests(SchedulerCase):
    def test_the_queue_is_as_long_as_the_protocol_says(self):
        self.assertEqual(MAX_QUEUE, 10_000)
        scheduler = self.make()
        self.submit(10_000)
        self.assertRaises(Busy, scheduler.submit, self.task())
        self.assertEqual(scheduler.queue.waiting, 10_000)

    def test_a_refused_task_is_unchanged(self):
        scheduler = self.make(max_queue=0)
        task = self.task(deadline=5.0)
        error = self.assertRaises(Busy, scheduler.submit, task)
        self.assertEqual((task.state, scheduler.queue.waiting, scheduler.wake_at), (TaskState.NEW, 0, inf))
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

    def test_every_waiting_task_is_listed(self):
        caller = FakeSubscriber(is_full=True)
        scheduler = self.make(1)
        throttled = self.submit(subscriber=caller)
        last = self.submit(priority=9)
        given = self.submit(priority=0)
        urgent = self.submit(priority=0)
        self.assign()
        self.assertEqual(scheduler.queue.all_waiting, [urgent, last, throttled])
        self.assertEqual(
            (scheduler.queue.waiting, scheduler.fleet.running, scheduler.is_empty), (3, 1, False)
        )
        self.finish(given)
        self.assertEqual((scheduler.queue.waiting, scheduler.fleet.running), (3, 0))

    def test_a_full_submitters_task_starts_if_replies_wait_for_it_wherever_it_is_in_the_lane(self):
        scheduler = self.make(idle=1)
        caller = FakeSubscriber(is_full=True)
        oldest = self.submit(subscriber=caller, key="oldest", priority=9)
        for priority in (0, 5):
            self.submit(2, subscriber=caller, priority=priority)
        caller.needed = ["oldest"]
        self.assertEqual(self.assign(), [(1, [oldest])])
        self.finish(oldest)
        self.assertEqual(self.assign(), [])
        self.assertEqual((len(scheduler.queue), scheduler.queue.waiting), (0, 4))
        urgent = next(task for task in scheduler.queue.all_waiting if task.priority == 0)
        urgent.key = "next"
        caller.needed = ["next"]
        scheduler.queue.resume(caller)
        self.assertEqual(self.assign(), [(1, [urgent])])

    def test_waiting_tasks_can_be_dropped_but_for_those_of_some_functions(self):
        scheduler = self.make(1)
        other = FunctionStats("g")
        throttled = self.submit(subscriber=FakeSubscriber(is_full=True))
        given = self.submit(priority=0)
        self.assign()
        tasks = [self.submit(), self.submit(stats=other), self.submit()]
        self.assertEqual(scheduler.queue.drop_waiting(unless={"g": 1}), [tasks[0], tasks[2], throttled])
        self.assertEqual((scheduler.queue.all_waiting, scheduler.fleet.running), ([tasks[1]], 1))
        self.assertEqual(scheduler.queue.drop_waiting(), [tasks[1]])
        self.assertEqual(scheduler.queue.drop_waiting(), [])
        self.finish(given)
        self.assertTrue(scheduler.is_empty)
        self.assertTrue(all(task.state is TaskState.DONE for task in [throttled, given, *tasks]))


class ThrottledTests(SchedulerCase):
    def test_a_lane_whose_submitter_is_full_is_set_aside_and_delays_no_other(self):
        scheduler = self.make(2)
        full = FakeSubscriber(is_full=True)
        throttled, other, last = self.submit(subscriber=full), self.submit(), self.submit(subscriber=full)
        self.assertEqual(self.assign(), [(2, [other])])
        self.assertEqual((len(scheduler.queue), scheduler.queue.waiting, scheduler.is_empty), (0, 2, False))
        full.is_full = False
        self.assertEqual(self.assign(), [])
        scheduler.queue.resume(full)
        self.assertEqual(self.assign(), [(1, [throttled])])
        self.finish(other)
        self.assertEqual(self.assign(), [(2, [last])])

    def test_a_lane_that_is_resumed_goes_behind_the_others(self):
        scheduler = self.make(1)
        full = FakeSubscriber(is_full=True)
        throttled = self.submit(2, subscriber=full)
        self.assign()
        later = self.submit()
        full.is_full = False
        scheduler.queue.resume(full)
        self.assertEqual(scheduler.queue.all_waiting, [later, *throttled])

    def test_resume_puts_back_the_lanes_of_that_submitter_alone(self):
        scheduler = self.make(1)
        first, second = FakeSubscriber(is_full=True), FakeSubscriber(is_full=True)
        tasks = self.submit(subscriber=first), self.submit(subscriber=second)
        self.assign()
        second.is_full = False
        scheduler.queue.resume(second)
        self.assertEqual(list(scheduler.queue), [tasks[1]])
        scheduler.queue.resume(second)
        self.assertEqual(scheduler.queue.all_waiting, [tasks[1], tasks[0]])

    def test_every_lane_that_a_gateway_has_named_is_resumed_with_its_connection(self):
        scheduler = self.make(1)
        gateway = FakeSubscriber(is_full=True)
        lanes = [make_lane(), make_lane()]
        tasks = [self.submit(subscriber=gateway, lane=lane) for lane in lanes]
        self.assign()
        self.assertEqual((len(scheduler.queue), scheduler.queue.waiting), (0, 2))
        gateway.is_full = False
        scheduler.queue.resume(gateway)
        self.assertEqual(list(scheduler.queue), tasks)

    def test_a_task_that_comes_while_its_lane_is_set_aside_waits_with_the_others(self):
        scheduler = self.make(1)
        full = FakeSubscriber(is_full=True)
        first = self.submit(subscriber=full)
        self.assign()
        urgent = self.submit(subscriber=full, priority=0)
        self.assertEqual((len(scheduler.queue), scheduler.queue.waiting), (0, 2))
        full.is_full = False
        scheduler.queue.resume(full)
        self.assertEqual(list(scheduler.queue), [urgent, first])

    def test_a_task_that_a_worker_returns_while_its_lane_is_set_aside_goes_to_the_head_of_the_lane(self):
        scheduler = self.make(1)
        full = FakeSubscriber()
        returned, other = self.submit(2, short_function(), subscriber=full)
        self.assign()
        full.is_full = True
        waiting = self.submit(3, subscriber=full)
        scheduler.returned(1, [returned.number, other.number], 0.0)
        self.assign()
        full.is_full = False
        scheduler.queue.resume(full)
        self.assertEqual(list(scheduler.queue), [returned, other, *waiting])

    def test_a_throttled_task_does_not_make_the_server_busy_for_others(self):
        scheduler = self.make(1, max_queue=0)
        self.submit(subscriber=FakeSubscriber(is_full=True))
        self.assign()
        self.submit()
        self.assertRaises(Busy, scheduler.submit, self.task())

    def test_throttled_tasks_can_be_dropped_alone(self):
        scheduler = self.make(1)
        throttled = self.submit(subscriber=FakeSubscriber(is_full=True))
        self.submit(2)
        self.assign()
        self.assertEqual(scheduler.queue.drop_aside(), [throttled])
        self.assertEqual((throttled.state, scheduler.queue.waiting), (TaskState.DONE, 1))
        self.assertEqual(scheduler.queue.drop_aside(), [])

    def test_a_throttled_task_can_be_cancelled_and_its_deadline_counts(self):
        scheduler = self.make(1)
        full = FakeSubscriber(is_full=True)
        cancelled, expired = self.submit(subscriber=full), self.submit(subscriber=full, deadline=1.0)
        self.assign()
        self.assertEqual(scheduler.cancel(cancelled, 0.0), [])
        self.assertEqual([action.task for action in self.tick(1.0)], [expired])
        self.assertEqual([task.state for task in (cancelled, expired)], [TaskState.DONE] * 2)
        scheduler.queue.resume(full)
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
    def test_a_task_of_low_priority_starts_after_at_most_ten_times_as_many_tasks_as_waited_before_it(
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
        scheduler.fleet.add(1, 0.0)
        self.assertEqual(self.assign(), [])
        scheduler.fleet.ready(1, 0.0)
        self.assertEqual(len(self.assign()), 1)
        self.assertEqual(self.assign(), [])

    def test_the_worker_that_became_idle_last_works_first(self):
        self.make(3)
        first = self.submit(2)
        self.assertEqual([worker for worker, _ in self.assign()], [3, 2])
        self.finish(first[0])
        self.submit()
        self.assertEqual([worker for worker, _ in self.assign()], [3])

    def test_a_task_knows_its_worker_its_start_and_its_attempts(self):
        self.make(1)
        task = self.submit()
        self.assign(7.0)
        self.assertEqual((task.state, task.worker, task.attempts, task.started), (TaskState.GIVEN, 1, 1, 7.0))
        self.scheduler.worker_exited(1, 0, 8.0)
        self.assertEqual((task.state, task.worker), (TaskState.WAITING, 0))
        self.start(2, 8.0)
        self.assign(9.0)
        self.assertEqual((task.worker, task.attempts, task.started), (2, 2, 9.0))

    def test_a_worker_cannot_finish_what_it_does_not_have(self):
        self.make(2)
        tasks = self.submit(2)
        self.assign()
        self.finish(tasks[0])
        self.assertRaises(ImpossibleMessage, self.finish, tasks[0])
        other, number = tasks[0].worker, tasks[1].number
        self.assertRaises(ImpossibleMessage, self.scheduler.finished, other, number, 0.0, 0.0, failed=False)
        self.assertRaises(ImpossibleMessage, self.scheduler.stopped, other, number, 0.0)
        self.assertRaises(StateError, self.scheduler.finished, 9, number, 0.0, 0.0, failed=False)
        self.finish(tasks[1])

    def test_a_worker_cannot_return_what_it_does_not_have_nor_twice_nor_nothing(self):
        self.make(2)
        tasks = self.submit(2)
        self.assign()
        mine, other = tasks[0].number, tasks[1].number
        for returned in [other], [mine, other], [mine, mine], []:
            self.assertRaises(ImpossibleMessage, self.scheduler.returned, tasks[0].worker, returned, 0.0)
        self.assertEqual([task.state for task in tasks], [TaskState.GIVEN] * 2)
        self.assertEqual(self.scheduler.returned(tasks[0].worker, [mine], 0.0), [])
        self.assertIs(tasks[0].state, TaskState.WAITING)

    def test_attempts_are_counted_except_those_with_invalid_arguments(self):
        self.make(1)
        for seconds, failed in (1.0, False), (3.0, True), (None, True):
            task = self.submit()
            self.assign()
            self.assertIs(self.finish(task, seconds=seconds, failed=failed), task)
        self.assertEqual((self.stats.done, self.stats.failed, self.stats.mean), (1, 1, 2.0))
        self.assertEqual(self.scheduler.fleet.workers[1].done, 3)

    def test_a_pass_is_due_while_tasks_wait_or_workers_must_end(self):
        scheduler = self.make(1)
        self.assertFalse(scheduler.is_due)
        task = self.submit()
        self.assertTrue(scheduler.is_due)
        self.assign()
        self.assertFalse(scheduler.is_due)
        scheduler.fleet.retire(1, 0.0)
        self.finish(task)
        self.assertTrue(scheduler.is_due)
        scheduler.fleet.departures()
        self.assertFalse(scheduler.is_due)


class LossTests(SchedulerCase):
    def test_a_task_that_was_begun_is_lost_with_its_worker_and_the_rest_waits_again(self):
        scheduler = self.make(1)
        batch = short_function()
        tasks = self.submit(4, batch)
        self.assign()
        later = self.submit()
        self.assertEqual(scheduler.worker_exited(1, tasks[1].number, 1.0), tasks[:2])
        self.assertEqual([task.state for task in tasks[:2]], [TaskState.DONE] * 2)
        self.assertEqual((scheduler.queue.all_waiting, scheduler.fleet.running), ([*tasks[2:], later], 0))
        self.assertFalse(batch.is_short)
        self.assertEqual(scheduler.fleet.workers, {})

    def test_a_worker_that_had_begun_no_task_loses_none(self):
        scheduler = self.make(1)
        tasks = self.submit(3, short_function())
        self.assign()
        self.assertEqual(scheduler.worker_exited(1, 77, 1.0), [])
        self.assertEqual((scheduler.queue.all_waiting, scheduler.fleet.running), (tasks, 0))

    def test_a_task_whose_workers_keep_ending_before_it_begins_is_not_retried_for_ever(self):
        scheduler = self.make()
        task = self.submit()
        for number in range(1, MAX_LOSSES + 2):
            self.start(number)
            self.assertEqual(self.assign(), [(number, [task])])
            lost = scheduler.worker_exited(number, 0, 0.0)
        self.assertEqual(lost, [task])
        self.assertEqual(
            (task.state, scheduler.queue.waiting, scheduler.fleet.running), (TaskState.DONE, 0, 0)
        )


class DeadlineTests(SchedulerCase):
    def test_a_task_that_waits_past_its_deadline_is_not_started(self):
        scheduler = self.make()
        task, other = self.submit(deadline=3.0), self.submit(deadline=5.0)
        self.assertEqual(scheduler.wake_at, 3.0)
        self.assertEqual(self.tick(2.0), [])
        self.assertEqual(scheduler.wake_at, 3.0)
        self.assertEqual([action.task for action in self.tick(3.0)], [task])
        self.assertEqual((task.state, scheduler.queue.all_waiting), (TaskState.DONE, [other]))
        self.assertEqual(scheduler.wake_at, 5.0)

    def test_a_task_that_comes_back_still_has_its_deadline(self):
        for back in 1.0, 4.0:
            scheduler = self.make(1)
            task = self.submit(deadline=3.0)
            self.assign()
            self.tick(2.0)
            if back > 3.0:
                self.tick(3.5)
            scheduler.worker_exited(1, 0, back)
            self.assertEqual(scheduler.wake_at, 3.0)
            self.assertEqual([action.task for action in self.tick(4.0)], [task])
            self.assertTrue(scheduler.is_empty)

    def test_a_task_that_was_started_has_no_deadline_any_more(self):
        scheduler = self.make(1)
        task = self.submit(deadline=3.0)
        self.assign()
        self.assertEqual(self.tick(3.0), [])
        self.assertEqual((task.state, scheduler.wake_at), (TaskState.GIVEN, inf))
