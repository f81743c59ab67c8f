"""What the task server does for stored tasks only: their calls learn what a worker reports of them."""

from msgspec import Raw

from taskd.functions.retries import Verdict
from taskd.model import Options, Raised, StoredCall
from taskd.worker.messages import IS_DESCRIBED, Yielded
from tests.unit.pools import LoggingCase
from tests.unit.tasks import FakeSubscriber


class StoredCallTests(LoggingCase):
    def setUp(self):
        super().setUp()
        self.make()
        self.subscriber = FakeSubscriber()
        self.raised = []
        self.yielded = []

    def run_stored(self, **more):
        call = StoredCall(
            "f", Raw(b"[1]"), Options(), raised=self.raised.append, yielded=self.yielded.append, **more
        )
        self.task = self.server.run(call, self.subscriber, self.subscriber.lane)
        self.clock.advance(0)

    def test_a_failure_is_preceded_by_its_traceback_and_the_workers_verdict(self):
        self.run_stored()
        self.pool.fail(1, traceback="the trace", verdict=Verdict(True, 5.0))
        self.assertEqual(self.raised, [Raised("the trace", True, 5.0)])
        [(_, failure)] = self.subscriber.sent
        self.assertEqual((failure.code, failure.data), (-32000, None))

    def test_a_failure_without_a_verdict_is_for_good(self):
        self.run_stored()
        self.pool.fail(1, traceback=None, code=-32602)
        self.assertEqual(self.raised, [Raised(None, may_retry=False)])

    def test_a_stopped_function_that_raises_while_it_cleans_up_has_its_traceback_kept(self):
        for traceback in None, "the trace":
            self.run_stored()
            self.server.cancel(self.task)
            self.pool.stop_task(1, traceback)
        self.assertEqual(self.raised, [Raised("the trace")])

    def test_a_worker_learns_what_the_function_may_ask_about_its_task(self):
        self.run_stored(id="the-id", attempt=2, was_interrupted=True)
        [attempt] = self.pool.workers[1].attempts
        self.assertEqual((attempt.id, attempt.attempt, attempt.was_interrupted), ("the-id", 2, True))
        self.assertTrue(attempt.flags & IS_DESCRIBED)

    def test_a_worker_learns_the_time_limit_of_any_task_that_has_one(self):
        client = self.connect()
        client.call("f", timeout=3.0)
        self.clock.advance(0)
        [attempt] = self.pool.workers[1].attempts
        self.assertEqual((attempt.limit, attempt.id, attempt.flags), (3.0, None, IS_DESCRIBED))

    def test_values_that_a_function_yields_are_passed_on_until_its_task_has_an_outcome(self):
        self.run_stored()
        self.pool.begin(1)
        number = self.task.number
        self.pool.say(1, Yielded(number, Raw(b"1")), Yielded(number, Raw(b"2")))
        self.assertEqual([bytes(value) for value in self.yielded], [b"1", b"2"])
        self.server.cancel(self.task)
        self.clock.advance(100)  # its grace is over
        self.assertEqual(len(self.subscriber.sent), 1)
        self.pool.say(1, Yielded(number, Raw(b"3")))
        self.assertEqual(len(self.yielded), 2)

    def test_values_of_tasks_that_are_not_stored_are_dropped(self):
        client = self.connect()
        client.call("f")
        self.clock.advance(0)
        number = self.pool.workers[1].attempts[0].task
        self.pool.say(1, Yielded(number, Raw(b"1")))
        self.pool.finish(1, b"[1]")
        self.assertEqual(client.reply(), [1])
