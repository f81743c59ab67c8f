"""Turns between parties and between their connections, and everybody's share of the queue."""

import itertools
import weakref
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import Busy
from taskd.scheduler import TaskState
from taskd.scheduler.lane_order import FAIR_TURN
from taskd.scheduler.parties import REMEMBERED, TURN_TASKS, Lane, Parties, Party
from taskd.scheduler.queue import MAX_LOOKED_AT, PRIORITIES, TaskQueue
from tests.unit.scheduler.case import SchedulerCase
from tests.unit.scheduler.test_queue import EagerQueue
from tests.unit.tasks import FakeSubscriber, make_lane, make_task, short_function

priorities = st.integers(0, PRIORITIES - 1)


class Waiting:
    """A queue, with parties and lanes by name, whose tasks are started one by one."""

    def __init__(self, *, shared=False):
        self.queue = TaskQueue(shared=shared)
        self.parties = {}
        self.lanes = {}
        self.numbers = itertools.count(1)
        self.names = {}

    def push(self, party, lane=0, count=1, **more):
        """Add tasks, and return the last one."""
        owner = self.parties.setdefault(party, Party(party))
        place = self.lanes.setdefault((party, lane), Lane(owner))
        for _ in range(count):
            task = make_task(next(self.numbers), lane=place, **more)
            self.names[task] = (party, lane)
            self.queue.push(task)
        return task

    def start(self, *, is_short=False):
        """Start the next task, and return it; None if there is none."""
        task = self.queue.first()
        if task is not None:
            self.queue.take(task, is_short=is_short)
            task.state = TaskState.GIVEN
        return task

    def starts(self, count, *, is_short=False):
        """Start so many tasks, and return whose they were."""
        return [self.names[self.start(is_short=is_short)] for _ in range(count)]

    def starts_until(self, wanted, again=lambda: None):
        """Start tasks until it is the turn of `wanted`, and return how many; call `again` before each."""
        count = 0
        while wanted.state is TaskState.WAITING:
            again()
            self.start()
            count += 1
        return count


