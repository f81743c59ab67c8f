"""The time of day, which goes on evenly although somebody sets the machine's clock."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.wall_clock import WallClock


class WallClockTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.set_by = 1000.0
        self.moves = []
        self.wall_clock = WallClock(self.clock, self.wall, self.moves.append)
        self.wall_clock.start()

    def wall(self):
        return self.clock.seconds() + self.set_by

    def test_the_wall_clock_follows_small_corrections_silently(self):
        for _ in range(20):
            self.set_by += 0.1
            self.clock.advance(1.0)
            self.assertAlmostEqual(self.wall_clock.now(), self.wall())
        self.assertEqual(self.moves, [])

    def test_a_clock_that_is_set_counts_once_it_is_followed(self):
        for seconds in (3600.0, -3600.0):
            self.set_by += seconds
            self.clock.advance(1.0)
            self.clock.advance(1.0)
            self.assertAlmostEqual(self.moves.pop(), seconds)
            self.assertEqual(self.moves, [])
            self.assertAlmostEqual(self.wall_clock.now(), self.wall() - seconds)
            self.wall_clock.follow(seconds)
            self.clock.advance(1.0)
            self.assertAlmostEqual(self.wall_clock.now(), self.wall())

    def test_a_wall_clock_that_is_stopped_has_no_timer(self):
        self.wall_clock.stop()
        self.clock.advance(1.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
