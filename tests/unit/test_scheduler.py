"""Who works on what."""

from collections import deque
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import Busy, StateError
from taskd.scheduler import (
    JOB_STEPS,
    MAX_QUEUE,
    WORKER_STEPS,
    FunctionStats,
    JobState,
    Scheduler,
    WorkerState,
)


@dataclass
class Caller:
    """Who asked for a job; while it is full its jobs are not begun."""

    is_full: bool = False


@dataclass(eq=False)
class Job:
    """What a scheduler needs of a job."""

    number: int = 0
    function: str = "f"
    state: JobState = JobState.WAITING
    caller: Caller | None = None

    @property
    def is_held(self):
        return self.caller is not None and self.caller.is_full


class SchedulerMachine(RuleBasedStateMachine):
    """Jobs and workers that come and go, against a model."""

    def __init__(self):
        super().__init__()
        self.scheduler = None
        self.now = 0.0
        self.last_job = 0
        self.last_worker = 0
        self.waiting = deque()
        self.held = deque()
        self.callers = [Caller(), Caller()]
        self.idle = []
        self.starting = set()
        self.busy = {}
        self.gone = set()
        self.ended = []
        self.accepted = []
        self.stats = {}
        self.jobs_done = {}

    @initialize(max_queue=st.integers(0, 4))
    def begin(self, max_queue):
        self.scheduler = Scheduler(max_queue)

    def later(self):
        self.now += 1.0
        return self.now

    def any_of(self, data, numbers):
        return data.draw(st.sampled_from(sorted(numbers)))

    # --- jobs ---

    @rule(function=st.sampled_from("fgh"), caller=st.integers(0, 1))
    def submit(self, function, caller):
        """A job is refused exactly where the queue is full."""
        self.last_job += 1
        job = Job(self.last_job, function, caller=self.callers[caller])
        full = len(self.waiting) >= self.scheduler.max_queue + len(self.idle)
        try:
            self.scheduler.submit(job)
        except Busy as error:
            retry_after = error.data["retry_after"]
        else:
            retry_after = None
            self.waiting.append(job)
            self.accepted.append(job)
        assert (retry_after is not None) == full
        assert retry_after is None or 0 < retry_after <= 60

    @rule()
    def assign(self):
        """First in, first out, but for held ones; and the worker that was idle last comes first."""
        pairs = []
        while self.waiting and self.idle:
            job = self.waiting.popleft()
            if job.is_held:
                self.held.append(job)
            else:
                pairs.append((self.idle.pop(), job))
        assert self.scheduler.assign(self.later()) == pairs
        self.busy.update(pairs)
        assert all(job.state is JobState.RUNNING for _, job in pairs)

    @rule(caller=st.integers(0, 1), is_full=st.booleans())
    def fill_or_empty(self, caller, is_full):
        self.callers[caller].is_full = is_full

    @rule()
    def release(self):
        """Those that were held come before those that came after them."""
        self.scheduler.release()
        self.waiting.extendleft(reversed(self.held))
        self.held.clear()

    @rule()
    def drop_held(self):
        dropped = list(self.held)
        self.held.clear()
        assert self.scheduler.drop_held() == dropped
        assert all(job.state is JobState.DONE for job in dropped)
        self.ended += dropped

    @rule(unless=st.sets(st.sampled_from("fgh")))
    def drop_waiting(self, unless):
        self.waiting = self.held + self.waiting
        self.held.clear()
        dropped = [job for job in self.waiting if job.function not in unless]
        self.waiting = deque(job for job in self.waiting if job.function in unless)
        assert self.scheduler.drop_waiting(unless) == dropped
        assert all(job.state is JobState.DONE for job in dropped)
        self.ended += dropped

    # --- workers ---

    @rule()
    def worker_started(self):
        self.last_worker += 1
        self.scheduler.worker_started(self.last_worker, self.later())
        self.starting.add(self.last_worker)
        self.jobs_done[self.last_worker] = 0

    @precondition(lambda self: self.starting)
    @rule(data=st.data())
    def worker_ready(self, data):
        number = self.any_of(data, self.starting)
        self.scheduler.worker_ready(number, self.later())
        self.starting.discard(number)
        self.idle.append(number)

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 0.25, 1.5, 1000.0]), failed=st.booleans())
    def finished(self, data, seconds, failed):
        number = self.any_of(data, self.busy)
        job = self.busy.pop(number)
        assert self.scheduler.finished(number, seconds, self.later(), failed=failed) is job
        assert job.state is JobState.DONE
        self.idle.append(number)
        self.ended.append(job)
        self.jobs_done[number] += 1
        stats = self.stats.setdefault(job.function, FunctionStats())
        stats.seconds += seconds
        stats.longest = max(stats.longest, seconds)
        stats.failed += failed
        stats.done += not failed

    @precondition(lambda self: self.starting or self.idle or self.busy)
    @rule(data=st.data(), started=st.booleans())
    def worker_lost(self, data, started):
        """Its job is lost, or the first to be run again where it had not begun."""
        number = self.any_of(data, [*self.starting, *self.idle, *self.busy])
        job = self.busy.pop(number, None)
        self.starting.discard(number)
        if number in self.idle:
            self.idle.remove(number)
        self.gone.add(number)
        lost = self.scheduler.worker_lost(number, self.later(), started=started)
        if job is None:
            assert lost is None
        elif started:
            assert lost is job
            assert job.state is JobState.DONE
            self.ended.append(job)
            self.stats.setdefault(job.function, FunctionStats()).lost += 1
        else:
            assert lost is None
            assert job.state is JobState.WAITING
            self.waiting.appendleft(job)

    # --- bugs ---

    def refuses(self, step):
        try:
            step()
        except StateError:
            return
        raise AssertionError("a step that is in no table was taken")

    @rule()
    def steps_that_are_in_no_table_are_bugs(self):
        scheduler, now = self.scheduler, self.now
        for number in {*self.idle, *self.gone, self.last_worker + 1}:
            self.refuses(lambda number=number: scheduler.worker_ready(number, now))
        for number in {*self.starting, *self.idle, *self.gone, self.last_worker + 1}:
            self.refuses(lambda number=number: scheduler.finished(number, 1.0, now, failed=False))
        for number in {*self.starting, *self.idle, *self.busy}:
            self.refuses(lambda number=number: scheduler.worker_started(number, now))
        for number in {*self.gone, self.last_worker + 1}:
            self.refuses(lambda number=number: scheduler.worker_lost(number, now))

    # --- state ---

    @invariant()
    def state_is_told(self):
        scheduler = self.scheduler
        if scheduler is None:
            return
        assert scheduler.waiting == len(self.waiting) + len(self.held)
        assert scheduler.running == len(self.busy)
        assert scheduler.is_empty == (not self.waiting and not self.held and not self.busy)
        assert scheduler.functions == self.stats
        states = dict.fromkeys(self.starting, WorkerState.STARTING)
        states |= dict.fromkeys(self.idle, WorkerState.IDLE) | dict.fromkeys(self.busy, WorkerState.BUSY)
        assert {number: worker.state for number, worker in scheduler.workers.items()} == states
        for number, worker in scheduler.workers.items():
            assert worker.job is self.busy.get(number)
            assert worker.jobs_done == self.jobs_done[number]
            assert worker.since <= self.now

    @invariant()
    def every_job_ends_once(self):
        assert len(self.ended) == len(set(self.ended))
        assert {*self.ended, *self.waiting, *self.held, *self.busy.values()} == set(self.accepted)

    def teardown(self):
        if self.scheduler is None:
            return
        self.worker_started()
        number = self.last_worker
        self.scheduler.worker_ready(number, self.now)
        self.starting.discard(number)
        self.idle.append(number)
        for caller in self.callers:
            caller.is_full = False
        self.release()
        while self.waiting or self.busy:
            self.assign()
            for worker in sorted(self.busy):
                job = self.busy.pop(worker)
                assert self.scheduler.finished(worker, 0.0, self.now, failed=False) is job
                self.idle.append(worker)
                self.ended.append(job)
        self.every_job_ends_once()
        assert self.scheduler.is_empty


