"""What is done once at the end of a turn."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.turns import TurnEnd


class TurnEndTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.turn_end = TurnEnd(self.clock)
        self.done = []

    def test_all_is_done_in_order_at_the_end_of_the_turn(self):
        for number in range(3):
            self.turn_end.call(lambda number=number: self.done.append(number))
        self.assertEqual(self.done, [])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(0)
        self.assertEqual(self.done, [0, 1, 2])
        self.clock.advance(0)
        self.assertEqual(self.done, [0, 1, 2])

    def test_what_is_wanted_meanwhile_is_done_after_that(self):
        self.turn_end.call(lambda: self.turn_end.call(lambda: self.done.append("next")))
        self.turn_end.call(lambda: self.done.append("now"))
        self.clock.advance(0)
        self.assertEqual(self.done, ["now", "next"])

    def test_what_fails_harms_no_other(self):
        self.turn_end.call(lambda: 1 / 0)
        self.turn_end.call(lambda: self.done.append("done"))
        self.clock.advance(0)
        self.assertEqual(self.done, ["done"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
