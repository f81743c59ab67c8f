"""What ``taskd.why`` answers: the one thing that holds a task, and its facts."""

from msgspec import Raw

from taskd.durable import window as window_module
from taskd.durable.reasons import why
from taskd.errors import Cancelled, TaskFailed, WorkerLost
from taskd.functions.durability import Rate
from taskd.model import Failure, Result, SubmitOptions
from taskd.scheduler import TaskState
from taskd.server.position import Position
from taskd.store.base import StoreError
from tests.unit.durable.test_limiter import LimitCase
from tests.unit.durable.test_methods import StoredCase


class ReasonCase(LimitCase):
    limits = {}

    def why(self, task):
        return why(self.store.get(task), self.tasks, self.tasks.now())

    def reason(self, task):
        return self.why(task).reason


class ReasonTests(ReasonCase):
    def test_a_task_that_is_not_due(self):
        task = self.submit_to(1, options=SubmitOptions(delay=5.0))
        self.clock.advance(1.5)
        why = self.why(task)
        self.assertEqual(
            (why.state, why.due_in, why.reason), ("scheduled", 3.5, "it is not due yet, but in 3.5 s")
        )

    def test_a_task_that_is_tried_again(self):
        self.use(retries=1)
        task = self.submit_to(1)
        self.end(self.begin(), Failure.of(TaskFailed("no", type="ValueError")))
        self.assertRegex(self.reason(task), r"attempt 1 has failed; it is tried again in [\d.]+ s")

    def test_no_worker_is_free(self):
        self.submit_to(1)
        why = self.why(self.submit_to(1))
        self.assertEqual(why.queue.before, 1)
        self.assertEqual(why.reason, "no worker is free: all 2 are busy; stored tasks that come before it: 1")

    def test_workers(self):
        task = self.submit_to(1)
        for position, text in (
            (Position(0, 1, 0, 0), "no worker is ready"),
            (Position(0, 1, 2, 1), "a worker is about to take it"),
            (None, "it is being given to a worker"),
        ):
            self.patch(self.runner, "position", lambda _, position=position: position)
            self.assertEqual(self.reason(task), text)

    def test_a_task_that_runs(self):
        task = self.submit_to(1)
        running = self.runner.queue.pop()
        running.call.started()
        self.assertEqual(self.reason(task), "nothing holds it: attempt 1 is running")
        self.turns()
        self.assertEqual(
            (self.why(task).state, self.reason(task)), ("running", "nothing holds it: attempt 1 is running")
        )

    def test_tasks_that_have_ended(self):
        done, failed, cancelled, poison = (self.submit_to(1) for _ in range(4))
        self.finish()
        self.end(self.begin(), Failure.of(TaskFailed("no", type="ValueError")))
        self.end(self.runner.queue.pop(0), Failure.of(Cancelled("no", was="waiting")))
        for _ in range(2):
            self.end(self.begin(), Failure.of(WorkerLost("killed")))
            self.turns()
        self.assertIn("has succeeded", self.reason(done))
        self.assertIn("taskd.retry puts it back", self.reason(failed))
        self.assertIn("cancelled, which is final", self.reason(cancelled))
        self.assertIn("died under it too often", self.reason(poison))

    def test_a_paused_function(self):
        self.tasks.pauses.pause("f", paused=True)
        why = self.why(self.submit_to(1))
        self.assertEqual((why.paused, why.reason), (True, "f is paused, until taskd.resume"))

    def test_a_function_that_is_gone(self):
        task = self.submit_to(1)
        self.tasks.use([])
        self.turns()
        why = self.why(task)
        self.assertTrue(why.unknown_function)
        self.assertIn("no function f", why.reason)

    def test_a_server_that_shuts_down(self):
        task = self.submit_to(1)
        self.tasks.stop_accepting()
        self.assertTrue(self.why(task).stopping)

    def test_a_store_that_fails(self):
        task = self.submit_to(1)
        self.tasks.writer.fault = "the disk is full"
        why = self.why(task)
        self.assertEqual(why.fault, "the disk is full")
        self.assertIn("the disk is full", why.reason)

    def test_a_task_whose_end_cannot_be_stored(self):
        task = self.submit_to(1)
        running = self.begin()

        def fail(*_):
            raise StoreError("the disk is full")

        self.store.write = fail
        running.state = TaskState.DONE
        self.end(running, Result(Raw(b"1")))
        why = self.why(task)
        self.assertEqual((why.state, why.fault), ("running", "the disk is full"))
        self.assertIn("attempt 1 has ended, and the store has failed to store that", why.reason)

    def test_a_task_beyond_the_window(self):
        self.patch(window_module, "WINDOW", 2)
        for _ in range(2):
            self.submit_to(1)
        self.assertIn("2 tasks of f are claimed before it", self.reason(self.submit_to(1)))


class LimitReasonTests(ReasonCase):
    def test_the_places_of_a_key_and_who_has_them(self):
        self.use(concurrency=2, concurrency_key="account")
        first, second, third, last = (self.submit_to(1) for _ in range(4))
        why = self.why(last)
        self.assertEqual((why.concurrency.limit, why.concurrency.key, why.concurrency.before), (2, "1", 1))
        self.assertEqual(why.concurrency.running, [first, second])
        self.assertEqual(
            why.reason,
            f"concurrency=2: {first}, {second} of f with account = 1 have the places; 1 more waits before it",
        )
        self.assertIsNone(self.why(first).concurrency)
        self.assertEqual(self.why(third).concurrency.before, 0)

    def test_the_tasks_without_a_value_of_the_key_have_the_places_of_one_key(self):
        self.use(concurrency=1, concurrency_key="missing")
        self.submit_to(1)
        self.assertIn(" of f without missing has its place", self.reason(self.submit_to(1)))

    def test_a_task_of_a_full_key_that_is_still_in_the_store(self):
        self.use(concurrency=1, concurrency_key="account")
        tasks = [self.submit_to(1) for _ in range(30)]
        self.assertEqual(self.why(tasks[-1]).concurrency.running, tasks[:1])

    def test_the_next_start_of_a_rate(self):
        self.use(rate=Rate(1, 60.0))
        self.submit_to(1)
        task = self.submit_to(1)
        self.finish()
        self.clock.advance(20.0)
        why = self.why(task)
        self.assertEqual((why.rate.count, why.rate.seconds, why.rate.next_start), (1, 60.0, 40.0))
        self.assertEqual(why.reason, "rate=1 in 60 s: the next start of f is possible in 40.0 s")


class MethodTests(StoredCase):
    def test_the_method_says_what_holds_a_task(self):
        self.make()
        self.load()
        self.ask("submit", "g")
        task = self.ask("submit", "g")["task"]
        why = self.ask("why", task)
        self.assertEqual((why["task"], why["function"], why["state"]), (task, "g", "waiting"))
        self.assertEqual(why["queue"], {"before": 0, "waiting": 1, "workers": 1, "busy": 1})
        self.assertEqual(why["reason"], "no worker is free: all 1 are busy")
        self.assertEqual(self.ask("why", "none")["code"], -32602)
