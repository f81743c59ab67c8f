"""The limits of owners in the scheduler."""

from msgspec import Raw

from taskd.errors import Busy, InvalidParams
from taskd.model import Call, Grant, StoredCall
from taskd.scheduler.parties import Lane, Parties
from taskd.scheduler.quotas import Quota
from taskd.scheduler.waiting_time import MAX_RETRY_AFTER, RETRY_AFTER
from tests.unit.scheduler.case import SchedulerCase


class QuotaCase(SchedulerCase):
    def limit(self, idle=0, **limits):
        """Make a scheduler, and two lanes of an owner with limits."""
        self.make(idle)
        self.parties = Parties()
        self.party = self.parties.of_owner(Grant("ann", **limits))
        self.quota = self.party.quota
        self.lanes = Lane(self.party), Lane(self.party)

    def call(self, lane=0, args=None, **more):
        task = self.task(lane=self.lanes[lane], quota=self.quota, **more)
        task.call = Call(task.call.function, None if args is None else Raw(args))
        self.scheduler.submit(task)
        return task

    def given(self, now=0.0):
        return [task for _, tasks in self.assign(now) for task in tasks]


class RunningTests(QuotaCase):
    def test_no_more_tasks_run_than_may_and_others_take_the_workers(self):
        self.limit(idle=4, running=2)
        mine = [self.call() for _ in range(4)]
        other = self.submit()
        self.assertEqual(self.given(), [mine[0], other, mine[1]])
        self.assertEqual(self.given(), [])
        self.finish(other)
        self.assertEqual(self.given(), [])
        self.finish(mine[0])
        self.assertEqual(self.given(), [mine[2]])

    def test_lanes_that_rest_take_turns_and_the_most_urgent_comes_first(self):
        self.limit(idle=1, running=1)
        first, second = self.call(0), self.call(0)
        third, urgent = self.call(1), self.call(1, priority=0)
        order = []
        while given := self.given():
            order += given
            self.finish(given[0])
        self.assertEqual(order[0], urgent)
        self.assertEqual(set(order), {first, second, third, urgent})

    def test_a_cancelled_task_leaves_its_place_to_another_lane(self):
        self.limit(idle=2, running=1)
        running, rests, other = self.call(0), self.call(0), self.call(1)
        self.assertEqual(self.given(), [running])
        self.scheduler.cancel(rests, 0.0)
        self.finish(running)
        self.assertEqual(self.given(), [other])

    def test_a_limit_that_has_changed_holds_from_then_on(self):
        self.limit(idle=3, running=1)
        tasks = [self.call() for _ in range(4)]
        self.assertEqual(self.given(), tasks[:1])
        self.parties.of_owner(Grant("ann"))
        self.finish(tasks[0])
        self.assertEqual(self.given(), tasks[1:])

    def test_the_limit_of_a_stored_task_counts_until_its_owner_is_known(self):
        parties = Parties()
        self.assertIsNone(parties.stored_lane("bob", None).party.quota)
        lane = parties.stored_lane("ann", 2)
        self.assertEqual(lane.party.quota.grant.running, 2)
        self.assertIs(parties.stored_lane("ann", 5), lane)
        self.assertEqual(lane.party.quota.grant.running, 2)
        self.assertEqual(parties.limit(Grant("ann", waiting=1)).grant.running, None)
        self.assertIs(parties.limit(Grant("bob")), parties.stored_lane("bob", None).party.quota)

    def test_the_party_of_an_owner_has_its_name(self):
        parties = Parties()
        self.assertEqual(parties.of_owner(Grant("ann@example.org")).owner, "ann@example.org")
        self.assertEqual(parties.party("192.0.2.7").owner, "")
        lane = parties.owned_lane(Grant("ann smith"), "192.0.2.7 g1-5")
        self.assertEqual((lane.party.owner, lane.name), ("ann smith", "g1-5"))
        self.assertEqual(parties.owned_lane(Grant("ann"), None).party.owner, "ann")


class WaitingTests(QuotaCase):
    def test_no_more_calls_wait_than_may(self):
        self.limit(waiting=2)
        first = self.call()
        self.call(1)
        with self.assertRaises(Busy) as refused:
            self.call()
        self.assertIn("2 calls of ann are waiting", str(refused.exception))
        self.scheduler.cancel(first, 0.0)
        self.call()

    def test_no_more_bytes_wait_than_may(self):
        self.limit(bytes=10)
        self.call(args=b"[12345]")
        with self.assertRaises(Busy) as refused:
            self.call(args=b"[123]")
        self.assertIn("7 bytes of calls of ann are waiting: of 10 that may", str(refused.exception))
        self.call(args=b"[1]")
        with self.assertRaises(InvalidParams) as impossible:
            self.call(args=b"[1234567890]")
        self.assertEqual(impossible.exception.data["limit"], 10)

    def test_a_full_queue_is_full_for_tasks_that_rest_too(self):
        self.limit(idle=1, running=1)
        self.scheduler = self.make(1, max_queue=2)
        for _ in range(3):
            self.call()
            self.given()
        with self.assertRaises(Busy):
            self.call()

    def test_stored_tasks_are_counted_by_the_store(self):
        self.limit(waiting=1)
        task = self.task(lane=self.lanes[0], quota=self.quota)
        task.call = StoredCall("f", None, task.call.options, bool, bool, bool, "id", 1, False)
        self.scheduler.enqueue(task)
        self.assertEqual(self.quota.waiting, 0)
        self.call()

    def test_the_estimate_follows_the_starts(self):
        quota = Quota(Grant("ann", waiting=0))
        self.make()
        task = self.task()
        self.assertEqual(quota.retry_after(0.0), RETRY_AFTER)
        for now in 0.0, 4.0, 8.0:
            quota.enter(task)
            quota.started(task, now)
        self.assertEqual(quota.retry_after(8.0), 1.8)
        self.assertEqual(quota.retry_after(20.0), 12.0)
        self.assertEqual(quota.retry_after(1e6), MAX_RETRY_AFTER)
