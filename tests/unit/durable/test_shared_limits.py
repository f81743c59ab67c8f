"""Limits that hold over several nodes: what a node asks of the store that they share, and when."""

from collections import Counter

from msgspec import Raw
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.keyed_claims import KeyedClaims
from taskd.durable.later_wants import LaterWants
from taskd.durable.pace import Pace
from taskd.durable.reasons import SharedPlaces, why
from taskd.functions.durability import Rate
from taskd.model import Grant, Options, Result
from taskd.store.base import Changes, KeyedWant, Limit, StoreError
from taskd.store.nodes import Lease, Places
from taskd.store.records import New
from tests.unit.durable.test_limiter import LimitCase
from tests.unit.durable.test_reasons import ReasonCase
from tests.unit.durable.test_tasks import LastingStore


def place_of(limit, new):
    return (new.limit_key or "").rpartition("\x1f")[2] if limit.by_key else ""


class SharedStore(LastingStore):
    """A store that holds claims to the limits, in which the test has tasks of other nodes."""

    def __init__(self):
        super().__init__()
        self.changes = []
        self.elsewhere = Counter()
        self.again = {}
        self._places = {}

    def write(self, changes, now):
        self.changes.append(changes)
        written = super().write(changes, now)
        for settle in changes.settles:
            self._places.pop(settle.id, None)
        for task in changes.releases:
            self._places.pop(task, None)
        kept, surplus = [], []
        taken = Counter(self._places.values()) + self.elsewhere
        for record in written.claims:
            function = record.new.function
            limit = changes.limits.get(function)
            place = limit and (function, place_of(limit, record.new))
            is_unkeyed = limit is not None and limit.by_key and record.new.limit_key is None
            if limit is None or limit.concurrency is None or is_unkeyed or taken[place] < limit.concurrency:
                kept.append(record)
                if limit is not None and not is_unkeyed:
                    taken[place] += 1
                    self._places[record.new.id] = place
            else:
                surplus.append(record.new.id)
        if surplus:
            super().write(Changes(releases=surplus), now)
        written.claims = kept
        if changes.want:
            written.again, self.again = self.again, {}
        return written


class SharedCase(LimitCase):
    def start(self):
        self.store = SharedStore()
        super().start()

    def use(self, **limits):
        self.tasks.limiter.is_shared = True
        self.tasks.window.pace = Pace(self.clock, lambda: 8)
        super().use(**limits)

    def wants(self):
        return [each for each in self.store.changes if each.want]


class PlaceTests(SharedCase):
    limits = {"concurrency": 2}

    def test_the_store_gets_the_limits_of_what_is_wanted_of_it(self):
        self.submit_to(1)
        self.assertEqual(self.wants()[-1].limits, {"f": Limit(2)})
        self.submit_to(1, "g")
        self.assertEqual(self.wants()[-1].limits, {})
        self.use(concurrency=3, rate=Rate(5, 60.0), concurrency_key="account")
        self.submit_to(1)
        self.assertEqual(self.wants()[-1].limits, {"f": Limit(3, 5, 60.0, by_key=True)})

    def test_the_transaction_that_ends_a_task_claims_the_next_one(self):
        for _ in range(4):
            self.submit_to(1)
        self.assertEqual(len(self.runner.queue), 2)
        running = self.begin()
        self.store.changes.clear()
        self.end(running, Result(Raw(b"1")))
        self.turns()
        [change] = [each for each in self.store.changes if each.settles]
        self.assertIn("f", change.want)
        self.assertEqual(len(self.runner.queue), 2)

    def test_tasks_of_other_nodes_have_places(self):
        self.store.elsewhere["f", ""] = 1
        for _ in range(3):
            self.submit_to(1)
        self.assertEqual(len(self.runner.queue), 1)
        self.store.elsewhere.clear()
        self.tasks.look_everywhere()
        self.turns()
        self.assertEqual(len(self.runner.queue), 2)

    def test_a_want_that_the_store_has_postponed_is_repeated_then(self):
        self.store.elsewhere["f", ""] = 2
        self.store.again = {"f": 1.5}
        self.submit_to(1)
        self.store.elsewhere.clear()
        self.turns(1.4)
        self.assertEqual(self.runner.queue, [])
        self.turns(0.2)
        self.assertEqual(len(self.runner.queue), 1)

    def test_nothing_is_claimed_at_the_end_of_a_task_if_that_may_not_be(self):
        for _ in range(3):
            self.submit_to(1)
        running = self.begin()
        self.tasks.pauses.pause("f", paused=True)
        self.turns()
        self.store.changes.clear()
        self.end(running, Result(Raw(b"1")))
        self.turns()
        self.assertEqual(self.wants(), [])

    def test_the_tasks_of_owners_are_held_to_the_same_limit(self):
        for owner in ("ann", "bob", ""):
            self.tasks.submit("f", Raw(b"[1]"), Options(), bool, grant=Grant(owner))
            self.turns()
        self.assertEqual(len(self.runner.queue), 2)
        self.use(concurrency=1)
        for left in (2, 1, 0):
            self.finish()
            self.assertEqual(len(self.runner.queue), min(left, 1))

    def test_a_task_without_an_owner_that_ends_lets_others_start(self):
        self.use(concurrency=1)
        for owner in ("", "ann", "bob"):
            self.tasks.submit("f", Raw(b"[1]"), Options(), bool, grant=Grant(owner))
            self.turns()
        self.finish()
        self.finish()
        self.assertEqual(len(self.runner.queue), 1)


