"""The limits of functions between the store and the task server."""

import itertools
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import Raw
from twisted.internet.defer import execute
from twisted.internet.task import Clock

from taskd.durable import limiter as limiter_module
from taskd.durable import window as window_module
from taskd.durable.limit_keys import share_key
from taskd.durable.tasks import DurableTasks
from taskd.errors import Cancelled, WorkerLost
from taskd.functions.descriptions import ParameterInfo
from taskd.functions.durability import Durability, Rate
from taskd.functions.registry import FunctionInfo
from taskd.model import Failure, Grant, Options, Result, SubmitOptions
from taskd.store.base import Changes, Filter
from taskd.store.records import New, State
from tests.unit.durable.test_tasks import DurableCase, FakeRunner, LastingStore

OWNERS = ("", "ann", "bob")
PARAMETERS = {"account": ParameterInfo([]), "text": ParameterInfo([])}


def limited(name="f", **limits):
    return FunctionInfo(name, f"{name}()", "", PARAMETERS, durable=Durability(keep=1e6, **limits))


def key_of(task):
    return task.call.args and bytes(task.call.args)[1:2].decode()


class LimitCase(DurableCase):
    limits = {"concurrency": 1, "concurrency_key": "account"}

    def start(self):
        self.tasks = DurableTasks(
            self.clock, self.runner, self.store, execute, lambda: 1000.0 + self.clock.seconds()
        )
        self.use(**self.limits)

    def use(self, **limits):
        self.tasks.use([limited(**limits), FunctionInfo("g", "g()", "", {})])
        self.turns()

    def turns(self, seconds=0.0):
        self.turn(seconds)
        for _ in range(6):
            self.turn()

    def submit_to(self, key, function="f", options=None):
        accepted = []
        self.tasks.submit(function, Raw(b"[%d]" % key), options or Options(), accepted.append)
        self.turns()
        return accepted[0].id

    def queued(self):
        return [key_of(task) for task in self.runner.queue]

    def finish(self):
        self.end(self.begin(), Result(Raw(b"1")))
        self.turns()


class KeyTests(LimitCase):
    def test_a_key_that_is_full_holds_no_other_key(self):
        for key in (1, 1, 1, 2, 2, 3):
            self.submit_to(key)
        self.assertEqual(self.queued(), ["1", "2", "3"])
        self.finish()
        self.assertEqual(self.queued(), ["2", "3", "1"])

    def test_ten_thousand_tasks_of_a_key_that_is_full_leave_room_for_the_others(self):
        store = LastingStore()
        news = [New(f"{number:06}", "f", b"[1]", limit_key="1") for number in range(10_000)]
        news += [
            New(f"9{number:05}", "f", b"[%d]" % (number % 4 + 2), limit_key=str(number % 4 + 2))
            for number in range(8)
        ]
        store.write(Changes(news), 999.0)
        self.store, self.runner = store, FakeRunner()
        self.start()
        self.assertEqual(sorted(self.queued()), ["1", "2", "3", "4", "5"])
        self.submit_to(6)
        self.assertLess(self.tasks.claimed, 100)
        for _ in range(10):
            self.finish()
        self.assertEqual(store.counts()["f", State.SUCCEEDED], 10)
        self.assertEqual(self.queued().count("1"), 1)

    def test_the_tasks_of_one_key_are_all_run_in_their_order(self):
        ids = [self.submit_to(1) for _ in range(60)]
        for task in ids:
            [waiting] = self.runner.queue
            self.assertEqual(waiting.subscriber.record.new.id, task)
            self.finish()
        self.assertEqual({self.state(task) for task in ids}, {State.SUCCEEDED})

    def test_equal_values_are_one_key_however_they_are_passed(self):
        for args in (b'["x"]', b'{"account":"x"}', b'[ "\\u0078", 1]', b'{"text":1,"account":"\\u0078"}'):
            self.tasks.submit("f", Raw(args), Options(), lambda accepted: None)
        self.turns()
        self.assertEqual(len(self.runner.queue), 1)
        for args in (None, b"[]", b'{"text":1}'):
            self.tasks.submit("f", None if args is None else Raw(args), Options(), lambda accepted: None)
        self.turns()
        self.assertEqual(len(self.runner.queue), 2)
        for args in (
            b'["' + b"x" * 1000 + b'"]',
            b'["' + b"x" * 1001 + b'"]',
            b'[{"a":1,"b":2}]',
            b'[{"b":2,"a":1}]',
            b"[1e999]",
        ):
            self.tasks.submit("f", Raw(args), Options(), lambda accepted: None)
        self.turns()
        self.assertEqual(len(self.runner.queue), 6)

    def test_a_task_whose_process_dies_leaves_its_place(self):
        self.submit_to(1)
        second = self.submit_to(1)
        self.end(self.begin(), Failure.of(WorkerLost("killed")))
        self.turns()
        self.assertEqual(len(self.runner.queue), 1)
        self.finish()
        self.finish()
        self.assertIs(self.state(second), State.SUCCEEDED)

    def test_a_scheduled_task_is_held_when_it_is_due(self):
        self.submit_to(1)
        self.submit_to(1, options=SubmitOptions(delay=2.0))
        self.turns(2.0)
        self.assertEqual(len(self.runner.queue), 1)
        self.finish()
        self.assertEqual(len(self.runner.queue), 1)

    def test_tasks_from_before_the_function_had_a_key_are_run(self):
        self.use()
        ids = [self.submit_to(1) for _ in range(40)]
        self.runner.queue.clear()
        self.start()
        for _ in ids:
            self.assertEqual(len(self.runner.queue), 1)
            self.finish()
        self.assertEqual({self.state(task) for task in ids}, {State.SUCCEEDED})


