"""Shares of the connections that there may be."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.admission import Admission


def fill(admission, party):
    """Let a party in as often as possible; return how often that was."""
    count = 0
    while admission.enter(party):
        count += 1
    return count


class AdmissionTests(SynchronousTestCase):
    def test_a_party_alone_gets_three_quarters(self):
        self.assertEqual(fill(Admission(100), "a"), 75)

    def test_two_parties_get_the_same_and_leave_room(self):
        admission = Admission(140)
        fill(admission, "a")
        fill(admission, "b")
        for _ in range(140):  # as connections end, the greedier one gives its part to the other
            admission.leave("a")
            admission.enter("b")
            admission.enter("a")
        self.assertLess(admission.used, 140)
        self.assertTrue(admission.enter("c"))

    def test_a_connection_that_ends_makes_room(self):
        admission = Admission(4)
        self.assertEqual(fill(admission, "a"), 3)
        admission.leave("a")
        self.assertTrue(admission.enter("a"))

    def test_a_connection_that_displaces_another_is_let_in_beyond_the_bound(self):
        admission = Admission(4)
        fill(admission, "a")
        self.assertTrue(admission.enter("a", over=True))
        self.assertEqual(admission.largest, ("a", 4))

    def test_without_connections_no_party_is_the_largest(self):
        self.assertEqual(Admission(4).largest, ("", 0))

    @given(most=st.integers(8, 500), parties=st.integers(1, 6))
    def test_a_newcomer_gets_in_whatever_a_few_greedy_parties_hold(self, most, parties):
        admission = Admission(most)
        for number in range(parties):
            fill(admission, str(number))
        if most >= 4**parties:
            self.assertTrue(admission.enter("newcomer"))
        self.assertLessEqual(admission.used, most)
