"""The limits of the store in memory."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.store.base import Changes, Filter, StoreError
from taskd.store.memory import MemoryStore
from taskd.store.memory_limits import MemoryLimits
from taskd.store.records import New, Settle, Start, State


def run(store, *tasks, args=b"[1]", keep=1e9, token=None, now=1.0):
    """Let tasks succeed."""
    store.write(Changes([New(task, "f", args, keep=keep, token=token) for task in tasks]), now)
    claims = store.write(Changes(want={"f": len(tasks)}), now).claims
    store.write(Changes(starts=[Start(each.new.id, 1) for each in claims]), now)
    settles = [Settle(each.new.id, 1, State.SUCCEEDED, "succeeded", outcome=b"1") for each in claims]
    store.write(Changes(settles=settles), now)


def ids(store):
    return [each.new.id for each in store.find(Filter(), "", 100)]


class LimitTests(SynchronousTestCase):
    def test_the_oldest_ended_tasks_are_forgotten_with_their_events_and_tokens(self):
        store = MemoryStore(MemoryLimits(ended=2))
        run(store, "9", token="t")
        run(store, "1")
        run(store, "2")
        self.assertEqual(ids(store), ["1", "2"])
        self.assertEqual(store.events("9", 0, 9), [])
        self.assertFalse(store.write(Changes([New("3", "f", token="t")]), 2.0).accepted[0].joined)

    def test_ended_tasks_are_kept_no_longer_than_the_limit_whatever_they_ask_for(self):
        store = MemoryStore(MemoryLimits(seconds=60))
        run(store, "1", now=1.0)
        run(store, "2", keep=10.0, now=1.0)
        self.assertEqual(store.prune(11.0, 9), 1)
        self.assertEqual(ids(store), ["1"])
        self.assertEqual(store.prune(61.0, 9), 1)

    def test_ended_tasks_make_room_for_new_ones(self):
        store = MemoryStore(MemoryLimits(bytes=10_000))
        for number in range(100):
            run(store, str(number), args=b"[%s]" % (b"1" * 1000))
        self.assertTrue(0 < len(ids(store)) < 10)
        self.assertIn("99", ids(store))

    def test_tasks_that_have_not_ended_are_kept_and_leave_no_room(self):
        store = MemoryStore(MemoryLimits(bytes=10_000))
        run(store, "0", args=b"[%s]" % (b"1" * 1000))
        before = store.room
        store.write(Changes([New(str(number), "f", b"x" * 1000) for number in range(1, 20)]), 1.0)
        self.assertGreater(before, 9000)
        self.assertEqual(store.room, 0)
        self.assertEqual(len(ids(store)), 19)

    def test_a_task_is_claimed_once_although_it_was_released_and_claimed_before(self):
        store = MemoryStore()
        store.write(Changes([New("1", "f")]), 1.0)
        for _ in range(3):
            self.assertEqual(len(store.write(Changes(want={"f": 5}), 1.0).claims), 1)
            self.assertEqual(len(store.write(Changes(want={"f": 5}), 1.0).claims), 0)
            store.write(Changes(releases=["1", "1", "unknown"]), 1.0)


class ParseTests(SynchronousTestCase):
    def test_limits_are_read_from_the_option(self):
        self.assertEqual(MemoryLimits.parse(""), MemoryLimits())
        self.assertEqual(
            MemoryLimits.parse("ended=5, bytes=64M"), MemoryLimits(ended=5, bytes=64 * 1024 * 1024)
        )

    def test_other_texts_are_refused_with_an_example(self):
        for wrong in ("ended", "ended=0", "ended=-1", "seconds=5M", "tasks=4", "ended=1,,"):
            error = self.assertRaises(StoreError, MemoryLimits.parse, wrong)
            self.assertIn("memory:ended=10000", str(error))
