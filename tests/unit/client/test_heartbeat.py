"""The heartbeat of a Twisted program's connections."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.client.heartbeat import Heartbeat


class HeartbeatTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.events = []
        self.is_awaiting = True
        self.heartbeat = Heartbeat(
            self.clock,
            lambda: self.is_awaiting,
            lambda: self.events.append("ping"),
            self.events.append,
            interval=2.0,
            timeout=10.0,
        )

    def pass_time(self, seconds):
        self.clock.pump([1.0] * seconds)

    def test_a_silent_connection_is_pinged_while_a_reply_is_awaited(self):
        self.heartbeat.sent()
        self.pass_time(1)
        self.assertEqual(self.events, [])
        for pings in range(1, 5):
            self.pass_time(1)
            self.assertEqual(self.events, ["ping"] * pings)
            self.heartbeat.received()
            self.pass_time(1)
            self.assertEqual(self.events, ["ping"] * pings, "twice in four seconds is enough")

    def test_a_connection_with_traffic_in_both_directions_is_not_pinged(self):
        for _ in range(10):
            self.heartbeat.sent()
            self.heartbeat.received()
            self.pass_time(1)
        self.assertEqual(self.events, [])

    def test_a_server_that_sends_without_being_asked_is_pinged_all_the_same(self):
        self.heartbeat.sent()
        for _ in range(6):
            self.pass_time(1)
            self.heartbeat.received()
        self.assertEqual(self.events, ["ping"] * 3)

    def test_nothing_is_sent_if_nothing_is_awaited(self):
        self.heartbeat.sent()
        self.is_awaiting = False
        self.pass_time(20)
        self.assertEqual(self.events, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_server_that_answers_no_ping_is_given_up(self):
        self.heartbeat.sent()
        self.pass_time(11)
        self.assertEqual(set(self.events), {"ping"})
        self.pass_time(1)
        self.assertEqual(self.events[-1], "it has not answered for 10 s")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_process_that_was_stopped_does_not_blame_the_server(self):
        self.heartbeat.sent()
        self.pass_time(5)
        self.clock.advance(60)
        self.assertEqual(set(self.events), {"ping"})
        self.pass_time(5)
        self.assertEqual(set(self.events), {"ping"})

    def test_pings_stop_with_the_connection(self):
        self.heartbeat.sent()
        self.heartbeat.stop()
        self.heartbeat.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.heartbeat.sent()
        self.pass_time(2)
        self.assertEqual(self.events, ["ping"])
