"""The events of one connection, for those who iterate over them."""

import asyncio

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from taskd.client.answers import Following, lost
from taskd.client.twisted_asking import DeferredSignal
from taskd.client.watches import MAX_BEHIND, MAX_BEHIND_BYTES, Watch, Watches
from taskd.errors import Unreachable


def event(seq, task="a", **more):
    return Raw(msgspec.json.encode({"task": task, "seq": seq, "event": "progress", "at": 1.0, **more}))


def seq_of(pushed):
    return msgspec.json.decode(pushed)["seq"]


class WatchTests(SynchronousTestCase):
    def setUp(self):
        self.watches = Watches()

    def watch(self, after=0, id="a", live=True):  # noqa: A002
        watch = Watch(DeferredSignal(), Following("task", id, after))
        asked = self.watches.add(watch)
        if live:
            watch.begin()
        return watch, asked

    def next(self, watch):
        return Deferred.fromCoroutine(watch.next())

    def test_events_go_to_those_who_watch_their_task(self):
        first, _ = self.watch()
        second, _ = self.watch(id="b")
        self.watches.pushed(event(1))
        self.watches.pushed(event(2, task="b"))
        self.watches.pushed(event(3, task="c"))
        self.assertEqual(seq_of(self.successResultOf(self.next(first))), 1)
        self.assertEqual(seq_of(self.successResultOf(self.next(second))), 2)
        waiting = self.next(first)
        self.assertNoResult(waiting)
        self.watches.pushed(event(4))
        self.assertEqual(seq_of(self.successResultOf(waiting)), 4)

    def test_a_watch_gets_nothing_before_its_own_attach_is_answered(self):
        watch, _ = self.watch(live=False)
        self.watches.pushed(event(2))
        watch.begin()
        self.watches.pushed(event(1))
        self.assertEqual(seq_of(self.successResultOf(self.next(watch))), 1)

    def test_an_attach_asks_for_what_the_one_that_is_furthest_behind_needs(self):
        self.assertEqual(self.watch(after=-1)[1], -1)
        self.assertEqual(self.watch(after=7)[1], 7)
        self.assertEqual(self.watch(after=9)[1], 7)
        self.assertEqual(self.watch(after=-1)[1], 7)
        self.assertEqual(self.watch(after=3, id="b")[1], 3)

    def test_the_last_one_of_a_task_is_known(self):
        first, _ = self.watch()
        second, _ = self.watch()
        self.assertTrue(self.watches)
        self.assertFalse(self.watches.remove(first))
        self.assertTrue(self.watches.remove(second))
        self.assertFalse(self.watches)

    def test_a_watch_that_is_far_behind_is_cut_off_after_what_was_kept_for_it(self):
        watch, _ = self.watch()
        for number in range(1, MAX_BEHIND + 10):
            self.watches.pushed(event(number))
        for number in range(1, MAX_BEHIND + 1):
            self.assertEqual(seq_of(self.successResultOf(self.next(watch))), number)
        self.assertIsNone(self.successResultOf(self.next(watch)))

    def test_long_events_cut_it_off_sooner_but_one_is_always_kept(self):
        watch, _ = self.watch()
        self.watches.pushed(event(1, value="x" * MAX_BEHIND_BYTES))
        self.watches.pushed(event(2))
        self.assertEqual(seq_of(self.successResultOf(self.next(watch))), 1)
        self.assertIsNone(self.successResultOf(self.next(watch)))

    def test_a_lost_connection_is_an_error_after_what_has_arrived(self):
        watch, _ = self.watch()
        self.watches.pushed(event(1))
        self.watches.lost(lost("server", "it ended", sent=True))
        self.assertTrue(watch.is_lost)
        self.assertEqual(seq_of(self.successResultOf(self.next(watch))), 1)
        self.failureResultOf(self.next(watch), Unreachable)

    def test_an_event_of_asyncio_is_a_signal(self):
        async def main():
            watch = Watch(asyncio.Event(), Following("task", "a"))
            watch.begin()
            waiting = asyncio.ensure_future(watch.next())
            await asyncio.sleep(0)
            watch.push(event(5))
            return seq_of(await waiting)

        self.assertEqual(asyncio.run(main()), 5)