class HeldTests(LimitCase):
    limits = {"concurrency": 1}

    def test_a_held_task_is_cancelled(self):
        self.submit_to(1)
        held = self.submit_to(1)
        answers = []
        self.tasks.cancel(held, answers.append)
        self.turns()
        self.assertEqual((answers, self.state(held)), ([State.WAITING], State.CANCELLED))
        self.finish()
        self.assertEqual(self.runner.queue, [])

    def test_held_tasks_of_a_paused_function_are_put_back(self):
        first, second = self.submit_to(1), self.submit_to(1)
        running = self.begin()
        self.tasks.pauses.pause("f", paused=True)
        self.turns()
        self.end(running, Result(Raw(b"1")))
        self.turns()
        self.assertEqual((self.runner.queue, self.state(second)), ([], State.WAITING))
        self.tasks.pauses.pause("f", paused=False)
        self.turns()
        self.finish()
        self.assertEqual((self.state(first), self.state(second)), (State.SUCCEEDED, State.SUCCEEDED))

    def test_a_held_task_that_is_not_started_by_its_deadline_expires(self):
        self.submit_to(1)
        late = self.submit_to(1, options=SubmitOptions(deadline=5.0))
        self.turns(5.0)
        self.assertIs(self.state(late), State.EXPIRED)
        self.finish()
        self.assertEqual(self.runner.queue, [])

    def test_held_tasks_stay_in_the_store_at_the_stop(self):
        self.submit_to(1)
        held = self.submit_to(1)
        running = self.begin()
        self.tasks.stop_accepting()
        self.end(running, Result(Raw(b"1")))
        self.turns()
        self.assertEqual((self.runner.queue, self.state(held)), ([], State.WAITING))
        self.successResultOf(self.tasks.close())
        self.start()
        self.assertEqual(len(self.runner.queue), 1)

    def test_new_code_has_new_limits(self):
        for _ in range(4):
            self.submit_to(1)
        self.use(concurrency=2)
        self.assertEqual(len(self.runner.queue), 2)
        self.use(concurrency=1, concurrency_key="account")
        self.submit_to(2)
        self.assertEqual(self.queued(), ["1", "1", "2"])
        self.finish()
        self.assertEqual(self.queued(), ["1", "2"])
        self.use()
        self.assertEqual(self.queued(), ["1", "2", "1", "1"])

    def test_the_held_tasks_of_a_function_that_is_gone_wait_until_it_is_there_again(self):
        self.submit_to(1)
        held = self.submit_to(1)
        running = self.begin()
        self.tasks.use([])
        self.turns()
        self.end(running, Result(Raw(b"1")))
        self.turns()
        self.assertIs(self.state(held), State.WAITING)
        self.assertEqual(self.tasks.claimed, 0)
        self.use(concurrency=1)
        self.finish()
        self.assertIs(self.state(held), State.SUCCEEDED)


class RateTests(LimitCase):
    limits = {"rate": Rate(2, 10.0)}

    def test_tasks_start_at_the_rate(self):
        for _ in range(5):
            self.submit_to(1)
        self.assertEqual(len(self.runner.queue), 2)
        self.finish()
        self.turns(4.0)
        self.finish()
        self.assertEqual(self.runner.queue, [])
        self.turns(6.0)
        self.assertEqual(len(self.runner.queue), 1)
        self.turns(4.0)
        self.assertEqual(len(self.runner.queue), 2)


