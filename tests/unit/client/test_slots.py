"""Calls that wait for one of a bounded number of connections."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.client.slots import ConnectionSlots
from taskd.errors import Busy


class FakeWaiting:
    """A call that records when it begins, and may end at once."""

    def __init__(self, name, begun, at_begin=None):
        self.name = name
        self._begun = begun
        self._at_begin = at_begin

    def begin(self):
        self._begun.append(self.name)
        if self._at_begin is not None:
            self._at_begin()


class ConnectionSlotsTests(SynchronousTestCase):
    def setUp(self):
        self.slots = ConnectionSlots(1, max_waiting=20)
        self.begun = []
        self.assertTrue(self.slots.take(self.waiting("first"), "a 1"))

    def waiting(self, name, at_begin=None):
        return FakeWaiting(name, self.begun, at_begin)

    def wait(self, caller, *names):
        for name in names:
            self.assertFalse(self.slots.take(self.waiting(name), caller))

    def serve(self, count):
        for _ in range(count):
            self.slots.give_back()
        return self.begun

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
        gone = self.waiting("gone")
        self.slots.take(gone, "a 2")
        self.wait("a 1", "x", "y")
        self.slots.forget(gone, "a 2")
        self.assertEqual(self.slots.waiting, 2)
        self.assertEqual(self.serve(1), ["x"])
        last = self.waiting("last")
        self.slots.take(last, "a 1")
        self.slots.forget(last, "a 1")
        self.assertEqual(self.serve(2), ["x", "y"])
        self.assertEqual((self.slots.used, self.slots.waiting), (0, 0))

    def test_too_many_waiting_calls_are_refused(self):
        self.wait("a 1", *map(str, range(20)))
        error = self.assertRaises(Busy, self.slots.take, self.waiting("x"), "b 1")
        self.assertIn("retry_after", error.data)

    def test_a_newcomer_does_not_overtake_a_waiting_call(self):
        self.slots = ConnectionSlots(2)
        self.slots.take(self.waiting("1"), "a 1")
        self.slots.take(self.waiting("2"), "a 1")
        ended = []
        self.slots.take(
            self.waiting("3", lambda: ended.append(self.slots.take(self.waiting("4"), "a 1"))), "a 1"
        )
        self.wait("a 1", "5")
        self.slots.give_back()
        self.assertEqual((self.begun, ended), (["3"], [False]))

    def test_calls_that_end_as_soon_as_they_begin_do_not_pile_up(self):
        self.slots = ConnectionSlots(1)
        self.slots.take(self.waiting("first"), "a 1")
        for number in range(5000):
            self.slots.take(self.waiting(number, self.slots.give_back), "a 1")
        self.slots.give_back()
        self.assertEqual(len(self.begun), 5000)
        self.assertEqual((self.slots.used, self.slots.waiting), (0, 0))
