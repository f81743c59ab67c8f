"""The readiness of a gateway, by what its task servers answer."""

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import Unreachable
from taskd.listeners.readiness import CHECK_SECONDS, FRESH_SECONDS, LocalReadiness, RemoteReadiness
from taskd.model import Failure, Result
from taskd.server.readiness import DRAINING, Unready


class FakeLink:
    """A link whose calls the test answers."""

    def __init__(self):
        self.calls = []

    def call(self, call):
        self.calls.append(call.function)
        self.outcome = Deferred()
        return self

    def answer(self, **status):
        self.outcome.callback(Result(Raw(msgspec.json.encode(status))))

    def close(self):
        outcome, self.outcome = self.outcome, None
        if outcome is not None:
            outcome.errback(Unreachable("closed", sent=True))


class RemoteReadinessTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.one, self.two = FakeLink(), FakeLink()
        self.readiness = RemoteReadiness(self.clock, {"one": self.one, "two": self.two})

    def tearDown(self):
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_task_server_that_is_ready_is_enough(self):
        found = self.readiness.check()
        self.assertNoResult(found)
        self.two.answer(unready=None)
        self.assertIsNone(self.successResultOf(found))
        self.assertEqual(self.one.calls, ["taskd.status"])

    def test_an_answer_is_used_again_for_a_second_and_those_who_ask_meanwhile_share_a_question(self):
        found = [self.readiness.check(), self.readiness.check()]
        self.one.answer()
        self.assertEqual([self.successResultOf(each) for each in found], [None, None])
        self.clock.advance(FRESH_SECONDS / 2)
        self.assertIsNone(self.successResultOf(self.readiness.check()))
        self.assertEqual(len(self.one.calls), 1)
        self.clock.advance(FRESH_SECONDS)
        again = self.readiness.check()
        self.assertEqual(len(self.one.calls), 2)
        self.one.answer()
        self.successResultOf(again)

    def test_if_none_is_ready_the_reason_is_that_of_one_that_was_reached(self):
        found = self.readiness.check()
        self.one.outcome.errback(Unreachable("one cannot be reached", sent=False))
        self.two.answer(unready={"reason": "queue_full", "detail": "9 tasks are waiting"})
        expected = Unready("queue_full", "one cannot be reached; two: 9 tasks are waiting")
        self.assertEqual(self.successResultOf(found), expected)

    def test_if_none_can_be_reached_there_is_no_task_server(self):
        found = self.readiness.check()
        for link in self.one, self.two:
            link.outcome.errback(Unreachable("cannot be reached", sent=False))
        self.assertEqual(self.successResultOf(found).reason, "no_task_server")

    def test_a_task_server_that_does_not_answer_is_given_up(self):
        found = self.readiness.check()
        self.one.outcome.errback(Unreachable("one cannot be reached", sent=False))
        self.clock.advance(CHECK_SECONDS)
        answer = self.successResultOf(found)
        self.assertEqual(answer.reason, "no_task_server")
        self.assertIn("two has not answered within 2 s", answer.detail)

    def test_answers_that_are_no_status_count_as_no_task_server(self):
        found = self.readiness.check()
        self.one.outcome.callback(Failure(-32601, "no such function: taskd.status"))
        self.two.outcome.callback(Result(Raw(b"17")))
        answer = self.successResultOf(found)
        self.assertEqual(answer.reason, "no_task_server")
        self.assertIn("its status cannot be read", answer.detail)

    def test_an_older_task_server_says_only_whether_it_stops(self):
        found = self.readiness.check()
        self.one.answer(stopping=True)
        self.two.answer(stopping=True)
        self.assertEqual(self.successResultOf(found).reason, "draining")

    def test_a_gateway_that_will_stop_asks_nobody(self):
        self.readiness.announce_stop()
        self.assertIs(self.successResultOf(self.readiness.check()), DRAINING)
        self.assertEqual(self.one.calls, [])

    def test_a_close_ends_the_question(self):
        found = self.readiness.check()
        self.readiness.close()
        self.assertEqual(self.successResultOf(found).reason, "no_task_server")


class LocalReadinessTests(SynchronousTestCase):
    def test_a_gateway_is_as_ready_as_its_own_task_server_until_a_stop_is_announced(self):
        full = Unready("queue_full", "full")
        readiness = LocalReadiness(lambda: full)
        self.assertIs(self.successResultOf(readiness.check()), full)
        readiness.announce_stop()
        self.assertIs(self.successResultOf(readiness.check()), DRAINING)
        readiness.close()
