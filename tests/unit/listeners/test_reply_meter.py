"""Long replies on their way from a task server to a websocket."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.listeners.reply_meter import ReplyMeter
from taskd.net.buffered_socket import READ_SIZE
from taskd.scheduler.budget import Budget

MIB = 1024 * 1024


class ReplyMeterTests(SynchronousTestCase):
    def setUp(self):
        self.budget = Budget()
        self.wanted = True
        self.done = []
        self.meter = ReplyMeter(self)

    # --- the receiver, and the connection ---

    def account(self):
        return self.budget.account("party", self)

    def is_needed(self):
        return False

    def wants(self, size):
        return self.wanted

    def read_on(self):
        self.done.append("read on")

    def drop_reply(self):
        self.done.append("drop")

    def test_a_reply_counts_once_it_is_long_and_until_it_is_complete(self):
        for size, held in ((READ_SIZE, 0), (MIB, MIB), (3 * MIB, 3 * MIB), (0, 0), (2 * MIB, 2 * MIB)):
            self.assertTrue(self.meter.grows(self, size))
            self.assertEqual(self.budget.held, held)
        self.meter.ended()
        self.meter.ended()
        self.assertEqual(self.budget.held, 0)

    def test_a_reply_that_nobody_wants_is_dropped(self):
        self.meter.grows(self, MIB)
        self.wanted = False
        self.assertTrue(self.meter.grows(self, 2 * MIB))
        self.assertEqual((self.done, self.budget.held), (["drop"], 0))

    def test_a_reply_for_which_there_is_no_room_waits_until_there_is(self):
        others = self.budget.account("others", None)
        others.update(self.budget.limit)
        self.assertFalse(self.meter.grows(self, MIB))
        others.update(0)
        self.budget.tick(1.0)
        self.assertEqual(self.done, ["read on"])
