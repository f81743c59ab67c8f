"""What is scheduled is run once it is due, however slow the store is, and whatever happens meanwhile."""

from msgspec import Raw
from twisted.internet.defer import Deferred

from taskd.durable import writer as writer_module
from taskd.durable.tasks import DurableTasks
from taskd.errors import TaskFailed
from taskd.functions.durability import Durability
from taskd.functions.registry import FunctionInfo
from taskd.model import Failure, SubmitOptions
from taskd.store.base import StoreError
from taskd.store.batches import NewBatch, Rows
from taskd.store.records import State
from tests.unit.durable.test_tasks import DurableCase

HOUR = 3600.0


class Thread:
    """The store's thread: does nothing until `run` or `answer`."""

    def __init__(self):
        self._waiting = []
        self._done = []

    def execute(self, function):
        fires = Deferred()
        self._waiting.append((function, fires))
        return fires

    def run(self):
        """Run what waits now, but let nobody know yet."""
        waiting, self._waiting = self._waiting, []
        for function, fires in waiting:
            try:
                self._done.append((fires.callback, function()))
            except StoreError as error:
                self._done.append((fires.errback, error))

    def answer(self):
        """Pass on the results of what was run."""
        done, self._done = self._done, []
        for fire, result in done:
            fire(result)


class DueCase(DurableCase):
    def start(self):
        self.thread = Thread()
        self.set_by = 1_000_000.0
        self.tasks = DurableTasks(self.clock, self.runner, self.store, self.thread.execute, self.now)
        self.use()
        self.turns()

    def use(self):
        self.tasks.use(
            [FunctionInfo("f", "f()", "", {}, durable=Durability(retries=5, backoff=1000.0, keep=1e6))]
        )

    def now(self):
        return self.set_by + self.clock.seconds()

    def turn(self, seconds=0.0):
        self.clock.advance(seconds)

    def turns(self, seconds=0.0):
        self.turn(seconds)
        for _ in range(6):
            self.turn()
            self.thread.run()
            self.thread.answer()

    def ask(self, **options):
        """Submit a task, and return its id."""
        return self.tasks.submit("f", Raw(b"[1]"), SubmitOptions(**options), [].append)

    def move(self, seconds):
        """Set the clock."""

        def follow(seconds):
            self.set_by += seconds

        self.tasks.clock_moved(seconds, follow)

    def break_store(self, times=1):
        """Have the next transactions of the writer fail."""
        write = self.store.write

        def broken(batch, now):
            nonlocal times
            if not times:
                return write(batch, now)
            times -= 1
            raise StoreError("the disk is full")

        self.store.write = broken


class SlowStoreTests(DueCase):
    def test_tasks_of_a_batch_that_become_due_while_they_are_stored_are_run(self):
        task = self.tasks.new("f", None, SubmitOptions(delay=1.0), self.now())
        new = NewBatch("b", task, [Rows(["b1", "b2"], [b"[1]", b"[2]"], None)], None, None, 0.0)
        self.tasks.batches.add(new, [].append)
        self.thread.run()
        self.thread.answer()
        self.thread.run()  # its tasks are stored before they are due
        self.clock.advance(1.5)  # and that is known afterwards
        self.turns()
        self.assertEqual(len(self.runner.queue), 2)

    def test_a_task_is_run_although_the_clock_was_corrected_before_it_was_stored(self):
        self.ask(at="1970-01-12T13:46:40Z")  # now
        self.set_by -= 0.25
        self.turns()
        self.turns(0.25)
        self.assertEqual(len(self.runner.queue), 1)

    def test_a_task_that_is_stored_while_due_ones_are_looked_for_is_run(self):
        self.ask(delay=1.0)
        self.turns()
        self.turn(1.0)
        self.thread.run()
        self.ask(delay=1.0)
        self.turn(0.5)
        self.thread.answer()
        self.turns()
        self.turns(0.5)
        self.assertEqual(len(self.runner.queue), 2)


