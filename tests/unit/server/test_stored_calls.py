"""What the task server does for stored tasks only: their calls learn what a worker reports of them."""

from msgspec import Raw

from taskd.functions.retries import Verdict
from taskd.model import Options, Raised, StoredCall
from tests.unit.pools import LoggingCase
from tests.unit.tasks import FakeSubscriber


class StoredCallTests(LoggingCase):
    def setUp(self):
        super().setUp()
        self.make()
        self.subscriber = FakeSubscriber()
        self.raised = []

    def run_stored(self, **more):
        call = StoredCall("f", Raw(b"[1]"), Options(), raised=self.raised.append, **more)
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
