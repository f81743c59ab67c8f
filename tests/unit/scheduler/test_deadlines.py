"""Tasks that have waited past their deadline."""

import weakref
from math import inf

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.scheduler import TaskState
from taskd.scheduler.deadlines import Deadlines
from tests.unit.tasks import FakeSubscriber, make_task


class EagerDeadlines(Deadlines):
    """A collection that drops outdated entries early."""

    COMPACT_ABOVE = 2


def waiting_task(number, **more):
    return make_task(number, state=TaskState.WAITING, **more)


class DeadlinesTests(SynchronousTestCase):
    def test_a_new_collection_has_no_deadline(self):
        deadlines = Deadlines()
        self.assertEqual(deadlines.next_at, inf)
        self.assertEqual(deadlines.expired(1e9), [])

    def test_each_task_is_returned_once_when_its_deadline_is_over(self):
        deadlines = Deadlines()
        tasks = [waiting_task(number) for number in range(3)]
        for when, task in zip((3.0, 1.0, 2.0), tasks, strict=True):
            deadlines.add(when, task)
        self.assertEqual(deadlines.next_at, 1.0)
        self.assertEqual(deadlines.expired(0.5), [])
        self.assertEqual(deadlines.expired(2.0), [tasks[1], tasks[2]])
        self.assertEqual((deadlines.expired(2.5), deadlines.next_at), ([], 3.0))
        self.assertEqual((deadlines.expired(3.0), deadlines.next_at), ([tasks[0]], inf))

    def test_a_task_that_was_added_again_is_returned_once(self):
        deadlines = Deadlines()
        tasks = [waiting_task(number) for number in range(3)]
        for task in tasks * 3:
            deadlines.add(1.0, task)
        self.assertEqual(deadlines.expired(1.0), tasks)

    def test_a_task_that_does_not_wait_any_more_does_not_expire(self):
        deadlines = Deadlines()
        task = waiting_task(1)
        deadlines.add(1.0, task)
        task.state = TaskState.GIVEN
        self.assertEqual(deadlines.expired(1.0), [])

    def test_outdated_entries_do_not_pile_up(self):
        deadlines = Deadlines()
        stays = waiting_task(0)
        deadlines.add(1e6, stays)
        kept = weakref.WeakSet()
        for number in range(1, 10 * deadlines.COMPACT_ABOVE):
            subscriber = FakeSubscriber()
            kept.add(subscriber)
            task = waiting_task(number, subscriber=subscriber)
            deadlines.add(1e6 + number, task)
            task.state = TaskState.DONE
        self.assertLess(len(kept), 2 * deadlines.COMPACT_ABOVE)
        self.assertEqual(deadlines.expired(1e9), [stays])

    @given(st.lists(st.tuples(st.integers(0, 20), st.booleans())), st.integers(0, 20))
    def test_exactly_the_tasks_whose_deadline_is_over_expire_in_the_order_of_their_deadlines(
        self, entries, now
    ):
        deadlines = EagerDeadlines()
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
