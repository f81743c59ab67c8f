"""The order of waiting tasks in one lane, and what becomes of those that are removed."""

import itertools
import weakref

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from twisted.trial.unittest import SynchronousTestCase

from taskd.scheduler import TaskState
from taskd.scheduler.lane_order import FAIR_TURN
from taskd.scheduler.queue import PRIORITIES, TaskQueue
from tests.unit.tasks import FakeSubscriber, make_lane, make_task

priorities = st.integers(0, PRIORITIES - 1)


class EagerQueue(TaskQueue):
    """A queue that drops removed tasks early."""

    COMPACT_ABOVE = 1


class OneLaneMachine(RuleBasedStateMachine):
    """A queue with one lane, compared with a list for each priority."""

    is_shared = False

    def __init__(self):
        super().__init__()
        self.queue = EagerQueue(shared=self.is_shared)
        self.subscriber = FakeSubscriber()
        self.levels = [[] for _ in range(PRIORITIES)]
        self.last_number = 0
        self.passed_over = 0
        self.taken = []
        self.is_aside = False

    def tasks(self):
        return list(itertools.chain.from_iterable(self.levels))

    @rule(priority=st.sampled_from([0, 5, 5, 5, 9]))
    def push(self, priority):
        self.last_number += 1
        task = make_task(self.last_number, priority=priority, subscriber=self.subscriber)
        self.queue.push(task)
        self.levels[priority].append(task)

    @rule(is_short=st.booleans())
    def first_and_take(self, is_short):
        """Take the most urgent task, unless an older one has been passed over too often."""
        task = self.queue.first()
        if not self.tasks() or self.is_aside:
            assert task is None
            return
        heads = [level[0] for level in self.levels if level]
        oldest = min(heads, key=lambda head: head.number)
        assert task is (oldest if len(heads) > 1 and self.passed_over >= FAIR_TURN - 1 else heads[0])
        if len(heads) > 1:
            self.passed_over = 0 if task is oldest else self.passed_over + 1
        assert self.queue.first() is task
        self.levels[task.priority].pop(0)
        self.queue.take(task, is_short=is_short)
        task.state = TaskState.GIVEN
        self.taken.append(task)

    @rule()
    def set_aside(self):
        if not self.is_aside and (task := self.queue.first()) is not None:
            self.queue.set_aside(task)
            self.is_aside = True
            assert self.queue.first() is None

    @rule()
    def resume(self):
        self.queue.resume(self.subscriber)
        self.is_aside = False

    @rule()
    def drop_aside(self):
        assert self.queue.drop_aside() == (self.tasks() if self.is_aside else [])
        if self.is_aside:
            self.levels = [[] for _ in range(PRIORITIES)]

    @precondition(lambda self: self.taken)
    @rule()
    def push_back(self):
        """Put the task that was taken last back at the head."""
        task = self.taken.pop()
        self.queue.push_back(task)
        self.levels[task.priority].insert(0, task)

    @precondition(lambda self: self.tasks())
    @rule(data=st.data())
    def remove(self, data):
        task = data.draw(st.sampled_from(self.tasks()))
        self.queue.remove(task)
        assert task.state is TaskState.DONE
        self.levels[task.priority].remove(task)

    @rule(stays=st.booleans())
    def drop_waiting(self, stays):
        tasks = self.tasks()
        assert self.queue.drop_waiting({"f"} if stays else ()) == ([] if stays else tasks)
        self.is_aside = False
        if not stays:
            self.levels = [[] for _ in range(PRIORITIES)]

    @invariant()
    def all_are_there(self):
        tasks = self.tasks()
        startable = [] if self.is_aside else tasks
        assert list(self.queue) == startable
        assert len(self.queue) == len(startable)
        assert self.queue.all_waiting == tasks
        assert self.queue.waiting == len(tasks)
        assert self.subscriber.lane.waiting == len(tasks)


class SharedOneLaneMachine(OneLaneMachine):
    is_shared = True


class OneLaneTests(SynchronousTestCase):
    def test_any_course_of_events_agrees_with_one_list_per_priority(self):
        run_machine(OneLaneMachine)

    def test_shared_priorities_change_nothing_for_a_single_lane(self):
        run_machine(SharedOneLaneMachine)

    @given(
        before=st.lists(priorities, max_size=8),
        taken=st.integers(0, 8),
        priority=priorities,
        later=st.lists(st.lists(priorities, min_size=1, max_size=2), min_size=100, max_size=100),
    )
    def test_a_task_starts_after_at_most_ten_times_as_many_tasks_as_waited_before_it(
        self, before, taken, priority, later
    ):
        queue, lane = TaskQueue(), make_lane()
        numbers = itertools.count(1)
        for each in before:
            queue.push(make_task(next(numbers), priority=each, lane=lane))
        for _ in range(min(taken, len(before))):
            queue.take(queue.first())
        ahead = len(queue)
        wanted = make_task(next(numbers), priority=priority, lane=lane)
        queue.push(wanted)
        order = []
        for arriving in later:
            for each in arriving:
                queue.push(make_task(next(numbers), priority=each, lane=lane))
            order.append(queue.first())
            queue.take(order[-1])
        self.assertLess(order.index(wanted), FAIR_TURN * (ahead + 1))

    def test_urgent_work_keeps_nine_tenths_of_the_starts(self):
        queue, lane = TaskQueue(), make_lane()
        for number in range(200):
            queue.push(make_task(number, priority=9, lane=lane))
        started = []
        for number in range(200, 400):
            queue.push(make_task(number, priority=0, lane=lane))
            started.append(queue.first())
            queue.take(started[-1])
        self.assertEqual(sum(task.priority == 0 for task in started), 180)


class RemovalTests(SynchronousTestCase):
    def test_removed_tasks_do_not_pile_up(self):
        queue, lane = TaskQueue(), make_lane()
        kept = weakref.WeakSet()
        for number in range(3 * queue.COMPACT_ABOVE):
            subscriber = FakeSubscriber()
            kept.add(subscriber)
            queue.push(make_task(number, priority=number % PRIORITIES, subscriber=subscriber, lane=lane))
        *tasks, last = sorted(queue, key=lambda task: task.number)
        while tasks:
            queue.remove(tasks.pop())
        del subscriber
        self.assertLess(len(kept), 2 * queue.COMPACT_ABOVE)
        self.assertIs(queue.first(), last)

    def test_a_lane_of_which_nothing_waits_any_more_keeps_nothing(self):
        queue = TaskQueue()
        kept = weakref.WeakSet()
        for number in range(100):
            subscriber = FakeSubscriber()
            kept.add(subscriber)
            task = make_task(number, subscriber=subscriber, priority=number % PRIORITIES)
            queue.push(task)
            queue.remove(task)
        del subscriber, task
        self.assertEqual(len(kept), 0)

    def test_a_lane_that_is_passed_over_with_only_removed_tasks_holds_nobody_up(self):
        for shared in (False, True):
            queue, left, busy = TaskQueue(shared=shared), make_lane(), make_lane()
            urgent, gone = make_task(1, priority=0, lane=left), make_task(2, priority=5, lane=left)
            queue.push(urgent)
            queue.push(gone)
            queue.remove(gone)
            for number in range(3, 3 + 3 * FAIR_TURN):
                queue.push(make_task(number, priority=0, lane=busy))
            started = []
            while (task := queue.first()) is not None:
                queue.take(task)
                started.append(task.number)
            self.assertEqual(sorted(started), [1, *range(3, 3 + 3 * FAIR_TURN)])
