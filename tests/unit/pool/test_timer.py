"""A timer that can be cancelled."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.pool.timer import Timer


class TimerTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.rung = []
        self.timer = Timer(self.clock, lambda: self.rung.append(self.clock.seconds()))

    def test_a_timer_rings_once_after_its_delay(self):
        self.timer.start(2.0)
        self.clock.pump([1.0, 1.0, 5.0])
        self.assertEqual((self.rung, self.timer.is_running), ([2.0], False))

    def test_a_second_start_changes_nothing(self):
        self.timer.start(2.0)
        self.timer.start(1.0)
        self.clock.pump([1.0, 1.0])
        self.assertEqual(self.rung, [2.0])

    def test_a_timer_can_be_cancelled_and_started_again(self):
        self.timer.cancel()
        self.timer.start(1.0)
        self.assertTrue(self.timer.is_running)
        self.timer.cancel()
        self.assertEqual((self.timer.is_running, self.clock.getDelayedCalls()), (False, []))
        self.timer.start(3.0)
        self.clock.advance(3.0)
        self.assertEqual(self.rung, [3.0])

    def test_a_timer_knows_the_seconds_that_are_left(self):
        self.assertIsNone(self.timer.seconds_left)
        self.timer.start(2.0)
        self.clock.advance(0.5)
        self.assertEqual(self.timer.seconds_left, 1.5)

    def test_the_function_of_a_timer_can_start_it_again(self):
        timer = Timer(self.clock, lambda: timer.start(1.0))
        timer.start(1.0)
        self.clock.advance(1.0)
        self.assertTrue(timer.is_running)