class SetClockTests(DueCase):
    def test_more_submits_than_one_transaction_takes_are_run_although_the_clock_is_put_back(self):
        self.patch(writer_module, "MAX_BATCH", 2)
        for delay in (0.0, 0.0, 10.0, 10.0, 10.0):
            self.ask(delay=delay)
        self.move(-HOUR)
        self.turns()
        self.turns(10.0)
        self.assertEqual(len(self.runner.queue), 5)

    def test_a_store_that_fails_while_the_clock_is_put_back_delays_nothing_for_an_hour(self):
        self.ask(delay=10.0)
        self.turns()
        self.break_store()
        self.move(-HOUR)
        self.turns()
        self.turns(1.0)
        self.turns(9.0)
        self.assertEqual(len(self.runner.queue), 1)

    def test_the_tasks_of_a_batch_that_are_not_stored_yet_move_with_the_clock(self):
        task = self.tasks.new("f", None, SubmitOptions(delay=10.0), self.now())
        rows = [Rows(["b1"], [b"[1]"], None), Rows(["b2"], [b"[2]"], None)]
        self.tasks.batches.add(NewBatch("b", task, rows, None, None, 0.0), [].append)
        self.thread.run()
        self.thread.answer()
        self.move(HOUR)
        self.turns()
        self.turns(9.0)
        self.assertEqual(len(self.runner.queue), 0)
        self.turns(1.0)
        self.assertEqual(len(self.runner.queue), 2)

    def test_an_attempt_that_failed_before_the_clock_was_put_back_is_tried_again_in_time(self):
        self.ask()
        self.turns()
        task = self.runner.queue.pop()
        task.call.started()
        self.turns()
        self.break_store(2)
        task.subscriber.task_ended(task.key, Failure.of(TaskFailed("no", type="ValueError")))
        self.move(-HOUR)
        self.turns()
        self.turns(1.0)
        self.turns(1.0)
        self.turns(1000.0)
        self.assertEqual(len(self.runner.queue), 1)

    def test_nothing_is_due_early_because_the_clock_is_put_forward_while_the_store_is_busy(self):
        task, late = self.ask(delay=10.0), self.ask(delay=1.0)
        self.turns()
        self.turn(1.0)  # so that the store is asked for what is due
        self.move(HOUR)
        self.turns()
        self.assertIs(self.state(task), State.SCHEDULED)
        self.assertIs(self.state(late), State.WAITING)
        self.turns(9.0)
        self.assertEqual(len(self.runner.queue), 2)

    def test_nothing_is_due_early_because_the_store_fails_while_the_clock_is_put_forward(self):
        task = self.ask(delay=10.0, deadline=5.0)
        self.turns()
        self.break_store()
        self.move(HOUR)
        self.turns(0.5)
        self.assertIs(self.state(task), State.SCHEDULED)
        self.turns(0.5)
        self.turns(9.0)
        self.assertEqual(len(self.runner.queue), 1)


class FailingStartTests(DueCase):
    def test_tasks_that_ran_when_the_last_process_ended_are_put_right_once_the_store_works(self):
        task = self.ask()
        self.turns()
        [run] = self.runner.queue
        run.call.started()
        self.turns()
        rescue = self.store.rescue
        self.store.rescue = lambda *args: fail_once()

        def fail_once():
            self.store.rescue = rescue
            raise StoreError("the disk is full")

        self.runner.queue = []
        self.start()
        waiting = self.ask()
        self.turns()
        self.assertEqual((self.state(task), self.state(waiting)), (State.RUNNING, State.WAITING))
        self.assertEqual(self.runner.queue, [])
        self.use()
        self.turns(1.0)
        self.assertEqual(len(self.runner.queue), 2)

    def test_a_start_is_not_tried_again_once_the_daemon_stops(self):
        tries = []

        def broken(*_):
            tries.append(self.clock.seconds())
            raise StoreError("the disk is full")

        self.store.rescue = broken
        self.start()
        self.turns(1.0)
        self.assertEqual(len(tries), 2)
        self.tasks.stop_accepting()
        self.turns(1.0)
        self.turns(1.0)
        self.assertEqual(len(tries), 3)
