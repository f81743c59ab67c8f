"""Calls that wait for one of a bounded number of connections."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.client.slots import ConnectionSlots
from taskd.errors import Busy


class FakeCall:
    """A call that records when it begins, and may end at once."""

    def __init__(self, case, name, caller, *, ends_at_once=False):
        self.case = case
        self.name = name
        self.caller = caller
        self.ends_at_once = ends_at_once

    def begin(self):
        self.case.begun.append(self)
        if self.ends_at_once:
            self.case.slots.give_back(self.caller)


class ConnectionSlotsTests(SynchronousTestCase):
    def setUp(self):
        self.begun = []
        self.make(1)
        self.take("first", "a 1")

    def make(self, most, **options):
        self.begun.clear()
        self.slots = ConnectionSlots(most, **options)

    def take(self, name, caller, **options):
        """Take a slot; return the call, and whether it has one."""
        call = FakeCall(self, name, caller, **options)
        has_slot = self.slots.take(call, caller)
        if has_slot:
            self.begun.append(call)
        return has_slot

    def wait(self, caller, *names):
        for name in names:
            self.assertFalse(self.take(name, caller))

    def end(self, count=1):
        """End the calls that began first; return the names of those that have begun."""
        for _ in range(count):
            self.slots.give_back(self.begun.pop(0).caller)
        return [call.name for call in self.begun]

    def serve(self, count):
        """End one call after the other; return the names of those that began meanwhile."""
        return [name for _ in range(count) for name in self.end()]

    def test_calls_of_one_caller_begin_in_their_order(self):
        self.wait("a 1", "x", "y", "z")
        self.assertEqual(self.serve(3), ["x", "y", "z"])

    def test_callers_take_turns(self):
        self.wait("a 1", "1x", "1y", "1z")
        self.wait("a 2", "2x")
        self.assertEqual(self.serve(4), ["1x", "2x", "1y", "1z"])

    def test_parties_take_turns_however_many_callers_they_have(self):
        for caller in "a 1", "a 2", "a 3":
            self.wait(caller, caller)
        self.wait("b 1", "b 1")
        self.wait(None, "nobody")
        self.assertEqual(self.serve(3), ["a 1", "b 1", "nobody"])

    def test_a_call_that_waits_no_more_is_passed_over(self):
        gone = FakeCall(self, "gone", "a 2")
        self.slots.take(gone, "a 2")
        self.wait("a 1", "x", "y")
        self.slots.forget(gone, "a 2")
        self.assertEqual(self.slots.waiting, 2)
        self.assertEqual(self.serve(3), ["x", "y"])
        self.assertEqual((self.slots.used, self.slots.waiting), (0, 0))

    def test_calls_over_the_bound_are_refused_unless_their_party_has_less_than_its_share(self):
        self.make(1, max_waiting=20)
        self.take("first", "a 1")
        self.wait("a 1", *map(str, range(20)))
        error = self.assertRaises(Busy, self.slots.take, FakeCall(self, "x", "a 2"), "a 2")
        self.assertIn("retry_after", error.data)
        self.wait("b 1", *map(str, range(10)))
        self.assertRaises(Busy, self.slots.take, FakeCall(self, "x", "b 2"), "b 2")

    def test_a_caller_never_gets_the_last_slot(self):
        self.make(100)
        has_slot = [self.take(number, "a 1") for number in range(100)]
        self.assertEqual(sum(has_slot), 75)
        self.assertTrue(self.take("x", "a 2") is False and self.take("y", "b 1") is True)

    def test_websockets_of_one_party_leave_slots_for_each_other(self):
        self.make(100)
        first = sum(self.take(number, "a 1") for number in range(50))
        second = sum(self.take(number, "a 2") for number in range(50))
        self.assertEqual((first, second), (50, 25))
        self.assertTrue(self.take("x", "b 1"))

    def test_a_newcomer_does_not_overtake_waiting_calls_of_its_own(self):
        self.make(2)
        self.take("1", "a 1")
        self.take("2", "a 1")
        self.wait("a 1", "3", "4")
        self.assertEqual(self.end(), ["2", "3"])
        self.wait("a 1", "5")
        self.assertEqual(self.end(2), ["4", "5"])

    def test_calls_that_end_as_soon_as_they_begin_do_not_pile_up(self):
        for number in range(5000):
            self.take(number, "a 1", ends_at_once=True)
        self.end()
        self.assertEqual(len(self.begun), 5000)
        self.assertEqual((self.slots.used, self.slots.waiting), (0, 0))

    @given(st.lists(st.tuples(st.sampled_from(("a 1", "a 2", "b 1", None)), st.booleans()), max_size=60))
    def test_no_call_waits_while_it_may_have_a_slot(self, steps):
        self.begun = []
        self.make(5)
        for number, (caller, ends) in enumerate(steps):
            if ends and self.begun:
                self.end()
            else:
                self.take(number, caller)
            self.assertLessEqual(self.slots.used, 5)
            self.assertEqual(self.slots.used, len(self.begun))
        while self.begun:
            self.end()
        self.assertEqual((self.slots.used, self.slots.waiting), (0, 0))