class Runs(RuleBasedStateMachine):
    """Random keys, ends, pauses and restarts, with a small window: the model is what the store has."""

    WINDOW = 16
    CONCURRENCY = 2

    def __init__(self):
        super().__init__()
        self.window, window_module.WINDOW = window_module.WINDOW, self.WINDOW
        self.clock, self.store, self.runner = Clock(), LastingStore(), FakeRunner()
        self.running = []
        self.is_paused = False
        self.open()

    def teardown(self):
        window_module.WINDOW = self.window

    def open(self):
        # So that ids follow those of the start before: else their random parts decide about the order.
        self.clock.advance(0.01)
        self.tasks = DurableTasks(
            self.clock, self.runner, self.store, execute, lambda: 1000.0 + self.clock.seconds()
        )
        self.use("account")

    def use(self, key):
        self.tasks.use([limited(concurrency=self.CONCURRENCY, concurrency_key=key)])
        self.turns()

    def turns(self, seconds=0.0):
        self.clock.advance(seconds)
        for _ in range(12):
            self.clock.advance(0)

    @rule(
        keys=st.lists(st.integers(1, 5), min_size=1, max_size=12),
        delay=st.sampled_from((0.0, 0.0, 3.0)),
        owner=st.sampled_from(OWNERS),
    )
    def submit(self, keys, delay, owner):
        for key in keys:
            self.tasks.submit("f", Raw(b"[%d]" % key), SubmitOptions(delay=delay), bool, grant=Grant(owner))
        self.turns()

    @rule(key=st.integers(1, 5), count=st.integers(20, 60), owner=st.sampled_from(OWNERS))
    def flood(self, key, count, owner):
        self.submit([key] * count, 0.0, owner)

    @precondition(lambda self: self.runner.queue)
    @rule(count=st.integers(1, 8))
    def begin(self, count):
        for _ in range(min(count, len(self.runner.queue))):
            task = self.runner.queue.pop(0)
            task.call.started()
            self.running.append(task)
        self.turns()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), dies=st.booleans())
    def end(self, data, dies):
        task = data.draw(st.sampled_from(self.running))
        self.running.remove(task)
        task.subscriber.task_ended(task.key, Failure.of(WorkerLost("killed")) if dies else Result(Raw(b"1")))
        self.turns()

    @precondition(lambda self: self.runner.queue)
    @rule()
    def cancel_first(self):
        task = self.runner.queue.pop(0)
        task.subscriber.task_ended(task.key, Failure.of(Cancelled("no", was="waiting")))
        self.turns()

    @rule(seconds=st.sampled_from((1.0, 3.0)))
    def time_passes(self, seconds):
        self.turns(seconds)

    @rule(is_paused=st.booleans())
    def pause(self, is_paused):
        self.is_paused = is_paused
        self.tasks.pauses.pause("f", paused=is_paused)
        self.turns()

    @rule()
    def restart(self):
        now = self.clock.seconds()
        self.clock, self.runner = Clock(), FakeRunner()  # the old daemon has no part in what follows
        self.clock.advance(now)
        self.running.clear()
        self.open()

    @invariant()
    def every_key_has_what_it_may_have(self):
        running = Counter(key_of(task) for task in self.runner.queue + self.running)
        unfinished = Counter(
            bytes(record.new.args)[1:2].decode()
            for record in self.store.find(Filter([State.WAITING, State.RUNNING]), "", 10_000)
        )
        in_queue = len(self.runner.queue) + len(self.running)
        for key, count in unfinished.items():
            assert running[key] <= self.CONCURRENCY
            if not self.is_paused and in_queue <= self.WINDOW // 2:
                assert running[key] == min(self.CONCURRENCY, count), (key, running, unfinished)


class OwnedRuns(Runs):
    """The same with a function that has no limits: its tasks are claimed by owner."""

    def __init__(self):
        self.at_once, limiter_module.OWNERS_TASKS = limiter_module.OWNERS_TASKS, 4
        self.first, window_module.FIRST_WINDOW = window_module.FIRST_WINDOW, self.WINDOW
        super().__init__()

    def teardown(self):
        super().teardown()
        limiter_module.OWNERS_TASKS, window_module.FIRST_WINDOW = self.at_once, self.first

    def use(self, key):
        self.tasks.use([limited()])
        self.turns()

    @invariant()
    def every_key_has_what_it_may_have(self):
        """Check that the tasks of every owner run, as far as the window has room for each."""
        claimed = Counter(task.subscriber.record.new.owner for task in self.runner.queue + self.running)
        unfinished = Counter(
            record.new.owner for record in self.store.find(Filter([State.WAITING, State.RUNNING]), "", 10_000)
        )
        for owner, count in unfinished.items():
            if not self.is_paused and claimed.total() <= self.WINDOW // 2:
                assert claimed[owner] >= min(count, 1), (owner, claimed, unfinished)
        if claimed.keys() > {""}:
            assert claimed.total() <= self.WINDOW + len(OWNERS)


