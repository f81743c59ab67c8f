"""The hub of events: reading and pushing at the same time, and reads that fail."""

import json

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable import events as events_module
from taskd.durable.events import EventHub, Page
from taskd.store.base import StoreError
from taskd.store.records import Event


class FakeWatcher:
    """A connection that keeps the numbers of the events that it gets."""

    def __init__(self):
        self.is_congested = False
        self.watches = 0
        self.got = []

    def notify(self, line):
        self.got.append(json.loads(line)["params"]["seq"])

    def flush(self):
        pass


class HubTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.reads = []
        self.after = []
        self.unwatched = []
        self.hub = EventHub(
            self.clock, self.read, lambda: 5.0, unwatched=lambda kind, id_: self.unwatched.append(id_)
        )
        self.watcher = FakeWatcher()
        self.answers = []
        self.hub.attach(self.watcher, "task", "t", 0, self.answers.append)

    def read(self, kind, id_, after, limit):
        reading = Deferred()
        self.limit = limit
        self.after.append(after)
        self.reads.append((after, reading))
        return reading

    def answer(self, *numbers, **more):
        """Answer the last read with these events; return after which it asked for them."""
        after, reading = self.reads.pop()
        reading.callback(Page("running", 9, [Event("t", each, "partial", 1.0) for each in numbers], **more))
        self.clock.advance(0)
        return after

    def publish(self, *numbers, event="partial"):
        self.hub.publish([Event("t", each, event, 1.0) for each in numbers])

    def test_events_that_come_while_the_log_is_read_follow_it_once(self):
        self.publish(2, 3, 4)
        self.answer(1, 2, 3)
        self.publish(3, 4, 5)
        self.assertEqual(self.watcher.got, [1, 2, 3, 4, 5])

    def test_the_log_is_read_again_if_too_many_events_came_meanwhile(self):
        self.patch(events_module, "MAX_EARLY", 2)
        self.publish(2, 3, 4)
        self.answer(1)
        self.assertEqual(self.answer(2, 3, 4), 1)
        self.assertEqual(self.watcher.got, [1, 2, 3, 4])

    def test_a_log_that_could_not_be_read_is_read_with_the_next_event(self):
        self.answer()
        self.watcher.is_congested = True
        self.publish(1)
        self.watcher.is_congested = False
        self.hub.resume(self.watcher)
        self.reads.pop()[1].errback(StoreError("the disk is gone"))
        self.publish(2)
        self.answer(1, 2)
        self.assertEqual(self.watcher.got, [1, 2])

    def test_a_connection_that_becomes_slow_while_its_log_is_read_gets_the_rest_later(self):
        self.watcher.is_congested = True
        self.answer(1, 2)
        self.publish(3)
        self.assertEqual(self.watcher.got, [])
        self.watcher.is_congested = False
        self.hub.resume(self.watcher)
        self.assertEqual(self.answer(1, 2, 3), 0)
        self.assertEqual(self.watcher.got, [1, 2, 3])

    def test_a_watcher_that_is_gone_while_its_log_is_read_gets_nothing(self):
        self.hub.gone(self.watcher)
        self.answer(1, has_more=True)
        self.publish(2)
        self.assertEqual((self.watcher.got, self.unwatched, self.hub.watched), ([], ["t"], 0))

    def test_a_watcher_that_detaches_between_two_pages_gets_no_more(self):
        _, reading = self.reads.pop()
        reading.callback(Page("running", 9, [Event("t", 1, "partial", 1.0)], has_more=True))
        self.assertTrue(self.hub.detach(self.watcher, "t"))
        self.clock.advance(0)
        self.assertEqual((self.watcher.got, self.reads), ([1], []))

    def test_the_last_event_ends_the_watch(self):
        self.answer(1)
        self.publish(2, event="failed")
        self.assertEqual(self.watcher.watches, 1)
        self.publish(3, event="succeeded")
        self.assertEqual((self.watcher.watches, self.unwatched), (0, ["t"]))
        self.assertFalse(self.hub.detach(self.watcher, "t"))

    def test_a_bug_is_logged_and_answered(self):
        self.reads.pop()[1].errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn("a bug in taskd", self.answers[0].message)

    def test_all_logs_are_read_again_if_asked_for(self):
        self.hub.look_again()
        self.answer(1)
        self.answer()
        self.hub.look_again(["t", "unknown"])
        self.assertEqual(self.answer(2), 1)
        self.assertEqual(self.watcher.got, [1, 2])
        self.hub.lose("t")
        self.assertEqual((self.watcher.got[-1], self.watcher.watches), (2, 0))

    def test_of_long_events_fewer_are_read_at_once(self):
        self.patch(events_module, "PAGE_BYTES", 1000)
        for length, expected in ((300, 3), (5000, 1), (10, events_module.PAGE)):
            after, reading = self.reads.pop()
            data = b'{"value":"%b"}' % (b"x" * (length - len('{"value":""}')))
            page = [Event("t", after + 1 + number, "partial", 1.0, data) for number in range(2)]
            reading.callback(Page("running", 9, page, has_more=True))
            self.clock.advance(0)
            self.assertEqual(self.limit, expected)

    def test_only_a_few_logs_are_read_at_once(self):
        others = [FakeWatcher() for _ in range(4)]
        for other in others:
            self.hub.attach(other, "task", "t", 0, self.answers.append)
        self.assertEqual(len(self.reads), events_module.MAX_READS)
        while self.reads:
            self.answer(1)
        self.assertEqual([other.got for other in others], [[1]] * 4)

    def test_a_log_is_not_read_for_a_watcher_that_went_while_it_waited_for_its_turn(self):
        self.answer(1)
        others = [FakeWatcher() for _ in range(events_module.MAX_READS)]
        for other in others:
            self.hub.attach(other, "task", "other", 0, self.answers.append)
        self.hub.look_again(["t"])
        self.hub.gone(self.watcher)
        while self.reads:
            self.answer()
        self.assertEqual((self.watcher.got, self.after), ([1], [0] * 3))
