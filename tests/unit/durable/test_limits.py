"""Concurrency and rate of one function: never more than the limit, and never a stall while there is room."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.limits import MAX_STARTS, Limits
from taskd.durable.run import Run
from taskd.functions.durability import Rate
from taskd.scheduler.parties import Lane, Party
from taskd.store.records import New, Record, State

LANE = Lane(Party("store"))


def make_run(number, key="a", priority=5, started=False):
    new = New(f"{number:05}", "f", key.encode(), priority=priority)
    run = Run(None, Record(new, State.WAITING, 0.0), LANE)
    run.has_started = started
    return run


def make_limits(concurrency=None, rate=None):
    return Limits(concurrency, None if rate is None else Rate.parse(rate), lambda args: args.decode())


class LimitsMachine(RuleBasedStateMachine):
    """Adds, starts and ends tasks, lets time pass; the model is a list of what each key has done."""

    def __init__(self, concurrency, rate):
        super().__init__()
        self.concurrency, self.rate = concurrency, rate
        self.limits = Limits(concurrency, rate, lambda args: args.decode())
        self.now = 0.0
        self.number = 0
        self.held, self.admitted, self.started = {}, {}, {}
        self.starts = []

    def take(self):
        for run in self.limits.admit(self.now):
            self.admitted[run] = self.held.pop(run)

    @rule(key=st.sampled_from("abc"), priority=st.integers(4, 6), count=st.integers(1, 4))
    def add(self, key, priority, count):
        for _ in range(count):
            self.number += 1
            run = make_run(self.number, key, priority)
            self.held[run] = key
            self.limits.add(run)
        self.take()

    @precondition(lambda self: self.admitted)
    @rule(data=st.data())
    def start(self, data):
        run = data.draw(st.sampled_from(list(self.admitted)))
        self.started[run] = key = self.admitted.pop(run)
        self.starts.append((self.now, key))
        self.limits.started(run, self.now)
        self.take()

    @precondition(lambda self: self.started or self.admitted or self.held)
    @rule(data=st.data())
    def end(self, data):
        run = data.draw(st.sampled_from([*self.started, *self.admitted, *self.held]))
        for runs in (self.started, self.admitted, self.held):
            runs.pop(run, None)
        self.limits.remove(run)
        self.limits.remove(run)
        self.take()

    @rule(seconds=st.sampled_from((0.1, 0.5, 1.0, 3.0)))
    def time_passes(self, seconds):
        until = self.now + seconds
        while self.limits.next_time <= until:
            self.now = max(self.limits.next_time, self.now)
            self.take()
        self.now = until

    @invariant()
    def no_key_has_more_than_its_limits_and_none_stalls(self):
        running = Counter([*self.admitted.values(), *self.started.values()])
        held, unstarted = Counter(self.held.values()), Counter(self.admitted.values())
        recent = Counter()
        if self.rate is not None:
            recent.update(key for at, key in self.starts if at + self.rate.seconds > self.now)
        for key in "abc":
            has_place = self.concurrency is None or running[key] < self.concurrency
            has_start = self.rate is None or recent[key] + unstarted[key] < self.rate.count
            assert self.concurrency is None or running[key] <= self.concurrency
            assert self.rate is None or recent[key] <= self.rate.count
            assert not (held[key] and has_place and has_start)
        assert self.limits.held == len(self.held)
        assert self.limits.admitted == len(self.admitted) + len(self.started)
        for run in self.held:
            hold = self.limits.hold(run.record, self.now)
            assert hold.running or hold.seconds is not None
        if not self.held and not running and not recent:
            assert self.limits.is_empty


def check(concurrency, rate):
    class Machine(LimitsMachine):
        def __init__(self):
            super().__init__(concurrency, None if rate is None else Rate.parse(rate))

    case = Machine.TestCase
    case.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
    case("runTest").runTest()


class LimitsTests(SynchronousTestCase):
    def test_concurrency_is_kept(self):
        check(1, None)
        check(3, None)

    def test_the_rate_is_kept(self):
        check(None, "1/s")
        check(None, "3/s")

    def test_both_are_kept_together(self):
        check(2, "3/s")

    def test_tasks_are_admitted_by_priority_then_by_age(self):
        limits = make_limits(concurrency=1)
        runs = [make_run(1), make_run(2), make_run(3, priority=0)]
        for run in runs:
            limits.add(run)
        order = []
        while admitted := limits.admit(0.0):
            order += admitted
            limits.remove(admitted[0])
        self.assertEqual(order, [runs[2], runs[0], runs[1]])

    def test_a_task_that_waits_long_for_a_worker_counts_when_it_starts(self):
        limits = make_limits(rate="2/s")
        runs = [make_run(number) for number in range(4)]
        for run in runs:
            limits.add(run)
        self.assertEqual(limits.admit(0.0), runs[:2])
        self.assertEqual(limits.admit(100.0), [])
        for run in runs[:2]:
            limits.started(run, 100.0)
        self.assertEqual(limits.admit(100.5), [])
        self.assertEqual(limits.next_time, 101.0)
        self.assertEqual(limits.admit(101.0), runs[2:])

    def test_a_clock_that_is_put_back_delays_a_start_by_the_time_of_the_rate_at_most(self):
        limits = make_limits(rate="1/s")
        first, second = make_run(1), make_run(2)
        limits.add(first)
        limits.admit(5000.0)
        limits.started(first, 5000.0)
        limits.add(second)
        self.assertEqual(limits.admit(1400.0), [])
        self.assertAlmostEqual(limits.next_time, 1401.0, 2)
        self.assertEqual(limits.admit(limits.next_time), [second])

    def test_a_high_rate_needs_a_bounded_memory(self):
        limits = make_limits(rate="100000/s")
        for number in range(100_000):
            run = make_run(number)
            limits.add(run)
            self.assertEqual(limits.admit(number / 200_000), [run])
            limits.started(run, number / 200_000)
            limits.remove(run)
        late = make_run(100_000)
        limits.add(late)
        self.assertEqual(limits.admit(0.5), [])
        self.assertLess(limits.remembered, MAX_STARTS + 2)
        self.assertEqual(limits.admit(1.0 + 2 / MAX_STARTS), [late])

    def test_new_limits_count_what_runs_and_what_has_started(self):
        old = make_limits(rate="2/s")
        for number in range(2):
            run = make_run(number)
            old.add(run)
            old.admit(0.0)
            old.started(run, 0.0)
        new = make_limits(concurrency=2, rate="3/s")
        new.keep_starts(old)
        new.add_admitted(make_run(5, started=True))
        runs = [make_run(6), make_run(7)]
        for run in runs:
            new.add(run)
        self.assertEqual(new.admit(0.5), runs[:1])
        hold = new.hold(runs[1].record, 0.5)
        self.assertEqual((hold.running, hold.seconds, hold.before), (["00005", "00006"], 0.5, 0))
        self.assertIsNone(new.hold(runs[0].record, 0.5))