class OwnerTests(LimitCase):
    limits = {}

    def submit_for(self, owner, count=1):
        for _ in range(count):
            self.tasks.submit("f", Raw(b"[1]"), Options(), bool, grant=Grant(owner))
        self.turns()

    def claimed(self):
        return Counter(task.subscriber.record.new.owner for task in self.runner.queue)

    def open(self, *owned):
        """Start with a store that has so many tasks of each of some owners."""
        self.store, self.runner = LastingStore(), FakeRunner()
        numbers = itertools.count()
        for owner, count in owned:
            news = [
                New(f"{next(numbers):09}", "f", b"[1]", limit_key=share_key(owner, None), owner=owner)
                for _ in range(count)
            ]
            self.store.write(Changes(news), 999.0)
        self.start()

    def test_any_number_of_tasks_of_one_owner_leave_room_for_the_others(self):
        self.open(("ann", 12_000), ("bob", 1), ("", 1))
        self.assertEqual((self.claimed()["bob"], self.claimed()[""]), (1, 1))
        self.assertLessEqual(self.claimed()["ann"], 600)
        self.submit_for("cid")
        self.assertEqual(self.claimed()["cid"], 1)

    def test_the_task_of_an_owner_is_claimed_although_others_have_filled_the_window(self):
        self.patch(window_module, "WINDOW", 1000)
        self.open(*((f"ann{number}", 210) for number in range(9)))
        self.assertGreaterEqual(self.claimed().total(), 1000)
        self.submit_for("bob")
        self.submit_for("bob")
        for owner in "cid", "dan", "cid":  # in one transaction
            self.tasks.submit("f", Raw(b"[1]"), Options(), bool, grant=Grant(owner))
        self.turns()
        self.assertEqual([self.claimed()[owner] for owner in ("bob", "cid", "dan")], [1, 1, 1])
        self.tasks.submit("f", Raw(b"[1]"), SubmitOptions(delay=1), bool, grant=Grant("eve"))
        self.turns(2.0)
        self.assertEqual(self.claimed()["eve"], 1)
        while self.runner.queue:
            self.finish()
        self.assertEqual(self.store.counts(), {("f", State.SUCCEEDED): 9 * 210 + 6})

    def test_tasks_of_nobody_are_claimed_beside_those_of_owners(self):
        self.open(("", 700))
        self.submit_for("ann", 300)
        self.submit_for("", 300)
        while self.runner.queue:
            self.finish()
        self.assertEqual(self.store.counts(), {("f", State.SUCCEEDED): 1300})

    def test_the_tasks_of_an_owner_are_all_run_in_their_order(self):
        self.submit_for("ann", 500)
        seen = []
        while self.runner.queue:
            seen.append(self.runner.queue[0].subscriber.record.new.id)
            self.finish()
        self.assertEqual((len(seen), seen), (500, sorted(seen)))

    def test_a_function_may_get_and_lose_limits_while_its_tasks_have_owners(self):
        self.submit_for("ann", 300)
        self.use(concurrency=1, concurrency_key="account")
        self.submit_for("bob", 2)
        self.use()
        self.submit_for("cid", 2)
        while self.runner.queue:
            self.finish()
        self.assertEqual(self.store.counts(), {("f", State.SUCCEEDED): 304})

    def test_large_arguments_fill_the_window(self):
        self.patch(window_module, "WINDOW_BYTES", 100)
        self.submit_for("ann", 300)
        self.assertLessEqual(self.claimed().total(), 300)
        while self.runner.queue:
            self.finish()
        self.assertEqual(self.store.counts(), {("f", State.SUCCEEDED): 300})


class RunsTests(LimitCase):
    def test_every_owner_is_served_whatever_happens(self):
        case = OwnedRuns.TestCase
        case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
        case("runTest").runTest()

    def test_no_key_has_more_than_its_limit_and_none_stalls_whatever_happens(self):
        case = Runs.TestCase
        case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
        case("runTest").runTest()