class SchedulerTests(SynchronousTestCase):
    def scheduler(self, idle=(), **kwargs):
        scheduler = Scheduler(**kwargs)
        for number in idle:
            scheduler.worker_started(number, 0.0)
            scheduler.worker_ready(number, 0.0)
        return scheduler

    def test_any_course_of_events_is_as_the_design_says(self):
        run_machine(SchedulerMachine)

    def test_the_queue_is_that_of_the_protocol(self):
        self.assertEqual(MAX_QUEUE, 10_000)
        scheduler = Scheduler()
        for number in range(10_000):
            scheduler.submit(Job(number))
        self.assertRaises(Busy, scheduler.submit, Job())
        self.assertEqual(scheduler.waiting, 10_000)

    def test_jobs_run_first_in_first_out(self):
        scheduler = self.scheduler(idle=[1])
        jobs = [Job(number) for number in range(5)]
        for job in jobs:
            scheduler.submit(job)
        order = []
        for _ in jobs:
            [(worker, job)] = scheduler.assign(0.0)
            order.append(job)
            scheduler.finished(worker, 0.0, 0.0, failed=False)
        self.assertEqual(order, jobs)

    def test_the_worker_that_was_idle_last_works_first(self):
        scheduler = self.scheduler(idle=[1, 2, 3])
        for number in range(2):
            scheduler.submit(Job(number))
        self.assertEqual([worker for worker, _ in scheduler.assign(0.0)], [3, 2])
        scheduler.finished(3, 0.0, 0.0, failed=False)
        scheduler.submit(Job())
        self.assertEqual([worker for worker, _ in scheduler.assign(0.0)], [3])

    def test_a_job_is_bound_only_to_an_idle_worker(self):
        scheduler = Scheduler()
        scheduler.submit(Job())
        self.assertEqual(scheduler.assign(0.0), [])
        scheduler.worker_started(1, 0.0)
        self.assertEqual(scheduler.assign(0.0), [])
        scheduler.worker_ready(1, 0.0)
        self.assertEqual(len(scheduler.assign(0.0)), 1)
        self.assertEqual(scheduler.assign(0.0), [])

    def test_a_job_whose_caller_is_full_waits_and_holds_up_nobody(self):
        scheduler = self.scheduler(idle=[1, 2])
        full = Caller(is_full=True)
        held, other, last = Job(1, caller=full), Job(2), Job(3, caller=full)
        for job in held, other, last:
            scheduler.submit(job)
        self.assertEqual(scheduler.assign(0.0), [(2, other)])
        self.assertEqual((scheduler.waiting, scheduler.is_empty), (2, False))
        full.is_full = False
        scheduler.release()
        self.assertEqual(scheduler.assign(0.0), [(1, held)])
        scheduler.finished(2, 0.0, 0.0, failed=False)
        self.assertEqual(scheduler.assign(0.0), [(2, last)])

    def test_a_held_job_makes_the_server_busy_for_nobody_and_can_be_dropped(self):
        scheduler = self.scheduler(idle=[1], max_queue=0)
        held, other = Job(1, caller=Caller(is_full=True)), Job(2)
        scheduler.submit(held)
        scheduler.assign(0.0)
        scheduler.submit(other)
        self.assertRaises(Busy, scheduler.submit, Job(3))
        self.assertEqual(scheduler.drop_waiting(), [held, other])
        self.assertTrue(scheduler.is_empty)

    def test_only_the_held_jobs_can_be_dropped(self):
        scheduler = self.scheduler(idle=[1])
        held, other, last = Job(1, caller=Caller(is_full=True)), Job(2), Job(3)
        for job in held, other, last:
            scheduler.submit(job)
        scheduler.assign(0.0)
        self.assertEqual(scheduler.drop_held(), [held])
        self.assertEqual((held.state, scheduler.waiting), (JobState.DONE, 1))
        self.assertEqual(scheduler.drop_held(), [])

    def test_a_job_that_its_worker_never_read_goes_before_those_that_waited(self):
        scheduler = self.scheduler(idle=[1])
        first, second = Job(1), Job(2)
        scheduler.submit(first)
        scheduler.assign(0.0)
        scheduler.submit(second)
        self.assertIsNone(scheduler.worker_lost(1, 1.0, started=False))
        self.assertEqual(scheduler.functions, {})
        scheduler.worker_started(2, 1.0)
        scheduler.worker_ready(2, 1.0)
        self.assertEqual(scheduler.assign(1.0), [(2, first)])

    def test_a_job_that_was_begun_is_lost_with_its_worker(self):
        scheduler = self.scheduler(idle=[1])
        job = Job()
        scheduler.submit(job)
        scheduler.assign(0.0)
        self.assertIs(scheduler.worker_lost(1, 1.0), job)
        self.assertEqual((job.state, scheduler.functions["f"].lost), (JobState.DONE, 1))
        self.assertTrue(scheduler.is_empty)

    def test_a_job_that_comes_back_does_not_count_for_the_limit_of_the_queue(self):
        scheduler = self.scheduler(idle=[1], max_queue=1)
        scheduler.submit(Job(1))
        scheduler.assign(0.0)
        scheduler.submit(Job(2))
        scheduler.worker_lost(1, 0.0, started=False)
        self.assertEqual(scheduler.waiting, 2)
        self.assertRaises(Busy, scheduler.submit, Job(3))

    def test_an_idle_worker_makes_room_in_the_queue(self):
        scheduler = self.scheduler(idle=[1], max_queue=0)
        scheduler.submit(Job(1))
        self.assertRaises(Busy, scheduler.submit, Job(2))
        scheduler.assign(0.0)
        self.assertRaises(Busy, scheduler.submit, Job(3))

    def test_a_refused_job_is_left_as_it_was(self):
        scheduler = Scheduler(0)
        job = Job()
        error = self.assertRaises(Busy, scheduler.submit, job)
        self.assertEqual((job.state, scheduler.waiting), (JobState.WAITING, 0))
        self.assertEqual((error.code, error.data), (-32004, {"retry_after": 1.0}))

    def retry_after(self, seconds, waiting, workers=1):
        """What a caller is told after one job of `seconds`, with so many waiting."""
        scheduler = self.scheduler(idle=range(workers), max_queue=waiting)
        scheduler.submit(Job())
        [(worker, _)] = scheduler.assign(0.0)
        scheduler.finished(worker, seconds, seconds, failed=False)
        for _ in range(waiting + workers):
            scheduler.submit(Job())
        scheduler.assign(seconds)
        return self.assertRaises(Busy, scheduler.submit, Job()).data["retry_after"]

    def test_a_refused_caller_is_told_to_wait_longer_where_the_queue_is_slower(self):
        self.assertEqual(self.retry_after(1.0, 100), 10.0)
        self.assertEqual(self.retry_after(1.0, 100, workers=4), 2.5)
        self.assertEqual(self.retry_after(0.0, 100), 0.1)
        self.assertEqual(self.retry_after(3600.0, 100), 60.0)

    def test_times_and_outcomes_are_kept_for_each_function(self):
        scheduler = self.scheduler(idle=[1])
        for function, seconds, failed in ("f", 1.0, False), ("f", 3.0, True), ("g", 0.5, False):
            scheduler.submit(Job(function=function))
            scheduler.assign(0.0)
            scheduler.finished(1, seconds, 0.0, failed=failed)
        self.assertEqual(scheduler.functions["f"], FunctionStats(done=1, failed=1, seconds=4.0, longest=3.0))
        self.assertEqual(scheduler.functions["f"].mean, 2.0)
        self.assertEqual(scheduler.functions["g"].mean, 0.5)
        self.assertEqual(FunctionStats(lost=1).mean, 0.0)
        self.assertEqual(scheduler.workers[1].jobs_done, 3)

    def test_a_worker_tells_since_when_it_does_what_it_does(self):
        scheduler = Scheduler()
        scheduler.worker_started(1, 1.0)
        self.assertEqual(scheduler.workers[1].since, 1.0)
        scheduler.worker_ready(1, 2.0)
        self.assertEqual(scheduler.workers[1].since, 2.0)
        scheduler.submit(Job())
        scheduler.assign(3.0)
        self.assertEqual(scheduler.workers[1].since, 3.0)
        scheduler.finished(1, 1.0, 4.0, failed=False)
        self.assertEqual(scheduler.workers[1].since, 4.0)

    def test_all_waiting_jobs_can_be_dropped(self):
        scheduler = Scheduler()
        jobs = [Job(1, "f"), Job(2, "g"), Job(3, "f")]
        for job in jobs:
            scheduler.submit(job)
        self.assertEqual(scheduler.drop_waiting(unless={"g": 1}), [jobs[0], jobs[2]])
        self.assertEqual(scheduler.drop_waiting(), [jobs[1]])
        self.assertEqual(scheduler.drop_waiting(), [])
        self.assertTrue(scheduler.is_empty)

    def test_a_job_that_has_ended_cannot_be_run(self):
        scheduler = self.scheduler(idle=[1])
        scheduler.submit(Job(state=JobState.DONE))
        self.assertRaises(StateError, scheduler.assign, 0.0)

    def test_a_worker_that_is_busy_cannot_become_ready(self):
        """It becomes idle by finishing its job, which would be forgotten otherwise."""
        scheduler = self.scheduler(idle=[1])
        scheduler.submit(Job())
        scheduler.assign(0.0)
        self.assertRaises(StateError, scheduler.worker_ready, 1, 0.0)

    def test_a_step_of_a_worker_that_is_in_no_table_is_a_bug(self):
        scheduler = self.scheduler(idle=[1])
        scheduler.submit(Job())
        scheduler.workers[1].state = WorkerState.GONE
        self.assertRaises(StateError, scheduler.assign, 0.0)

    def test_the_tables_of_states_list_every_state(self):
        self.assertEqual(set(WORKER_STEPS), set(WorkerState))
        self.assertEqual(set(JOB_STEPS), set(JobState))
        self.assertFalse(WORKER_STEPS[WorkerState.GONE])
        self.assertFalse(JOB_STEPS[JobState.DONE])
        for steps in WORKER_STEPS, JOB_STEPS:
            for before, after in steps.items():
                self.assertNotIn(before, after)
