"""The lease of a node: renewed, lost, and taken anew, by a clock that only the test moves."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.cancels import FENCE_GRACE
from taskd.durable.membership import (
    DEAD_SECONDS,
    FENCE_SECONDS,
    PROMPT_SECONDS,
    RENEW_SECONDS,
    RETRY_SECONDS,
    Membership,
)
from taskd.durable.shared_clock import SharedClock
from taskd.scheduler.stops import KILL_DELAY
from taskd.store.base import StoreError
from taskd.store.nodes import Beat, NodeInfo


class FakeNodes:
    """A store that answers renewals as the test wants; every call waits for the test."""

    def __init__(self):
        self.calls = []

    def execute(self, function):
        fires = Deferred()
        self.calls.append((function, fires))
        return fires

    def renew(self, info, lost=b"null", *, rescues=True):
        return ("renew", info)

    def rejoin(self):
        return ("rejoin", None)

    def asked(self):
        """Return what is being asked, and forget it."""
        calls, self.calls = self.calls, []
        return [(function()[0], fires) for function, fires in calls]


class FakeMember:
    def __init__(self):
        self.told = []

    def heard(self, beat):
        self.told.append(beat)

    def fence(self):
        self.told.append("fence")

    def joined(self):
        self.told.append("joined")


class MembershipTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.nodes, self.member = FakeNodes(), FakeMember()
        self.times = SharedClock(self.clock, 5000.0)
        self.membership = Membership(
            self.clock,
            self.nodes,
            self.nodes.execute,
            self.nodes.execute,
            self.member,
            lambda: NodeInfo("here"),
            self.times.follow,
        )
        self.membership.start()

    def answer(self, beat):
        [(what, fires)] = self.nodes.asked()
        self.assertEqual(what, "renew")
        if isinstance(beat, Exception):
            fires.errback(beat)
        else:
            fires.callback(beat)

    def test_the_lease_is_renewed_all_the_time(self):
        beat = Beat(5000.0, paused=["f"])
        self.answer(beat)
        self.assertEqual(self.nodes.asked(), [])
        self.clock.advance(RENEW_SECONDS)
        self.answer(beat)
        self.assertEqual(self.member.told, [beat, beat])
        self.assertFalse(self.membership.is_fenced)

    def test_the_time_is_that_of_the_store(self):
        self.clock.advance(0.5)
        self.answer(Beat(3000.0))  # which the store has read a quarter of a second ago
        self.assertEqual(self.times.now(), 3000.25)
        self.clock.advance(1.0)
        self.assertEqual(self.times.now(), 3001.25)

    def test_an_answer_that_took_long_does_not_set_the_time(self):
        self.clock.advance(PROMPT_SECONDS)
        self.answer(Beat(3000.0))
        self.assertEqual(self.times.now(), 5001.0)

    def test_a_node_that_cannot_renew_ends_what_it_runs_before_it_is_dead(self):
        self.answer(Beat(0.0))
        for _ in range(int(FENCE_SECONDS / RETRY_SECONDS) + 4):
            if self.nodes.calls:
                self.answer(StoreError("no server"))
            self.clock.advance(RETRY_SECONDS)
        self.flushLoggedErrors()
        self.assertEqual(self.member.told[1:], ["fence"])
        self.assertEqual(self.membership.fault, "no server")
        self.assertLess(FENCE_SECONDS + FENCE_GRACE + KILL_DELAY, DEAD_SECONDS)

    def test_a_renewal_that_hangs_counts_as_none(self):
        self.answer(Beat(0.0))
        self.clock.advance(RENEW_SECONDS)
        self.clock.advance(FENCE_SECONDS - RENEW_SECONDS)
        self.assertEqual(self.member.told[1:], ["fence"])

    def test_the_time_counts_from_when_it_was_asked_for(self):
        self.clock.advance(3.0)
        self.answer(Beat(0.0))
        self.clock.advance(FENCE_SECONDS - 3.0)
        self.assertEqual(self.member.told[1:], ["fence"])

    def test_a_renewal_that_took_long_is_followed_by_another_at_once(self):
        self.answer(Beat(0.0))
        self.clock.advance(RENEW_SECONDS)
        self.clock.advance(FENCE_SECONDS - 1)
        self.assertEqual(self.member.told[1:], ["fence"])
        self.answer(Beat(0.0))
        self.clock.advance(0)
        self.answer(Beat(0.0))

    def test_a_node_that_is_back_in_time_goes_on(self):
        self.answer(Beat(0.0))
        self.clock.advance(RENEW_SECONDS)
        self.clock.advance(FENCE_SECONDS)
        beat = Beat(1.0)
        self.answer(beat)
        self.assertEqual(self.member.told[1:], ["fence"])
        # The renewal was asked for so long ago that it proves nothing about now: the next one does.
        self.clock.advance(0)
        self.answer(beat)
        self.assertEqual(self.member.told[2:], ["joined", beat])
        self.assertFalse(self.membership.is_fenced)

    def test_a_dead_node_takes_a_new_number(self):
        self.answer(Beat(0.0, is_mine=False))
        self.assertEqual(self.member.told, ["fence"])
        [(what, fires)] = self.nodes.asked()
        self.assertEqual(what, "rejoin")
        fires.callback(None)
        beat = Beat(1.0)
        self.answer(beat)
        self.assertEqual(self.member.told, ["fence", "joined", beat])

    def test_a_number_that_cannot_be_had_is_asked_for_again(self):
        self.answer(Beat(0.0, is_mine=False))
        [(_, fires)] = self.nodes.asked()
        fires.errback(StoreError("gone"))
        self.flushLoggedErrors()
        self.clock.advance(RETRY_SECONDS)
        self.answer(Beat(0.0, is_mine=False))
        [(what, _)] = self.nodes.asked()
        self.assertEqual(what, "rejoin")
        self.assertEqual(self.member.told, ["fence"])

    def test_a_stopped_node_renews_nothing(self):
        self.membership.stop()
        self.answer(Beat(0.0))
        self.clock.advance(DEAD_SECONDS)
        self.assertEqual((self.nodes.asked(), self.member.told), ([], []))

    def test_a_renewal_can_be_had_at_once(self):
        self.answer(Beat(0.0))
        self.membership.renew_soon()
        self.clock.advance(0)
        self.answer(Beat(0.0))

    def test_a_bug_does_not_end_the_renewals(self):
        self.answer(ValueError("a bug"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.clock.advance(RETRY_SECONDS)
        self.answer(Beat(0.0))
