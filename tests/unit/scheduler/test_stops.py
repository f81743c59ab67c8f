"""The decisions of a stop, and their times."""

from math import inf

from twisted.trial.unittest import SynchronousTestCase

from taskd.scheduler.states import StopStep
from taskd.scheduler.stops import KILL_DELAY, Stop


class StopTests(SynchronousTestCase):
    def setUp(self):
        self.stop = Stop("timeout", since=10.0, next_at=15.0)

    def advance(self, now, *, is_running=True):
        return self.stop.advance(now, is_running=is_running)

    def test_a_stop_decides_nothing_before_it_is_due(self):
        self.assertIsNone(self.advance(14.9))
        self.assertEqual((self.stop.step, self.stop.next_at), (StopStep.INTERRUPTED, 15.0))

    def test_a_task_that_runs_on_is_terminated_after_its_grace_and_then_killed(self):
        self.assertIs(self.advance(15.0), StopStep.TERMINATED)
        self.assertEqual(self.stop.next_at, 15.0 + KILL_DELAY)
        self.assertIsNone(self.advance(15.1))
        self.assertIs(self.advance(15.0 + KILL_DELAY), StopStep.KILLED)
        self.assertEqual(self.stop.next_at, inf)
        self.assertIsNone(self.advance(1e9))

    def test_a_task_that_has_not_begun_is_abandoned_after_its_grace(self):
        self.assertIs(self.advance(15.0, is_running=False), StopStep.ABANDONED)
        for look in range(1, 4):
            due = 15.0 + look * KILL_DELAY
            self.assertEqual(self.stop.next_at, due)
            self.assertIsNone(self.advance(due, is_running=False))
        self.assertIs(self.stop.step, StopStep.ABANDONED)

    def test_an_abandoned_task_that_begins_all_the_same_is_killed(self):
        self.advance(15.0, is_running=False)
        self.assertIs(self.advance(15.0 + KILL_DELAY), StopStep.KILLED)

    def test_the_worker_of_a_terminated_task_is_not_killed_for_the_next_task(self):
        self.advance(15.0)
        self.assertIsNone(self.advance(15.0 + KILL_DELAY, is_running=False))
