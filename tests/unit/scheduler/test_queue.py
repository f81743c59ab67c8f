"""Whose turn it is, and whose time is over."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from twisted.trial.unittest import SynchronousTestCase

from taskd.scheduler import TaskState
from taskd.scheduler.queue import FAIR_TURN, PRIORITIES, Deadlines, TaskQueue
from tests.unit.tasks import FakeTask

priorities = st.integers(0, PRIORITIES - 1)


class EagerQueue(TaskQueue):
    """Throws out early what has left."""

    COMPACT_ABOVE = 1


class EagerDeadlines(Deadlines):
    """Throws out early what is out of date."""

    COMPACT_ABOVE = 2


def waiting_task(number, priority=5):
    return FakeTask(number, priority=priority, state=TaskState.WAITING)


def is_waiting(task):
    return task.state is TaskState.WAITING


class TaskQueueMachine(RuleBasedStateMachine):
    """A queue against a list for each priority."""

    def __init__(self):
        super().__init__()
        self.queue = EagerQueue()
        self.levels = [[] for _ in range(PRIORITIES)]
        self.last_number = 0
        self.passed_over = 0
        self.taken = []

    def tasks(self):
        return list(itertools.chain.from_iterable(self.levels))

    @rule(priority=st.sampled_from([0, 5, 5, 5, 9]))
    def push(self, priority):
        self.last_number += 1
        task = waiting_task(self.last_number, priority)
        self.queue.push(task)
        self.levels[priority].append(task)

    @rule()
    def first_and_take(self):
        """The most urgent one, but for an older one that has been passed over too often."""
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
        self.queue.take(task)
        self.levels[task.priority].pop(0)
        self.taken.append(task)

    @precondition(lambda self: self.taken)
    @rule()
    def push_back(self):
        """A task that was taken last goes to the head."""
        task = self.taken.pop()
        self.queue.push_back(task)
        self.levels[task.priority].insert(0, task)

    @precondition(lambda self: self.tasks())
    @rule(data=st.data())
    def remove(self, data):
        task = data.draw(st.sampled_from(self.tasks()))
        task.state = TaskState.DONE
        self.queue.remove()
        self.levels[task.priority].remove(task)

    @rule()
    def clear(self):
        assert self.queue.clear() == self.tasks()
        self.levels = [[] for _ in range(PRIORITIES)]
        self.passed_over = 0

    @invariant()
    def all_are_there(self):
        assert list(self.queue) == self.tasks()
        assert len(self.queue) == len(self.tasks())
        assert bool(self.queue) == bool(self.tasks())


class TaskQueueTests(SynchronousTestCase):
    def test_any_course_of_events_is_that_of_a_list_for_each_priority(self):
        run_machine(TaskQueueMachine)

    @given(
        before=st.lists(priorities, max_size=8),
        taken=st.integers(0, 8),
        priority=priorities,
        later=st.lists(st.lists(priorities, min_size=1, max_size=2), min_size=100, max_size=100),
    )
    def test_a_task_starts_at_the_latest_after_ten_times_as_many_others_as_were_there_before_it(
        self, before, taken, priority, later
    ):
        queue = TaskQueue()
        numbers = itertools.count(1)
        for each in before:
            queue.push(waiting_task(next(numbers), each))
        for _ in range(min(taken, len(before))):
            queue.take(queue.first())
        ahead = len(queue)
        wanted = waiting_task(next(numbers), priority)
        queue.push(wanted)
        order = []
        for arriving in later:
            for each in arriving:
                queue.push(waiting_task(next(numbers), each))
            order.append(queue.first())
            queue.take(order[-1])
        self.assertLess(order.index(wanted), FAIR_TURN * (ahead + 1))

    def test_urgent_work_keeps_nine_tenths_of_the_starts(self):
        queue = TaskQueue()
        for number in range(200):
            queue.push(waiting_task(number, 9))
        started = []
        for number in range(200, 400):
            queue.push(waiting_task(number, 0))
            started.append(queue.first())
            queue.take(started[-1])
        self.assertEqual(sum(task.priority == 0 for task in started), 180)

    def test_many_that_have_left_do_not_stay_for_ever(self):
        queue = TaskQueue()
        tasks = [waiting_task(number, number % PRIORITIES) for number in range(3 * queue.COMPACT_ABOVE)]
        for task in tasks:
            queue.push(task)
        for task in tasks[:-1]:
            task.state = TaskState.DONE
            queue.remove()
        self.assertLess(sum(len(level) for level in queue._levels), 2 * queue.COMPACT_ABOVE)
        self.assertIs(queue.first(), tasks[-1])


class DeadlinesTests(SynchronousTestCase):
    def test_there_is_none_at_first(self):
        deadlines = Deadlines(is_waiting)
        self.assertIsNone(deadlines.next)
        self.assertEqual(deadlines.expired(1e9), [])

    def test_each_task_is_told_once_when_its_time_is_over(self):
        deadlines = Deadlines(is_waiting)
        tasks = [waiting_task(number) for number in range(3)]
        for when, task in zip((3.0, 1.0, 2.0), tasks, strict=True):
            deadlines.add(when, task)
        self.assertEqual(deadlines.next, 1.0)
        self.assertEqual(deadlines.expired(0.5), [])
        self.assertEqual(deadlines.expired(2.0), [tasks[1], tasks[2]])
        self.assertEqual((deadlines.expired(2.5), deadlines.next), ([], 3.0))
        self.assertEqual((deadlines.expired(3.0), deadlines.next), ([tasks[0]], None))

    def test_a_task_that_was_added_again_is_told_once(self):
        deadlines = Deadlines(is_waiting)
        tasks = [waiting_task(number) for number in range(3)]
        for task in tasks * 3:
            deadlines.add(1.0, task)
        self.assertEqual(deadlines.expired(1.0), tasks)

    def test_a_task_that_does_not_wait_any_more_is_not_told(self):
        deadlines = Deadlines(is_waiting)
        task = waiting_task(1)
        deadlines.add(1.0, task)
        task.state = TaskState.GIVEN
        self.assertEqual(deadlines.expired(1.0), [])

    def test_what_is_out_of_date_does_not_pile_up(self):
        deadlines = Deadlines(is_waiting)
        stays = waiting_task(0)
        deadlines.add(1e6, stays)
        for number in range(1, 10 * deadlines.COMPACT_ABOVE):
            task = waiting_task(number)
            deadlines.add(1e6 + number, task)
            task.state = TaskState.DONE
        self.assertLess(len(deadlines._heap), 2 * deadlines.COMPACT_ABOVE)
        self.assertEqual(deadlines.expired(1e9), [stays])

    @given(st.lists(st.tuples(st.integers(0, 20), st.booleans())), st.integers(0, 20))
    def test_all_those_and_only_those_that_are_over_are_told_in_their_order(self, entries, now):
        deadlines = EagerDeadlines(is_waiting)
        tasks = []
        for number, (when, leaves) in enumerate(entries):
            task = waiting_task(number)
            deadlines.add(float(when), task)
            if leaves:
                task.state = TaskState.DONE
            else:
                tasks.append((float(when), number, task))
        over = [entry[2] for entry in sorted(tasks[:]) if entry[0] <= now]
        self.assertEqual(deadlines.expired(float(now)), over)
        rest = [entry for entry in tasks if entry[0] > now]
        self.assertEqual(deadlines.expired(100.0), [entry[2] for entry in sorted(rest)])