class KeyTests(SharedCase):
    limits = {"concurrency": 2, "concurrency_key": "account"}

    def test_no_more_of_a_key_are_claimed_than_may_run(self):
        for _ in range(5):
            self.submit_to(1)
        self.submit_to(2)
        self.assertEqual((self.queued(), self.tasks.claimed), (["1", "1", "2"], 3))
        self.finish()
        self.assertEqual((sorted(self.queued()), self.tasks.claimed), (["1", "1", "2"], 3))

    def test_each_end_asks_for_the_next_task_of_its_key(self):
        """Another node may have had the places before, so that nothing was left to be claimed."""
        self.store.elsewhere["f", "1"] = 1
        for _ in range(4):
            self.submit_to(1)
        self.assertEqual(len(self.runner.queue), 1)
        self.finish()
        self.assertEqual(len(self.runner.queue), 1)
        self.store.elsewhere.clear()
        self.finish()
        self.assertEqual(len(self.runner.queue), 2)

    def test_a_key_that_was_withheld_is_asked_for_again(self):
        self.store.elsewhere["f", "1"] = 2
        self.submit_to(2)
        self.store.again = {"f": 1.0}
        self.submit_to(1)
        self.store.elsewhere.clear()
        self.store.changes.clear()
        self.turns(1.0)
        self.assertEqual(self.queued(), ["2", "1"])
        self.assertEqual(self.wants()[0].want["f"].keys.keys(), {"1"})

    def test_a_withheld_key_is_not_wanted_while_the_function_is_paused(self):
        self.store.elsewhere["f", "1"] = 2
        self.submit_to(2)
        self.store.again = {"f": 1.0}
        self.submit_to(1)
        self.tasks.pauses.pause("f", paused=True)
        self.turns()
        self.store.changes.clear()
        self.turns(1.0)
        self.assertEqual(self.wants(), [])

    def test_a_task_from_before_the_function_had_its_key_gets_that_and_is_claimed_by_it(self):
        self.store.write(Changes([New("9", "f", b"[7]")]), 1000.0)
        self.store.changes.clear()
        self.tasks.look_everywhere()
        self.turn()
        [moved] = [each for each in self.store.changes if each.limit_keys][:1]
        self.assertEqual((moved.limit_keys, moved.releases), ({"9": "7"}, ["9"]))
        self.assertEqual(self.runner.queue, [])
        self.submit_to(7)
        self.assertEqual(self.queued(), ["7"])

    def test_new_limit_keys_are_not_lost_with_a_transaction(self):
        writer, write = self.tasks.writer, self.store.write
        self.submit_to(1)

        def fail(*_):
            raise StoreError("no server")

        self.store.write = fail
        writer.move_to("2", "some task")
        self.turns()
        self.store.write = write
        self.store.changes.clear()
        self.turns(1.0)
        self.assertEqual(self.store.changes[0].limit_keys, {"some task": "2"})