class TurnTests(SynchronousTestCase):
    def test_parties_take_turns(self):
        waiting = Waiting()
        waiting.push("a", count=5)
        waiting.push("b", count=5)
        self.assertEqual([party for party, _ in waiting.starts(6)], ["a", "b"] * 3)

    def test_a_party_has_one_turn_however_many_connections_it_has(self):
        waiting = Waiting()
        for lane in range(10):
            waiting.push("a", lane, count=5)
        waiting.push("b", count=5)
        counts = Counter(party for party, _ in waiting.starts(10))
        self.assertEqual(counts, {"a": 5, "b": 5})

    def test_the_connections_of_a_party_take_turns(self):
        waiting = Waiting()
        for lane in range(3):
            waiting.push("a", lane, count=3)
        self.assertEqual([lane for _, lane in waiting.starts(6)], [0, 1, 2] * 2)

    def test_a_lane_that_has_something_again_goes_to_the_back(self):
        waiting = Waiting()
        waiting.push("a", 0)
        waiting.push("a", 1, count=3)
        waiting.push("a", 2, count=3)
        self.assertEqual(waiting.starts(1), [("a", 0)])
        waiting.push("a", 0)
        self.assertEqual([lane for _, lane in waiting.starts(3)], [1, 2, 0])

    def test_a_turn_is_as_many_short_tasks_as_a_worker_gets_at_once(self):
        waiting = Waiting()
        waiting.push("a", 0, count=100)
        waiting.push("a", 1, count=100)
        lanes = [lane for _, lane in waiting.starts(3 * TURN_TASKS, is_short=True)]
        self.assertEqual(lanes, [0] * TURN_TASKS + [1] * TURN_TASKS + [0] * TURN_TASKS)

    def test_a_party_of_many_connections_with_a_short_task_each_gets_as_many_as_one_with_a_deep_queue(self):
        waiting = Waiting()
        for lane in range(3 * TURN_TASKS):
            waiting.push("a", lane)
        waiting.push("b", count=1000)
        counts = Counter(party for party, _ in waiting.starts(4 * TURN_TASKS, is_short=True))
        self.assertEqual(counts, {"a": 2 * TURN_TASKS, "b": 2 * TURN_TASKS})

    def test_a_task_that_is_not_short_ends_a_turn_of_short_ones(self):
        waiting = Waiting()
        waiting.push("a", count=100)
        waiting.push("b", count=100)
        self.assertEqual(waiting.starts(3, is_short=True), [("a", 0)] * 3)
        self.assertEqual(waiting.starts(3), [("a", 0), ("b", 0), ("a", 0)])

    def test_priorities_hold_within_a_party_and_not_between_parties(self):
        waiting = Waiting()
        waiting.push("a", count=20, priority=0)
        waiting.push("b", 0, count=10, priority=9)
        waiting.push("b", 1, count=5, priority=1)
        starts = waiting.starts(10)
        self.assertEqual(Counter(starts), {("a", 0): 5, ("b", 1): 5})

    def test_shared_priorities_hold_between_parties(self):
        waiting = Waiting(shared=True)
        waiting.push("a", count=5, priority=5)
        waiting.push("b", count=3, priority=0)
        waiting.push("c", count=3, priority=0)
        self.assertEqual([party for party, _ in waiting.starts(8)], [*"bcbcbc", *"aa"])

    def test_with_shared_priorities_urgent_work_keeps_nine_tenths_and_nothing_starves(self):
        waiting = Waiting(shared=True)
        waiting.push("a", count=100, priority=9)
        waiting.push("b", count=400, priority=0)
        counts = Counter(party for party, _ in waiting.starts(400))
        self.assertEqual(counts, {"a": 400 // (FAIR_TURN + 1), "b": 364})

    def test_a_flood_of_urgent_tasks_on_one_connection_holds_up_another_for_about_ten_starts(self):
        waiting = Waiting()
        waiting.push("a", 0, count=5000, priority=0)
        waiting.starts(7)
        for _ in range(3):
            wanted = waiting.push("a", 1)
            self.assertLessEqual(waiting.starts_until(wanted), FAIR_TURN + 1)

    def test_old_tasks_of_the_flooding_connection_do_not_come_before_those_of_another(self):
        waiting = Waiting()
        waiting.push("a", 0, count=5000, priority=5)
        waiting.push("a", 0, count=5000, priority=0)
        waiting.starts(7)
        wanted = waiting.push("a", 1)
        self.assertLessEqual(waiting.starts_until(wanted), 2 * FAIR_TURN)

    def test_a_head_that_is_wanted_is_found_behind_others_and_may_be_taken(self):
        waiting = Waiting()
        for lane in range(5):
            waiting.push("a", lane)
        other = waiting.push("b", priority=9)
        first = waiting.queue.first()
        found = waiting.queue.find_head(lambda task: task.priority == 9)
        self.assertIs(found, other)
        waiting.queue.take(found)
        self.assertIs(waiting.queue.first(), first)
        self.assertIsNone(waiting.queue.find_head(lambda task: task.priority == 9))

    def test_only_some_heads_are_looked_at(self):
        waiting = Waiting()
        for lane in range(MAX_LOOKED_AT):
            waiting.push("a", lane)
        waiting.push("a", "last", priority=9)
        self.assertIsNone(waiting.queue.find_head(lambda task: task.priority == 9))

    def test_a_removed_head_is_not_found(self):
        waiting = Waiting()
        removed = waiting.push("a")
        other = waiting.push("a")
        waiting.queue.remove(removed)
        self.assertIs(waiting.queue.find_head(lambda task: True), other)


class BoundTests(SynchronousTestCase):
    @given(
        own=st.lists(st.tuples(st.integers(0, 2), priorities), max_size=6),
        wanted=st.tuples(st.integers(0, 2), priorities),
        others=st.integers(0, 4),
    )
    def test_with_k_parties_none_waits_for_more_than_k_times_as_many_starts_as_alone(
        self, own, wanted, others
    ):
        """The others send urgent tasks without end, on several connections each."""

        def starts(others):
            waiting = Waiting()
            for number in range(others):
                for lane in range(3):
                    waiting.push(f"other {number}", lane, count=60, priority=0)
            for lane, priority in own:
                waiting.push("own", lane, priority=priority)
            task = waiting.push("own", wanted[0], priority=wanted[1])
            return waiting.starts_until(task)

        self.assertLessEqual(starts(others), (others + 1) * starts(0))

    @given(
        waiting_before=st.integers(0, 5),
        lanes=st.integers(1, 5),
        parties=st.integers(1, 3),
        later=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), priorities), min_size=1, max_size=6),
        priority=priorities,
        shared=st.booleans(),
    )
    def test_no_task_waits_for_more_turns_than_the_bound(
        self, waiting_before, lanes, parties, later, priority, shared
    ):
        """Whatever the others send: at most ten times parties, lanes and tasks of its own lane."""
        waiting = Waiting(shared=shared)
        for party in range(parties):
            for lane in range(lanes):
                waiting.push(party, lane, count=3, priority=0)
        waiting.starts(3)
        if waiting_before:
            waiting.push(0, "own", count=waiting_before, priority=9)
        wanted = waiting.push(0, "own", priority=priority)
        arrivals = itertools.cycle(later)

        def again():
            party, lane, level = next(arrivals)
            waiting.push(party % parties, lane % lanes, priority=level)
            waiting.push(party % parties, lane % lanes, priority=0)
            waiting.push(0, "own", priority=0)

        n = waiting_before + 1
        self.assertLessEqual(waiting.starts_until(wanted, again), FAIR_TURN * parties * (lanes + 1) * n)

    @given(
        before=st.integers(0, 5), lanes=st.integers(0, 5), parties=st.integers(0, 3), flood=st.integers(1, 50)
    )
    def test_without_priorities_the_bound_is_a_tenth_of_that(self, before, lanes, parties, flood):
        waiting = Waiting()
        for party in range(parties):
            waiting.push(f"other {party}", count=flood * 10)
        for lane in range(lanes):
            waiting.push("own", lane, count=flood)
        wanted = waiting.push("own", "own", count=before + 1)
        self.assertLessEqual(waiting.starts_until(wanted), (parties + 1) * (lanes + 1) * (before + 1))


