"""The deadlines of stored tasks, and the retries and the time of being kept that a submit asks for."""

from msgspec import Raw
from twisted.internet.defer import Deferred, execute

from taskd.durable import deadlines as deadlines_module
from taskd.durable import window as window_module
from taskd.durable.tasks import DurableTasks
from taskd.errors import InvalidParams, TaskFailed
from taskd.functions.registry import FunctionInfo
from taskd.model import Failure, Result, SubmitOptions
from taskd.store.base import StoreError
from taskd.store.records import State
from tests.unit.durable.test_tasks import DurableCase

FAILED = Failure.of(TaskFailed("no", type="ValueError"))


class DeadlineTests(DurableCase):
    def test_a_task_in_the_store_that_is_not_started_in_time_expires(self):
        self.patch(window_module, "WINDOW", 1)
        self.submit()
        late, later = self.submit(deadline=5.0), self.submit(deadline=7.0)
        ended = []
        self.tasks.waiters.wait(late, lambda state, outcome: ended.append((state, outcome)))
        self.turn(5.0)
        [(state, outcome)] = ended
        self.assertIs(state, State.EXPIRED)
        self.assertIn(b"by its deadline", outcome)
        self.assertEqual(self.events(late), ["queued", "expired"])
        self.assertIs(self.state(later), State.WAITING)
        self.turn(2.0)
        self.assertIs(self.state(later), State.EXPIRED)
        self.assertEqual(len(self.runner.queue), 1)

    def test_a_claimed_task_has_the_rest_of_its_time(self):
        self.submit(delay=2.0, deadline=5.0)
        self.turn(2.5)
        [task] = self.runner.queue
        self.assertAlmostEqual(task.call.options.deadline, 4.5, places=3)

    def test_a_deadline_is_only_for_the_first_start(self):
        task = self.submit(deadline=5.0, retries=1)
        self.end(self.begin(), FAILED)
        self.turn(20.0)
        [again] = self.runner.queue
        self.assertIsNone(again.call.options.deadline)
        self.end(self.begin(), Result(Raw(b"1")))
        self.assertIs(self.state(task), State.SUCCEEDED)

    def test_deadlines_hold_over_a_restart(self):
        self.patch(window_module, "WINDOW", 0)
        task = self.submit(deadline=5.0)
        self.start()
        self.turn(5.0)
        self.assertIs(self.state(task), State.EXPIRED)

    def test_many_tasks_expire_in_several_transactions(self):
        self.patch(window_module, "WINDOW", 0)
        self.patch(deadlines_module, "EXPIRED", 2)
        tasks = [self.submit(deadline=5.0) for _ in range(5)]
        self.turn(5.0)
        for _ in range(5):
            self.turn()
        self.assertEqual({self.state(task) for task in tasks}, {State.EXPIRED})

    def test_a_store_that_cannot_be_read_is_read_again(self):
        self.patch(window_module, "WINDOW", 0)
        task = self.submit(deadline=5.0)
        overdue = self.store.overdue

        def broken(now, limit):
            self.store.overdue = overdue
            raise StoreError("the disk has gone")

        self.store.overdue = broken
        self.turn(5.0)
        self.assertIs(self.state(task), State.WAITING)
        self.turn(1.0)
        self.assertIs(self.state(task), State.EXPIRED)


class ClaimedWhileExpiringTests(DurableCase):
    """A store whose transactions end when the test says."""

    def setUp(self):
        self.slow = None
        super().setUp()

    def start(self):
        self.tasks = DurableTasks(
            self.clock, self.runner, self.store, self.execute, lambda: 1000.0 + self.clock.seconds()
        )
        self.tasks.use([FunctionInfo("f", "f()", "", {})])
        self.turn()

    def execute(self, call):
        done = execute(call)
        if self.slow is None:
            return done
        waits = Deferred()
        self.slow.append(lambda: done.chainDeferred(waits))
        return waits

    def test_a_task_that_is_claimed_while_it_expires_is_not_started(self):
        self.patch(window_module, "WINDOW", 1)
        self.submit()
        late = self.submit(deadline=5.0)
        first = self.begin()
        self.slow = []
        first.subscriber.task_ended(first.key, Result(Raw(b"1")))
        self.turn()  # the end of the first is written
        self.turn(5.0)  # the second is found to be overdue
        for _ in range(6):
            while self.slow:
                self.slow.pop(0)()
            self.turn()
        self.assertIs(self.state(late), State.EXPIRED)
        self.assertEqual(self.runner.queue, [])


class SubmitTests(DurableCase):
    retries = 1

    def test_a_submit_may_have_retries_of_its_own(self):
        none, more = self.submit(retries=0), self.submit(retries=2)
        self.end(self.begin(), FAILED)
        self.assertIs(self.state(none), State.FAILED)
        for _ in range(3):
            self.end(self.begin(), FAILED)
            self.turn(20.0)
        self.assertIs(self.state(more), State.FAILED)
        self.assertEqual(self.store.get(more).errors, 3)

    def test_a_submit_may_keep_its_task_for_longer(self):
        short, long = self.submit(keep=0.0), self.submit(keep=1000.0)
        self.end(self.begin(), Result(Raw(b"1")))
        self.end(self.begin(), Result(Raw(b"1")))
        for _ in range(20):
            self.turn(10.0)
        self.assertIsNone(self.store.get(short))
        self.assertIsNotNone(self.store.get(long))

    def test_a_task_at_a_time_waits_for_it(self):
        task = self.submit(at="1970-01-01T00:17:00Z")  # 20 s from the beginning
        self.turn(19.0)
        self.assertIs(self.state(task), State.SCHEDULED)
        self.turn(1.0)
        self.assertEqual(len(self.runner.queue), 1)

    def test_a_time_that_has_passed_is_now(self):
        self.submit(at="1970-01-01T00:00:01Z")
        self.assertEqual(len(self.runner.queue), 1)


class OnceTests(DurableCase):
    once = True

    def test_a_function_that_is_run_once_has_no_retries(self):
        asked = SubmitOptions(retries=1)
        error = self.assertRaises(InvalidParams, self.tasks.submit, "f", None, asked, print)
        self.assertIn("f is run once", error.message)
        self.submit(retries=0)
