"""The clock of the byte budget."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.pressure import GIVE_BACK_SECONDS, watch_budget
from taskd.scheduler.budget import TICK, Budget

MIB = 1024 * 1024


class PressureTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.budget = Budget()
        self.given_back = []
        watch_budget(self.clock, self.budget, lambda: self.given_back.append(self.budget.held))
        self.looks = 0

    def budget_changed(self):
        self.looks += 1

    def pass_time(self, seconds):
        for _ in range(round(seconds / TICK)):
            self.clock.advance(TICK)

    def test_the_clock_stands_still_while_little_is_held(self):
        self.budget.account("party", self).update(MIB)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_waiting_connection_is_looked_at_until_there_is_room(self):
        waiting, other = self.budget.account("a", self), self.budget.account("b", None)
        other.update(self.budget.limit)
        waiting.update(MIB, MIB)
        waiting.wait()
        self.pass_time(1)
        self.assertEqual(self.looks, 0)
        other.close()
        self.pass_time(5)
        self.assertEqual(self.looks, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_freed_memory_is_given_back_now_and_then(self):
        account = self.budget.account("party", self)
        account.update(100 * MIB)
        self.pass_time(1)
        self.assertEqual(self.given_back, [])
        account.update(50 * MIB)
        self.pass_time(1)
        self.assertEqual(self.given_back, [50 * MIB])
        account.update(10 * MIB)
        self.pass_time(GIVE_BACK_SECONDS)
        self.assertEqual(self.given_back, [50 * MIB, 10 * MIB])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        account.update(90 * MIB)
        account.close()
        self.pass_time(GIVE_BACK_SECONDS + 1)
        self.assertEqual(self.given_back[2:], [0])