class ClaimTests(SynchronousTestCase):
    def record(self, key):
        store = LastingStore()
        written = store.write(Changes([New("t", "f", limit_key=key)], want={"f": 1}), 0.0)
        return written.claims[0]

    def test_a_look_at_all_keys_goes_on_after_the_last_one(self):
        claims = KeyedClaims(100, is_limited=True)
        want = claims.scan(10)
        claims.claimed(want, [self.record("a"), self.record("b")], is_cut=False)
        self.assertEqual(claims.scan(10).after, "b")
        claims.claimed(claims.scan(10), [self.record(None)], is_cut=False)
        self.assertEqual(claims.scan(10).after, "b")

    def test_the_end_of_a_task_without_a_key_asks_for_all_if_there_is_room(self):
        claims = KeyedClaims(100, is_limited=True)
        claims.count(None)
        self.assertIsNone(claims.ending(None, 0, None))
        self.assertIsNone(claims.ending(None, 5, None).keys)

    def test_a_task_that_waits_again_is_asked_for(self):
        claims = KeyedClaims(100, is_limited=True)
        claims.count("a")
        claims.count("a")
        self.assertEqual(claims.ended("a", 5, None, waits=True).keys, {"a": 99})
        self.assertIsNone(claims.ended("a", 5, None, waits=False))


class LaterWantsTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.asked = Clock(), []
        self.later = LaterWants(self.clock, lambda function, want: self.asked.append((function, want)))

    def test_wants_of_a_function_are_asked_for_together_at_the_earlier_time(self):
        self.later.add("f", KeyedWant(1, {"a": 1}), 3.0)
        self.later.add("g", 5, 4.0)
        self.later.add("f", KeyedWant(2, {"b": 2}), 2.0)
        self.clock.advance(1.9)
        self.assertEqual(self.asked, [])
        self.clock.advance(0.1)
        self.assertEqual(self.asked, [("f", KeyedWant(2, {"a": 1, "b": 2}))])
        self.clock.advance(2.0)
        self.assertEqual(self.asked[1:], [("g", 5)])
        self.clock.advance(10.0)
        self.assertEqual(len(self.asked), 2)


class WhyTests(ReasonCase):
    limits = {"concurrency": 2}

    def reason_with(self, places, key="", grant=None):
        task = self.store.get(self.waiting)
        more = () if grant is None else (grant,)
        shared = SharedPlaces(key, places)
        return why(task, self.tasks, self.tasks.now(), *more, shared=shared)

    def setUp(self):
        super().setUp()
        self.tasks.limiter.is_shared = True
        self.own = self.submit_to(1)
        self.store.write(Changes([New("9", "f", b"[1]")]), 1000.0)
        self.waiting = "9"

    def test_tasks_of_other_nodes_that_have_the_places(self):
        places = Places([Lease(self.own, 1, ""), Lease("x", 2, "ann")])
        answer = self.reason_with(places)
        self.assertEqual(
            answer.reason, f"concurrency=2: {self.own}, tasks of other nodes of f have the places"
        )
        self.assertEqual((answer.concurrency.limit, answer.concurrency.running), (2, [self.own, "x"]))
        hidden = self.reason_with(places, grant=Grant("bob"))
        self.assertEqual(hidden.concurrency.running, [])
        self.assertIn("concurrency=2: tasks of others, tasks of other nodes of f have", hidden.reason)
        far = self.reason_with(Places([Lease("x", 2, ""), Lease("y", 3, "")]))
        self.assertIn("concurrency=2: tasks of other nodes of f have the places", far.reason)

    def test_a_place_is_free(self):
        self.assertNotIn("concurrency", self.reason_with(Places([Lease("x", 2, "")])).reason)

    def test_another_node_has_claimed_it(self):
        answer = self.reason_with(Places([Lease("x", 2, ""), Lease(self.waiting, 3, "")]))
        self.assertEqual(answer.reason, "node 3 has claimed it, and is about to run it")

    def test_a_rate_that_other_nodes_have_used(self):
        self.use(rate=Rate(3, 60.0))
        self.store.write(Changes([New("8", "f", b"[1]")]), 1000.0)
        self.waiting = "8"
        answer = self.reason_with(Places([Lease("x", 2, "")], 1, 2, 12.3456))
        self.assertEqual(answer.reason, "rate=3 in 60 s: the next start of f is possible in 12.346 s")
        later = self.reason_with(Places([], 3))
        self.assertEqual(later.rate.next_start, 0.0)