class ManyLanesMachine(RuleBasedStateMachine):
    """A queue with several parties and lanes: nothing is lost, and each line keeps its order."""

    def __init__(self):
        super().__init__()
        self.queue = EagerQueue()
        parties = [Party(key) for key in "abc"]
        self.subscribers = [FakeSubscriber(lane=Lane(party)) for party in parties for _ in range(3)]
        self.lines = {}
        self.last_number = 0
        self.taken = []

    @initialize(shared=st.booleans())
    def begin(self, shared):
        self.queue = EagerQueue(shared=shared)

    def line(self, task):
        return self.lines.setdefault((task.lane, task.priority), [])

    def tasks(self):
        return [task for line in self.lines.values() for task in line]

    @rule(who=st.integers(0, 8), priority=st.sampled_from([0, 5, 5, 9]), count=st.integers(1, 40))
    def push(self, who, priority, count):
        for _ in range(count):
            self.last_number += 1
            task = make_task(self.last_number, subscriber=self.subscribers[who], priority=priority)
            self.queue.push(task)
            self.line(task).append(task)

    @rule(count=st.integers(1, 60), is_short=st.booleans(), searches=st.booleans())
    def take(self, count, is_short, searches):
        for _ in range(count):
            task = self.queue.first()
            if searches:
                task = self.queue.find_head(lambda task: task.number % 2) or self.queue.first()
            if task is None:
                assert not [task for task in self.tasks() if task.lane.aside is None]
                return
            assert self.line(task).pop(0) is task
            self.queue.take(task, is_short=is_short)
            task.state = TaskState.GIVEN
            self.taken.append(task)

    @precondition(lambda self: self.taken)
    @rule(count=st.integers(1, 3))
    def push_back(self, count):
        for _ in range(min(count, len(self.taken))):
            task = self.taken.pop()
            self.queue.push_back(task)
            self.line(task).insert(0, task)

    @precondition(lambda self: self.tasks())
    @rule(data=st.data(), count=st.integers(1, 20))
    def remove(self, data, count):
        for _ in range(count):
            if tasks := self.tasks():
                task = data.draw(st.sampled_from(tasks))
                self.queue.remove(task)
                self.line(task).remove(task)

    @rule()
    def set_aside(self):
        if (task := self.queue.first()) is not None:
            self.queue.set_aside(task)

    @rule(who=st.integers(0, 8))
    def resume(self, who):
        self.queue.resume(self.subscribers[who])

    @rule()
    def drop_aside(self):
        dropped = [task for task in self.tasks() if task.lane.aside is not None]
        assert set(self.queue.drop_aside()) == set(dropped)
        for task in dropped:
            self.line(task).remove(task)

    @invariant()
    def all_are_there(self):
        tasks = self.tasks()
        startable = {task for task in tasks if task.lane.aside is None}
        assert set(self.queue) == startable
        assert len(self.queue) == len(startable)
        assert set(self.queue.all_waiting) == set(tasks)
        assert self.queue.waiting == len(tasks)
        for subscriber in self.subscribers:
            assert subscriber.lane.waiting == sum(task.lane is subscriber.lane for task in tasks)
        counts = Counter(task.lane.party for task in startable)
        assert {party: party.waiting for party in self.queue.largest_parties(9)} == counts
        for party in counts:
            assert len(party.lanes) == len({task.lane for task in startable if task.lane.party is party})
        assert (self.queue.first() is None) == (not startable)


class MachineTests(SynchronousTestCase):
    def test_any_course_of_events_keeps_every_task_and_the_order_of_each_line(self):
        run_machine(ManyLanesMachine)


