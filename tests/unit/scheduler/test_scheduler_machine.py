"""The whole scheduler, against workers that behave like real ones, in any course of events."""

from collections import deque
from dataclasses import dataclass, field
from math import inf

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import Busy
from taskd.model import Grant
from taskd.scheduler import FunctionStats, Scheduler, TaskState, WorkerState
from taskd.scheduler.actions import (
    AbandonTask,
    ExpireTask,
    InterruptTask,
    KillWorker,
    ReclaimTasks,
    TerminateWorker,
)
from taskd.scheduler.batching import BATCHED_LIMIT, LATE_SECONDS, MAX_TASKS_PER_WORKER, SHORT_WORKERS
from taskd.scheduler.config import SchedulerConfig
from taskd.scheduler.parties import Lane, Party
from taskd.scheduler.quotas import Quota
from taskd.scheduler.scheduler import MAX_LOSSES
from taskd.scheduler.states import StopStep
from taskd.scheduler.task import Task
from taskd.scheduler.waiting_time import MAX_RETRY_AFTER
from tests.unit.tasks import FakeSubscriber, make_task, short_function

STEPS = [0.0, LATE_SECONDS / 2, LATE_SECONDS, 2 * LATE_SECONDS, 0.3, 1.0, 7.0]
"""Seconds by which time moves on."""


@dataclass(eq=False)
class FakeWorker:
    """A worker process: what it has been given and not begun, what it runs, which orders it has been sent."""

    generation: int
    is_ready: bool = False
    is_ending: bool = False
    queue: deque = field(default_factory=deque)
    running: Task | None = None
    begun: int = 0
    interrupted: bool = False
    orders: deque = field(default_factory=deque)
    signals: list = field(default_factory=list)

    @property
    def tasks(self):
        """All tasks that it has, in the order in which it runs them."""
        return [*([self.running] if self.running is not None else []), *self.queue]


def can_begin(worker):
    return worker.queue and worker.running is None


def is_running(worker):
    return worker.running is not None


def has_orders(worker):
    return bool(worker.orders)


def is_there(worker):
    return True


def is_starting(worker):
    return not worker.is_ready


def is_departing(worker):
    return worker.is_ending


def some_worker(condition):
    """Make a rule apply only while there is a worker for which the condition holds."""
    return precondition(lambda machine: any(map(condition, machine.workers.values())))


