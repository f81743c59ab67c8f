"""Turns of work that is left over: bounded steps, in rounds, with the reactor between them."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.turns import SLICE_SECONDS, TURN_SECONDS, Turns


class Taker:
    """A taker with a number of steps to take, of which each takes some seconds of the clock."""

    def __init__(self, clock, done, steps, seconds=0.0, party="a"):
        self.party = party
        self.clock = clock
        self.done = done
        self.left = steps
        self.seconds = seconds
        self.is_held = self.is_aborted = False

    def take_step(self):
        self.clock.rightNow += self.seconds
        self.left -= 1
        self.done.append(self)
        return self.left > 0

    def hold(self):
        self.is_held = True

    def abort(self):
        self.is_aborted = True


class TurnsTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.done = []

    def taker(self, steps, seconds=0.0, party="a"):
        taker = Taker(self.clock, self.done, steps, seconds, party)
        self.turns.ask(taker)
        return taker

    def turn(self):
        """Let one turn of the reactor go by: calls that are made in it come in the next one."""
        for call in self.clock.getDelayedCalls():
            function = call.func
            call.cancel()
            function()

    def test_steps_are_taken_until_nothing_is_left(self):
        taker = self.taker(5)
        self.assertEqual(self.done, [])
        self.turn()
        self.assertEqual((len(self.done), taker.left, taker.is_held), (5, 0, False))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_reactor_gets_its_turn_after_a_while(self):
        taker = self.taker(1000, TURN_SECONDS / 4)
        self.turn()
        self.assertLessEqual(len(self.done), 5)
        self.assertTrue(taker.is_held)
        while taker.left:
            before = len(self.done)
            self.turn()
            self.assertGreater(len(self.done), before)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_each_taker_gets_a_slice_in_every_round(self):
        greedy, modest = self.taker(1000, SLICE_SECONDS / 2), self.taker(3, SLICE_SECONDS / 2)
        self.turn()
        self.assertLessEqual(self.done.index(modest), 3)
        self.assertEqual(modest.left, 0)
        self.assertGreater(greedy.left, 0)

    def test_parties_take_turns_however_many_takers_they_have(self):
        crowd = [self.taker(9, SLICE_SECONDS) for _ in range(100)]
        other = self.taker(2, SLICE_SECONDS, "b")
        self.turn()
        self.assertEqual(self.done[:4], [crowd[0], other, crowd[1], other])

    def test_work_that_is_begun_at_once_counts_until_the_next_round(self):
        def step():
            self.clock.rightNow += TURN_SECONDS * 0.6

        self.turns.measured(step)
        self.assertFalse(self.turns.is_spent)
        self.turns.measured(lambda: self.turns.measured(step))
        self.assertTrue(self.turns.is_spent)
        self.turn()
        self.assertFalse(self.turns.is_spent)
        self.assertRaises(ZeroDivisionError, self.turns.measured, lambda: 1 / 0)

    def test_a_step_longer_than_a_slice_costs_others_one_step_at_most(self):
        slow, quick = self.taker(9, TURN_SECONDS * 10), self.taker(1)
        self.turn()
        self.turn()
        self.assertEqual(self.done[:2], [slow, quick])

    def test_a_taker_may_ask_again_later(self):
        taker = self.taker(1)
        self.turn()
        taker.left = 2
        self.turns.ask(taker)
        self.turn()
        self.assertEqual(len(self.done), 3)

    def test_a_taker_that_is_added_by_a_step_gets_its_turn(self):
        turns, other = self.turns, Taker(self.clock, self.done, 1)

        class Asking(Taker):
            def take_step(self):
                turns.ask(other)
                return super().take_step()

        turns.ask(Asking(self.clock, self.done, 1))
        self.turn()
        self.assertIn(other, self.done)

    def test_a_taker_that_fails_is_aborted_and_affects_no_other(self):
        class Failing(Taker):
            def take_step(self):
                raise ZeroDivisionError

        failing = Failing(self.clock, self.done, 3)
        self.turns.ask(failing)
        taker = self.taker(2)
        self.turn()
        self.assertEqual((taker.left, failing.is_aborted), (0, True))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
