"""How late the reactor is."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.lag import LAG_SECONDS, LagMeter


class LagTests(SynchronousTestCase):
    def test_the_lateness_of_a_timer_is_measured_each_second(self):
        clock = Clock()
        meter = LagMeter(clock)
        clock.advance(LAG_SECONDS)
        self.assertEqual((meter.lag.counts[0], meter.lag.total), (1, 0.0))
        clock.rightNow += 0.3  # nobody was served
        clock.advance(LAG_SECONDS)
        self.assertAlmostEqual(meter.lag.total, 0.3)
        self.assertEqual(sum(meter.lag.counts), 2)
