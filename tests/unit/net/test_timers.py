"""Calls at the end of a turn of the reactor, and alarms."""

from math import inf

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.timers import Alarm, TurnEnd


class TurnEndTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.turn_end = TurnEnd(self.clock)
        self.done = []

    def test_calls_are_made_in_order_at_the_end_of_the_turn(self):
        for number in range(3):
            self.turn_end.call(lambda number=number: self.done.append(number))
        self.assertEqual(self.done, [])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(0)
        self.assertEqual(self.done, [0, 1, 2])
        self.clock.advance(0)
        self.assertEqual(self.done, [0, 1, 2])

    def test_calls_added_during_the_pass_are_made_after_the_others(self):
        self.turn_end.call(lambda: self.turn_end.call(lambda: self.done.append("next")))
        self.turn_end.call(lambda: self.done.append("now"))
        self.clock.advance(0)
        self.assertEqual(self.done, ["now", "next"])

    def test_a_call_that_raises_affects_no_other(self):
        self.turn_end.call(lambda: 1 / 0)
        self.turn_end.call(lambda: self.done.append("done"))
        self.clock.advance(0)
        self.assertEqual(self.done, ["done"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class AlarmTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.clock.advance(100.0)
        self.rung = []
        self.alarm = Alarm(self.clock, lambda: self.rung.append(self.clock.seconds()))

    def test_an_alarm_rings_once_at_its_time(self):
        self.alarm.set(105.0)
        self.clock.advance(4.9)
        self.assertEqual(self.rung, [])
        self.clock.advance(0.1)
        self.clock.advance(100)
        self.assertEqual(self.rung, [105.0])

    def test_the_earliest_time_counts(self):
        for when in 110.0, 105.0, 120.0, inf:
            self.alarm.set(when)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(5.0)
        self.assertEqual(self.rung, [105.0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_alarm_that_is_never_due_sets_no_timer(self):
        self.alarm.set(inf)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_alarm_for_a_time_that_has_passed_rings_at_once(self):
        self.alarm.set(50.0)
        self.clock.advance(0)
        self.assertEqual(self.rung, [100.0])

    def test_an_alarm_can_be_set_again_when_it_rings(self):
        self.alarm = Alarm(
            self.clock, lambda: (self.rung.append(1), self.alarm.set(self.clock.seconds() + 1))
        )
        self.alarm.set(105.0)
        self.clock.pump([5.0, 1.0, 1.0])
        self.assertEqual(self.rung, [1, 1, 1])
