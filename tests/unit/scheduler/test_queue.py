"""The order of waiting tasks."""

import itertools
import weakref

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from twisted.trial.unittest import SynchronousTestCase

from taskd.scheduler import TaskState
from taskd.scheduler.queue import FAIR_TURN, PRIORITIES, TaskQueue
from tests.unit.tasks import FakeSubscriber, make_task

priorities = st.integers(0, PRIORITIES - 1)


class EagerQueue(TaskQueue):
    """A queue that drops removed tasks early."""

    COMPACT_ABOVE = 1


class TaskQueueMachine(RuleBasedStateMachine):
    """A queue compared with a list for each priority."""

    def __init__(self):
        super().__init__()
        self.queue = EagerQueue()
        self.levels = [[] for _ in range(PRIORITIES)]
        self.last_number = 0
        self.passed_over = 0
        self.taken = []
        self.throttled = []

    def tasks(self):
        return list(itertools.chain.from_iterable(self.levels))

    @rule(priority=st.sampled_from([0, 5, 5, 5, 9]))
    def push(self, priority):
        self.last_number += 1
        task = make_task(self.last_number, priority=priority)
        self.queue.push(task)
        self.levels[priority].append(task)

    @rule(throttles=st.sampled_from([False, False, False, True]))
    def first_and_take(self, throttles):
        """Take the most urgent task, unless an older one has been passed over too often."""
        task = self.queue.first()
        if not self.tasks():
            assert task is None
            return
        heads = [level[0] for level in self.levels if level]
        oldest = min(heads, key=lambda head: head.number)
        assert task is (oldest if len(heads) > 1 and self.passed_over >= FAIR_TURN - 1 else heads[0])
        if len(heads) > 1:
            self.passed_over = 0 if task is oldest else self.passed_over + 1
        assert self.queue.first() is task
        self.levels[task.priority].pop(0)
        if throttles:
            self.queue.throttle(task)
            assert task.state is TaskState.THROTTLED
            self.throttled.append(task)
        else:
            self.queue.take(task)
            task.state = TaskState.GIVEN
            self.taken.append(task)

    @rule()
    def release(self):
        """Release the throttled tasks, which go to the head in their order."""
        self.queue.release()
        while self.throttled:
            task = self.throttled.pop()
            self.levels[task.priority].insert(0, task)

    @rule()
    def drop_throttled(self):
        assert self.queue.drop_throttled() == self.throttled
        self.throttled = []

    @precondition(lambda self: self.taken)
    @rule()
    def push_back(self):
        """Put the task that was taken last back at the head."""
        task = self.taken.pop()
        self.queue.push_back(task)
        self.levels[task.priority].insert(0, task)

    @precondition(lambda self: self.tasks() or self.throttled)
    @rule(data=st.data())
    def remove(self, data):
        task = data.draw(st.sampled_from([*self.tasks(), *self.throttled]))
        self.queue.remove(task)
        assert task.state is TaskState.DONE
        (self.throttled if task in self.throttled else self.levels[task.priority]).remove(task)

    @rule(stays=st.booleans())
    def drop_waiting(self, stays):
        self.release()
        tasks = self.tasks()
        assert self.queue.drop_waiting({"f"} if stays else ()) == ([] if stays else tasks)
        if not stays:
            self.levels = [[] for _ in range(PRIORITIES)]

    @invariant()
    def all_are_there(self):
        assert list(self.queue) == self.tasks()
        assert len(self.queue) == len(self.tasks())
        waiting = [*self.tasks(), *self.throttled]
        assert self.queue.all_waiting == waiting
        assert self.queue.waiting == len(waiting)
        assert self.queue.oldest is min(waiting, key=lambda task: task.number, default=None)


class TaskQueueTests(SynchronousTestCase):
    def test_any_course_of_events_agrees_with_one_list_per_priority(self):
        run_machine(TaskQueueMachine)

    @given(
        before=st.lists(priorities, max_size=8),
        taken=st.integers(0, 8),
        priority=priorities,
        later=st.lists(st.lists(priorities, min_size=1, max_size=2), min_size=100, max_size=100),
    )
    def test_a_task_starts_after_at_most_ten_times_as_many_tasks_as_waited_before_it(
        self, before, taken, priority, later
    ):
        queue = TaskQueue()
        numbers = itertools.count(1)
        for each in before:
            queue.push(make_task(next(numbers), priority=each))
        for _ in range(min(taken, len(before))):
            queue.take(queue.first())
        ahead = len(queue)
        wanted = make_task(next(numbers), priority=priority)
        queue.push(wanted)
        order = []
        for arriving in later:
            for each in arriving:
                queue.push(make_task(next(numbers), priority=each))
            order.append(queue.first())
            queue.take(order[-1])
        self.assertLess(order.index(wanted), FAIR_TURN * (ahead + 1))

    def test_urgent_work_keeps_nine_tenths_of_the_starts(self):
        queue = TaskQueue()
        for number in range(200):
            queue.push(make_task(number, priority=9))
        started = []
        for number in range(200, 400):
            queue.push(make_task(number, priority=0))
            started.append(queue.first())
            queue.take(started[-1])
        self.assertEqual(sum(task.priority == 0 for task in started), 180)

    def test_removed_tasks_do_not_pile_up(self):
        queue = TaskQueue()
        kept = weakref.WeakSet()
        for number in range(3 * queue.COMPACT_ABOVE):
            subscriber = FakeSubscriber()
            kept.add(subscriber)
            queue.push(make_task(number, priority=number % PRIORITIES, subscriber=subscriber))
        *tasks, last = sorted(queue, key=lambda task: task.number)
        while tasks:
            queue.remove(tasks.pop())
        del subscriber
        self.assertLess(len(kept), 2 * queue.COMPACT_ABOVE)
        self.assertIs(queue.first(), last)