class SchedulerMachine(RuleBasedStateMachine):
    """Tasks, workers and time that come and go."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.last_task = 0
        self.last_worker = 0
        self.generation = 1
        self.workers = {}
        self.tasks = []
        self.ended = {}
        self.attempts = {}
        self.deadlines = {}
        self.party = party = Party("one")
        lanes = [Lane(party), Lane(party), Lane(Party("other"))]
        self.subscribers = [FakeSubscriber(lane=lane) for lane in lanes]

    @initialize(
        least=st.integers(0, 2),
        more=st.integers(0, 3),
        max_queue=st.sampled_from([0, 3, 1000]),
        max_tasks=st.sampled_from([None, None, 1, 3]),
        processors=st.integers(1, 2),
        shared=st.booleans(),
        running=st.sampled_from([None, None, 1, 2]),
    )
    def begin(self, least, more, max_queue, max_tasks, processors, shared, running):
        self.quota = None if running is None else Quota(Grant("one", running=running))
        self.party.quota = self.quota
        self.config = SchedulerConfig(
            least,
            max(least + more, 1),
            max_queue,
            idle_seconds=2.0,
            max_tasks=max_tasks,
            processors=processors,
            shared_priorities=shared,
        )
        self.scheduler = Scheduler(self.config)
        functions = [short_function(), FunctionStats("long"), short_function("strict", grace=0.0)]
        self.scheduler.functions = {stats.name: stats for stats in functions}
        self.functions = functions
        for _ in range(least):
            self.start(1)
            self.ready(self.last_worker)

    # --- tasks ---

    @rule(
        count=st.integers(1, 5),
        function=st.integers(0, 2),
        priority=st.sampled_from([0, 5, 5, 9]),
        limit=st.sampled_from([None, None, 0.2, BATCHED_LIMIT]),
        deadline=st.sampled_from([None, None, 0.0, 0.5, 5.0]),
        subscriber=st.integers(0, 2),
        turns=st.booleans(),
    )
    def submit(self, count, function, priority, limit, deadline, subscriber, turns):
        """Submit a task, which is refused if and only if the queue is full and its share is used up."""
        for _ in range(count):
            self.last_task += 1
            task = make_task(
                self.last_task,
                self.functions[function],
                subscriber=self.subscribers[subscriber],
                priority=priority,
                limit=limit,
                deadline=None if deadline is None else self.now + deadline,
                quota=self.subscribers[subscriber].lane.party.quota,
            )
            is_full = len(self.startable()) >= self.config.max_queue + len(self.idle())
            is_full = is_full and not self.has_share_left(task.lane)
            is_full |= task.quota is not None and task.quota.waiting >= self.config.max_queue
            try:
                self.scheduler.submit(task)
            except Busy as error:
                refused = error
            else:
                refused = None
            assert (refused is not None) == is_full
            if refused is not None:
                assert 0 < refused.data["retry_after"] <= MAX_RETRY_AFTER
                continue
            self.tasks.append(task)
            self.attempts[task] = 0
            if deadline is not None:
                self.deadlines[task] = self.now + deadline
        if turns:
            self.turn()

    def waiting(self):
        return [task for task in self.in_flight() if task.state is TaskState.WAITING]

    def startable(self):
        """All waiting tasks but those whose lanes are set aside."""
        return [task for task in self.waiting() if task.lane.aside is None]

    def is_throttled(self, lane):
        return any(each.lane is lane and each.is_full for each in self.subscribers)

    def has_share_left(self, lane):
        """Count what parties and lanes hold, as the protocol describes it."""
        startable = self.startable()
        parties = {task.lane.party for task in startable} | {lane.party}
        share = self.config.max_queue // len(parties)
        of_party = [task for task in startable if task.lane.party is lane.party]
        lanes = {task.lane for task in of_party} | {lane}
        of_lane = [task for task in self.waiting() if task.lane is lane]
        return len(of_party) < share or len(of_lane) < share // len(lanes)

    def idle(self):
        return [
            number for number, view in self.scheduler.fleet.workers.items() if view.state is WorkerState.IDLE
        ]

    def end(self, task, how):
        """Note that a task has ended, which it does once."""
        assert task not in self.ended, f"{task} ended twice: {self.ended[task]}, {how}"
        assert task.state is TaskState.DONE
        self.ended[task] = how

    def in_flight(self):
        return [task for task in self.tasks if task not in self.ended]

    @rule()
    def turn(self):
        """Do what the server does at the end of each of its turns."""
        self.assign()
        self.balance()
        self.depart()

    def assign(self):
        """Every worker that can work works; short tasks share a worker with short ones only."""
        idle = set(self.idle())
        batched = {number: list(worker.tasks) for number, worker in self.workers.items()}
        for number, tasks in self.scheduler.assign(self.now):
            worker = self.workers[number]
            assert worker.is_ready
            assert not worker.is_ending
            assert worker.generation == self.scheduler.fleet.generation
            assert number in idle or all(self.may_batch(task) for task in tasks)
            assert len(tasks) == 1 or all(self.may_batch(task) for task in tasks)
            if number not in idle:
                assert batched[number]
                assert not self.scheduler.fleet.workers[number].reclaimed
            worker.queue += tasks
            assert len(worker.tasks) <= MAX_TASKS_PER_WORKER
            if self.config.max_tasks is not None:
                done = self.scheduler.fleet.workers[number].done
                assert done + len(worker.tasks) <= self.config.max_tasks
        if self.quota is not None and not self.quota.is_full:
            resting = [task.lane for task in self.waiting() if task not in self.startable()]
            assert not self.idle() or all(self.is_throttled(lane) for lane in resting)
        if self.startable() and self.idle():
            # Short tasks wait for workers that run batches, but no other task at the head of a line does.
            assert self.all_short_run()
            assert all(head.stats.is_short for head in self.heads())

    def heads(self):
        """Return the first task of each priority in each lane."""
        heads = {}
        for task in self.scheduler.queue:
            heads.setdefault((task.lane, task.priority), task)
        return heads.values()

    @staticmethod
    def may_batch(task):
        return task.stats.is_short and (task.limit is None or task.limit >= BATCHED_LIMIT)

    def all_short_run(self):
        """Return whether enough workers run batches, so that the idle ones are left to other tasks."""
        return len(self.scheduler.batching.workers) >= SHORT_WORKERS * self.config.processors

    @rule(subscriber=st.integers(0, 2), is_full=st.booleans())
    def fill_or_empty(self, subscriber, is_full):
        self.subscribers[subscriber].is_full = is_full
        if not is_full:
            self.scheduler.queue.resume(self.subscribers[subscriber])

    @rule(throttled=st.booleans(), unless=st.sampled_from([(), {"short"}]))
    def drop(self, throttled, unless):
        expected = [
            task
            for task in self.in_flight()
            if task.state is TaskState.WAITING and (task.lane.aside is not None or not throttled)
        ]
        if not throttled:
            expected = [task for task in expected if task.stats.name not in unless]
        dropped = (
            self.scheduler.queue.drop_aside() if throttled else self.scheduler.queue.drop_waiting(unless)
        )
        assert set(dropped) == set(expected)
        for task in dropped:
            self.end(task, "dropped")

    @precondition(lambda self: self.in_flight())
    @rule(data=st.data())
    def cancel(self, data):
        task = data.draw(st.sampled_from(self.in_flight()))
        was_given = task.state is TaskState.GIVEN
        actions = self.scheduler.cancel(task, self.now)
        if was_given:
            assert task.stop is not None
            self.act(actions)
        else:
            assert actions == []
            self.end(task, "cancelled")

    # --- what workers do ---

    def any_worker(self, data, condition):
        return data.draw(st.sampled_from([n for n, worker in self.workers.items() if condition(worker)]))

    @some_worker(can_begin)
    @rule(data=st.data())
    def begin_task(self, data):
        self.begin_next(self.workers[self.any_worker(data, can_begin)])

    def begin_next(self, worker):
        worker.running = worker.queue.popleft()
        worker.interrupted = False
        worker.begun = worker.running.number
        self.attempts[worker.running] += 1

    @some_worker(is_running)
    @rule(
        data=st.data(),
        seconds=st.sampled_from([0.0, 0.0001, 0.1, None]),
        failed=st.booleans(),
        leaving=st.sampled_from([False, False, False, True]),
    )
    def end_task(self, data, seconds, failed, leaving):
        number = self.any_worker(data, is_running)
        worker = self.workers[number]
        task, worker.running = worker.running, None
        if worker.interrupted:
            ended = self.scheduler.stopped(number, task.number, self.now)
        else:
            ended = self.scheduler.finished(number, task.number, seconds, self.now, failed=failed)
        if leaving:
            self.scheduler.fleet.retire(number, self.now)
        if task in self.ended:
            assert ended is None
        else:
            assert ended is task
            self.end(task, "finished")
        self.turn()

    @some_worker(has_orders)
    @rule(data=st.data())
    def obey(self, data):
        """A worker reads an order: it returns tasks, or marks the one that it runs."""
        number = self.any_worker(data, has_orders)
        worker = self.workers[number]
        order = worker.orders.popleft()
        if order is None:
            returned = list(worker.queue)
        else:
            task, attempt = order
            if task is worker.running and task.attempts == attempt:
                worker.interrupted = True
            returned = [each for each in worker.queue if each is task and each.attempts == attempt]
        for task in returned:
            worker.queue.remove(task)
        if returned:
            wanted = [task for task in returned if task.stop is None]
            ended = self.scheduler.returned(number, [task.number for task in returned], self.now)
            assert set(ended) == {task for task in returned if task.stop and task not in self.ended}
            for task in ended:
                self.end(task, "returned")
            for line in {(task.lane, task.priority) for task in wanted}:
                level = [t for t in self.scheduler.queue.all_waiting if (t.lane, t.priority) == line]
                head = [task for task in wanted if (task.lane, task.priority) == line]
                assert level[: len(head)] == head
        self.turn()

    @some_worker(is_there)
    @rule(data=st.data())
    def die(self, data):
        """End a worker: the task it had begun is lost; the rest waits again, except tasks being stopped."""
        number = self.any_worker(data, is_there)
        self.lose(number)

    def lose(self, number):
        worker = self.workers.pop(number)
        expected = {
            task
            for task in worker.tasks
            if task not in self.ended and (task.stop is not None or task.losses >= MAX_LOSSES)
        }
        if worker.running is not None and worker.running not in self.ended:
            expected.add(worker.running)
        lost = self.scheduler.worker_exited(number, worker.begun, self.now)
        assert set(lost) == expected
        for task in lost:
            self.end(task, "lost")

    # --- workers come and go ---

    def start(self, generation):
        self.last_worker += 1
        self.workers[self.last_worker] = FakeWorker(generation)
        self.scheduler.fleet.add(self.last_worker, self.now, generation)

    def ready(self, number):
        self.workers[number].is_ready = True
        self.scheduler.fleet.ready(number, self.now)

    def balance(self):
        missing = self.scheduler.missing
        active = self.scheduler.fleet.active
        assert missing >= 0
        assert active + missing <= max(self.config.max_workers, active)
        assert active + missing >= self.config.min_workers
        for _ in range(missing):
            self.start(self.scheduler.fleet.generation)
        assert self.scheduler.missing == 0

    @some_worker(is_starting)
    @rule(data=st.data())
    def get_ready(self, data):
        number = self.any_worker(data, is_starting)
        self.ready(number)
        self.turn()

    def depart(self):
        """Check that a worker that must end has no tasks, and end it."""
        for number in self.scheduler.fleet.departures():
            worker = self.workers[number]
            assert not worker.is_ending
            assert worker.tasks == []
            worker.is_ending = True

    @some_worker(is_departing)
    @rule(data=st.data())
    def departed(self, data):
        number = self.any_worker(data, is_departing)
        self.lose(number)

    @precondition(lambda self: self.generation == self.scheduler.fleet.generation and self.generation < 4)
    @rule(count=st.integers(1, 3))
    def load_new_code(self, count):
        self.generation += 1
        for _ in range(count):
            self.start(self.generation)

    @precondition(lambda self: self.generation > self.scheduler.fleet.generation)
    @rule()
    def switch(self):
        self.scheduler.fleet.switch(self.generation, self.now)
        for number, worker in self.workers.items():
            if worker.generation < self.generation:
                assert self.scheduler.fleet.workers[number].state is WorkerState.LEAVING

    # --- time ---

    @rule(seconds=st.sampled_from(STEPS))
    def tick(self, seconds):
        self.now += seconds
        self.act(self.scheduler.tick(self.now, lambda number: self.workers[number].begun))
        for task in self.in_flight():
            if task.state is TaskState.WAITING:
                assert self.deadlines.get(task, inf) > self.now

    def act(self, actions):
        for action in actions:
            match action:
                case ExpireTask(task):
                    assert self.deadlines[task] <= self.now
                    self.end(task, "expired")
                case ReclaimTasks(number):
                    assert len(self.workers[number].tasks) > 1
                    self.workers[number].orders.append(None)
                case InterruptTask(number, task):
                    assert task in self.workers[number].tasks
                    self.workers[number].orders.append((task, task.attempts))
                case AbandonTask(task):
                    assert task is not self.workers[task.worker].running
                    self.end(task, "abandoned")
                case TerminateWorker(number, task):
                    assert task is self.workers[number].running or task.number == self.workers[number].begun
                    self.workers[number].signals.append("TERM")
                    self.end(task, "terminated")
                case KillWorker(number):
                    worker = self.workers[number]
                    assert self.ended[worker.running] in ("terminated", "abandoned")
                    worker.signals.append("KILL")

    # --- what always holds ---

    @invariant()
    def every_task_is_in_one_place(self):
        scheduler = getattr(self, "scheduler", None)
        if scheduler is None:
            return
        given = [task for worker in self.workers.values() for task in worker.tasks]
        assert len(given) == len(set(given))
        waiting = scheduler.queue.all_waiting
        assert len(waiting) == len(set(waiting))
        assert not set(waiting) & set(given)
        assert {*waiting, *given, *self.ended} == set(self.tasks)
        assert not set(waiting) & set(self.ended)
        for task in waiting:
            assert task.state is TaskState.WAITING
        for task in given:
            assert (task.state is TaskState.DONE) == (task in self.ended)
        assert scheduler.queue.waiting == len(waiting)
        assert set(scheduler.queue) == set(self.startable())
        assert len(scheduler.queue) == len(self.startable())
        for stats in self.functions:
            assert stats.waiting == sum(task.stats is stats for task in waiting)
        assert scheduler.fleet.running == sum(task.state is TaskState.GIVEN for task in given)
        assert scheduler.is_empty == (not self.in_flight())
        if self.quota is not None:
            assert self.quota.waiting == sum(task.quota is not None for task in waiting)
            assert self.quota.running == sum(task.quota is not None for task in given)
            assert self.quota.running <= self.quota.grant.running

    @invariant()
    def workers_have_what_the_scheduler_thinks_they_have(self):
        scheduler = getattr(self, "scheduler", None)
        if scheduler is None:
            return
        assert set(scheduler.fleet.workers) == set(self.workers)
        for number, worker in self.workers.items():
            view = scheduler.fleet.workers[number]
            assert list(view.tasks.values()) == worker.tasks
            assert view.state is not WorkerState.IDLE or not worker.tasks
            assert view.state is not WorkerState.BUSY or worker.tasks
        leaving = sum(view.state is WorkerState.LEAVING for view in scheduler.fleet.workers.values())
        assert scheduler.fleet.active <= len(self.workers) - leaving

    @invariant()
    def no_task_is_begun_again_once_it_has_begun(self):
        assert all(count <= 1 for count in self.attempts.values())

    @invariant()
    def what_is_due_is_not_slept_through(self):
        scheduler = getattr(self, "scheduler", None)
        if scheduler is None:
            return
        due = [self.deadlines.get(task, inf) for task in scheduler.queue.all_waiting]
        for view in scheduler.fleet.workers.values():
            tasks = list(view.tasks.values())
            due += [
                task.stop.next_at for task in tasks if task.stop and task.stop.step is not StopStep.KILLED
            ]
            first = view.first
            if first is not None and first.limit is not None and first.stop is None:
                due.append(first.started + first.limit)
            if len(tasks) > 1 and not view.reclaimed:
                due.append(view.checked_at + LATE_SECONDS)
            if view.state is WorkerState.IDLE and scheduler.fleet.active > self.config.min_workers:
                due.append(self.now + self.config.idle_seconds)
        assert scheduler.wake_at <= min(due, default=inf)

    def teardown(self):
        """Check that everything ends by itself."""
        if getattr(self, "scheduler", None) is None:
            return
        for subscriber in self.subscribers:
            subscriber.is_full = False
            self.scheduler.queue.resume(subscriber)
        rounds = 0
        while self.in_flight() or any(worker.tasks for worker in self.workers.values()):
            rounds += 1
            assert rounds < 200
            self.one_round()
        assert self.scheduler.is_empty
        self.no_task_is_begun_again_once_it_has_begun()

    def one_round(self):
        """Every worker runs all tasks that it has, and those that must end do."""
        for number, worker in list(self.workers.items()):
            if not worker.is_ready:
                self.ready(number)
            if worker.is_ending:
                self.lose(number)
        self.assign()
        for number, worker in list(self.workers.items()):
            while worker.tasks:
                if worker.running is None:
                    self.begin_next(worker)
                task, worker.running = worker.running, None
                ended = self.scheduler.finished(number, task.number, 0.0, self.now, failed=False)
                if ended is not None:
                    self.end(task, "finished")
        self.turn()
        self.every_task_is_in_one_place()


class SchedulerMachineTests(SynchronousTestCase):
    def test_any_course_of_events_ends_every_task_once(self):
        run_machine(SchedulerMachine)