class ShareTests(SchedulerCase):
    def fill(self, size=12, **more):
        """Have one party fill the queue, and return its lane."""
        self.make(max_queue=size)
        lane = make_lane("large")
        self.submit(size, lane=lane, **more)
        return lane

    def submit_all(self, lane):
        """Submit tasks until they are refused, and return how many were not."""
        before = len(self.scheduler.queue)
        try:
            while True:
                self.submit(lane=lane)
        except Busy:
            pass
        return len(self.scheduler.queue) - before

    def test_a_party_alone_may_fill_the_queue_and_no_more(self):
        self.assertEqual(self.submit_all(self.fill()), 0)

    def test_a_newcomer_gets_its_share_of_a_full_queue(self):
        self.fill()
        self.assertEqual(self.submit_all(make_lane("new")), 6)
        self.assertEqual(self.submit_all(make_lane("third")), 4)
        self.assertEqual(self.submit_all(make_lane("fourth")), 3)

    def test_a_party_over_its_share_gets_in_again_when_there_is_room(self):
        large = self.fill()
        self.submit(6, lane=make_lane("new"))
        self.start(1)
        self.assign()
        self.assertEqual((len(self.scheduler.queue), self.submit_all(large)), (17, 0))
        for number in range(2, 9):
            self.start(number)
            self.assign()
        self.assertEqual((len(self.scheduler.queue), self.submit_all(large)), (10, 2))

    def test_another_connection_of_the_party_that_has_filled_the_queue_gets_its_share(self):
        large = self.fill()
        self.assertEqual(self.submit_all(Lane(large.party)), 6)
        self.assertEqual(self.submit_all(Lane(large.party)), 4)

    def test_ten_thousand_connections_of_one_party_get_no_more_than_the_stated_bound(self):
        large = self.fill(100)
        taken = [self.submit_all(Lane(large.party)) for _ in range(1000)]
        self.assertEqual(taken[:3], [50, 33, 25])
        self.assertEqual(taken[100:], [0] * 900)
        self.assertLess(len(self.scheduler.queue), 100 * (1 + 4.7))  # 1 + ln 100

    @given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(1, 20))))
    def test_a_party_under_its_share_always_gets_in(self, size, arrivals):
        self.make(max_queue=size)
        lanes = {(party, lane): None for party in range(5) for lane in range(3)}
        parties = [Party(str(number)) for number in range(5)]
        lanes = {(number, lane): Lane(parties[number]) for number, lane in lanes}
        held = Counter()
        for party, lane, count in arrivals:
            for _ in range(count):
                others = {number for number in held if held[number]} | {party}
                try:
                    self.submit(lane=lanes[party, lane])
                except Busy:
                    self.assertGreaterEqual(held[party], size // len(others))
                    self.assertGreaterEqual(sum(held.values()), size)
                    break
                held[party] += 1

    def test_a_full_queue_of_short_tasks_leaves_idle_workers_to_others(self):
        self.make(40, processors=1)
        short = short_function()
        self.submit(1000, short, lane=make_lane("flood"))
        self.assign()
        other = self.submit(lane=make_lane("other"))
        own = self.submit(lane=Lane(self.lane.party))
        given = [task for _, tasks in self.assign() for task in tasks]
        self.assertEqual([task for task in given if task in (other, own)], [other, own])


class PartiesTests(SynchronousTestCase):
    def test_a_party_exists_once_while_anything_belongs_to_it(self):
        parties = Parties()
        lane = Lane(parties.party("a"))
        parties.party("b")
        self.assertIs(parties.party("a"), lane.party)
        self.assertIsNot(parties.party("b"), lane.party)

    def test_a_named_lane_belongs_to_the_named_party(self):
        parties = Parties()
        lane = parties.named_lane("uid 1000 f3-1")
        self.assertIs(lane.party, parties.party("uid 1000"))
        self.assertIs(parties.named_lane("uid 1000 f3-1"), lane)
        self.assertIsNot(parties.named_lane("uid 1000 f3-2"), lane)
        self.assertEqual((lane.name, lane.party.key), ("f3-1", "uid 1000"))
        self.assertEqual(parties.named_lane("odd").party.key, "")

    def test_a_lane_in_use_is_found_by_its_name_though_many_others_were_named_since(self):
        parties = Parties()
        lane = parties.named_lane("192.0.2.1 1")
        for number in range(REMEMBERED):
            parties.named_lane(f"192.0.2.2 {number}")
        self.assertIs(parties.named_lane("192.0.2.1 1"), lane)

    def test_a_hundred_thousand_names_leave_only_the_latest_behind(self):
        parties = Parties()
        queue = TaskQueue()
        kept = weakref.WeakSet()
        for number in range(100_000):
            lane = parties.named_lane(f"192.0.2.{number % 1000} {number}")
            kept.add(lane)
            queue.push(make_task(number, lane=lane))
            task = queue.first()
            queue.take(task, is_short=bool(number % 2))
            task.state = TaskState.GIVEN
        del lane, task
        self.assertLess(len(parties), 2 * REMEMBERED + 5)  # each name, and its party
        self.assertLess(len(kept), REMEMBERED + 5)
