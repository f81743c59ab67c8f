"""Stored tasks between the store and the task server: claimed, started, settled, tried again."""

import json
from math import inf

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable import window as window_module
from taskd.durable import writer as writer_module
from taskd.durable.once import AHEAD
from taskd.durable.tasks import GIVE_UP_SECONDS, DurableTasks
from taskd.errors import (
    Cancelled,
    InvalidParams,
    MethodNotFound,
    ShuttingDown,
    TaskFailed,
    TimedOut,
    WorkerLost,
)
from taskd.functions.durability import Durability
from taskd.functions.registry import FunctionInfo
from taskd.model import OPERATOR, Failure, Options, Raised, Result, SubmitOptions
from taskd.scheduler import TaskState
from taskd.scheduler.quotas import Quota
from taskd.server.position import Position
from taskd.store.base import StoreError
from taskd.store.memory import MemoryStore
from taskd.store.records import State, last_seq
from tests.unit.tasks import make_lane, make_task


class FakeRunner:
    """A task server that runs nothing by itself."""

    def __init__(self):
        self.queue = []
        self.cancelled = []
        self.refuses = None

    def run(self, call, subscriber, lane):
        if self.refuses is not None:
            raise self.refuses
        task = make_task(len(self.queue) + 1, subscriber=subscriber)
        task.call = call
        task.state = TaskState.WAITING
        self.queue.append(task)
        return task

    def limit(self, grant):
        return Quota(grant)

    def stored_lane(self, owner, running):
        return make_lane(owner)

    def cancel(self, task, grace=inf):
        self.cancelled.append(task)

    def withdraw(self, task):
        if task not in self.queue:
            return False
        self.queue.remove(task)
        return True

    def position(self, task):
        return Position(self.queue.index(task), len(self.queue), 2, 2) if task in self.queue else None


class LastingStore(MemoryStore):
    """A store in memory that passes for a lasting one."""

    is_lasting = True


class Watcher:
    """A connection that keeps the names of the events that it gets."""

    is_congested = False
    watches = 0

    def __init__(self, seen):
        self.seen = seen

    def notify(self, line):
        self.seen.append(json.loads(line)["params"]["event"])

    def flush(self):
        pass


class DurableCase(SynchronousTestCase):
    retries = 0
    once = False

    def setUp(self):
        self.clock = Clock()
        self.store = LastingStore()
        self.runner = FakeRunner()
        self.patch(writer_module, "RIDE_SECONDS", 0.0)
        self.start()

    def start(self):
        self.tasks = DurableTasks(
            self.clock, self.runner, self.store, execute, lambda: 1000.0 + self.clock.seconds()
        )
        durable = Durability(once=self.once, retries=self.retries, backoff=2.0, keep=100.0)
        self.tasks.use([FunctionInfo("f", "f()", "", {}, durable=durable), FunctionInfo("g", "g()", "", {})])
        self.turn()

    def turn(self, seconds=0.0):
        self.clock.advance(seconds)
        self.clock.advance(0)
        self.clock.advance(0)

    def submit(self, function="f", token=None, **options):
        accepted = []
        asked = SubmitOptions(**options)
        self.tasks.submit(function, Raw(b"[1]"), asked, accepted.append, token=token)
        self.turn()
        return accepted[0].id

    def begin(self):
        """Give the first waiting task to a worker, and return it."""
        task = self.runner.queue.pop(0)
        task.call.started()
        self.turn()
        return task

    def make_fail(self, traceback="Traceback", **verdict):
        """Begin the first waiting task, and have its function raise."""
        task = self.begin()
        task.call.raised(Raised(traceback, **verdict))
        self.end(task, Failure.of(TaskFailed("no", type="ValueError")))

    def data(self, task, event):
        """Return the data of the last event of a kind."""
        return json.loads([each for each in self.store.events(task, 0, 100) if each.event == event][-1].data)

    def end(self, task, outcome):
        task.subscriber.task_ended(task.key, outcome)
        task.subscriber.flush()
        self.turn()

    def state(self, task):
        return self.store.get(task).state

    def events(self, task):
        return [each.event for each in self.store.events(task, 0, 100)]


class DurableTests(DurableCase):
    def test_a_task_is_stored_then_run_then_settled(self):
        task = self.submit()
        self.assertIs(self.state(task), State.WAITING)
        running = self.begin()
        self.assertEqual((running.call.function, bytes(running.call.args)), ("f", b"[1]"))
        self.assertIs(self.state(task), State.RUNNING)
        ended = []
        self.tasks.waiters.wait(task, lambda state, outcome: ended.append((state, outcome)))
        self.end(running, Result(Raw(b'"done"')))
        self.assertEqual(ended, [(State.SUCCEEDED, b'"done"')])
        self.assertIsNone(running.subscriber.task)  # so that nothing keeps it in memory
        self.assertEqual(self.events(task), ["queued", "started", "succeeded"])

    def test_the_start_of_a_task_that_is_given_out_twice_is_noted_once(self):
        task = self.submit()
        running = self.begin()
        running.call.started()
        self.turn()
        self.assertEqual(self.events(task), ["queued", "started"])

    def test_a_failure_without_retries_is_the_end(self):
        task = self.submit()
        self.end(self.begin(), Failure.of(TaskFailed("no", type="ValueError")))
        self.assertIs(self.state(task), State.FAILED)
        self.assertIn(b"no", self.store.get(task).outcome)

    def test_cancels_and_deadlines_have_states_of_their_own(self):
        first, second = self.submit(), self.submit()
        self.end(self.runner.queue.pop(0), Failure.of(TimedOut("late", limit="deadline")))
        self.end(self.runner.queue.pop(0), Failure.of(Cancelled("no", was="waiting")))
        self.assertEqual((self.state(first), self.state(second)), (State.EXPIRED, State.CANCELLED))

    def test_a_task_whose_process_dies_twice_is_set_aside(self):
        task = self.submit()
        self.end(self.begin(), Failure.of(WorkerLost("killed")))
        self.assertIs(self.state(task), State.WAITING)
        self.end(self.begin(), Failure.of(WorkerLost("killed")))
        self.assertIs(self.state(task), State.SET_ASIDE)
        self.assertEqual(self.events(task), ["queued", "started", "lost", "started", "set_aside"])
        self.assertEqual(self.runner.queue, [])

    def test_tasks_that_were_running_when_the_daemon_died_run_again(self):
        task, waiting = self.submit(), self.submit()
        self.begin()
        self.runner.queue.clear()
        self.start()
        self.assertEqual((self.state(task), self.store.get(task).losses), (State.WAITING, 1))
        self.assertEqual(len(self.runner.queue), 2)
        self.end(self.begin(), Result(Raw(b"1")))
        self.end(self.begin(), Result(Raw(b"2")))
        self.assertEqual((self.state(task), self.state(waiting)), (State.SUCCEEDED, State.SUCCEEDED))
        self.assertEqual(self.store.get(task).attempt, 2)

    def test_a_store_that_fails_at_the_start_is_tried_until_its_tasks_are_rescued(self):
        ran, waits = self.submit(), self.submit("g")
        self.begin()
        self.store.pause("g", paused=True)
        self.runner = FakeRunner()
        rescue = self.store.rescue

        def fail(*_):
            raise StoreError("the disk is full")

        self.store.rescue = fail
        self.start()
        new = self.submit()
        self.turn(1.0)
        self.assertEqual(self.runner.queue, [])
        self.assertEqual(self.tasks.fault, "the disk is full")
        self.store.rescue = rescue
        self.turn(1.0)
        self.assertIsNone(self.tasks.fault)
        self.assertEqual(self.events(ran), ["queued", "started", "lost"])
        self.assertEqual({task.call.id for task in self.runner.queue}, {ran, new})
        self.assertIs(self.state(waits), State.WAITING)

    def test_a_watcher_from_before_the_store_is_open_gets_the_loss_of_its_task(self):
        task = self.submit()
        self.begin()
        seen = []
        watcher = Watcher(seen)
        self.tasks = DurableTasks(
            self.clock, self.runner, self.store, execute, lambda: 1000.0 + self.clock.seconds()
        )
        self.tasks.hub.attach(watcher, "task", task, 0, lambda page: None)
        self.assertEqual(seen, ["queued", "started"])
        self.tasks.use([])
        self.turn()
        self.assertEqual(seen, ["queued", "started", "lost"])
        self.assertEqual(self.store.events(task, 0, 9)[-1].seq, last_seq(1))

    def test_a_watcher_of_a_task_that_is_forgotten_is_detached(self):
        task = self.submit(delay=9.0)
        seen = []
        watcher = Watcher(seen)
        self.tasks.hub.attach(watcher, "task", task, 0, lambda page: None)
        self.assertEqual(watcher.watches, 1)
        self.store.get = lambda task: None
        self.tasks.hub.look_again()
        self.assertEqual((seen, watcher.watches), (["queued", "detached"], 0))

    def test_a_scheduled_task_waits_until_it_is_due(self):
        task = self.submit(delay=5.0)
        self.assertEqual((self.state(task), self.runner.queue), (State.SCHEDULED, []))
        self.turn(5.0)
        self.assertEqual(len(self.runner.queue), 1)

    def test_keys_and_tokens_join(self):
        first = self.submit(key="k")
        self.assertEqual(self.submit(key="k"), first)
        token = self.submit(token="t")
        self.assertEqual(self.submit(token="t"), token)
        self.assertEqual(len(self.runner.queue), 2)

    def test_the_tasks_of_a_function_that_is_gone_wait_until_it_is_there_again(self):
        self.runner.refuses = MethodNotFound("no such function: f")
        task = self.submit()
        self.tasks.use([])
        self.turn()
        self.assertIs(self.state(task), State.WAITING)
        self.runner.refuses = None
        self.tasks.use([FunctionInfo("f", "f()", "", {})])
        self.turn()
        self.end(self.begin(), Result(Raw(b"1")))
        self.assertIs(self.state(task), State.SUCCEEDED)

    def test_reading_waits_for_the_store_to_be_opened_and_for_nothing_after_that(self):
        executed, read = [], []

        def later(function):
            executed.append(function)
            return Deferred()

        def at_once(function):
            read.append(function)
            return execute(function)

        self.tasks = DurableTasks(self.clock, self.runner, self.store, later, self.clock.seconds, at_once)
        self.tasks.get("1")
        self.assertEqual((len(executed), read), (1, []))
        self.tasks = DurableTasks(self.clock, self.runner, self.store, execute, self.clock.seconds, at_once)
        self.tasks.use([])
        self.tasks.get("1")
        self.assertEqual(len(read), 1)

    def test_a_window_of_the_waiting_tasks_is_claimed(self):
        self.patch(window_module, "WINDOW", 4)
        ids = [self.submit() for _ in range(10)]
        self.assertEqual(len(self.runner.queue), 4)
        for _ in range(10):
            self.assertLessEqual(len(self.runner.queue), 4)
            self.end(self.begin(), Result(Raw(b"1")))
        self.assertEqual({self.state(task) for task in ids}, {State.SUCCEEDED})

    def test_tasks_with_long_arguments_are_claimed_as_far_as_memory_is_to_hold_them(self):
        self.patch(window_module, "WINDOW_BYTES", 10)  # of which each task has three
        ids = [self.submit() for _ in range(10)]
        self.assertEqual(len(self.runner.queue), 4)
        for _ in range(10):
            self.assertLessEqual(len(self.runner.queue), 4 + 10)  # as many as one claim brings
            self.end(self.begin(), Result(Raw(b"1")))
        self.assertEqual({self.state(task) for task in ids}, {State.SUCCEEDED})

    def test_a_claim_that_was_cut_leaves_a_backlog(self):
        self.patch(window_module, "CLAIM_BYTES", 3)
        self.patch(self.store, "write", self.write_at_most_one_claim(self.store.write))
        ids = [self.submit() for _ in range(3)]
        for _ in range(3):
            self.end(self.begin(), Result(Raw(b"1")))
        self.assertEqual({self.state(task) for task in ids}, {State.SUCCEEDED})

    @staticmethod
    def write_at_most_one_claim(write):
        def written(batch, now):
            return write(msgspec.structs.replace(batch, want=dict.fromkeys(batch.want, 1)), now)

        return written

    def test_a_task_that_ends_has_nothing_claimed_if_no_other_waits(self):
        self.submit()
        running = self.begin()
        wants = []
        self.patch(self.tasks.writer, "want", lambda function, want: wants.append((function, want)))
        self.end(running, Result(Raw(b"1")))
        self.assertEqual(wants, [])

    def test_ended_tasks_are_forgotten_after_a_time(self):
        task = self.submit()
        self.end(self.begin(), Result(Raw(b"1")))
        self.turn(50.0)
        self.assertIsNotNone(self.store.get(task))
        for _ in range(12):
            self.turn(10.0)
        self.assertIsNone(self.store.get(task))

    def test_cancels_of_tasks_in_each_state(self):
        waiting, scheduled = self.submit(), self.submit(delay=9.0)
        answers = []
        self.tasks.cancel(scheduled, answers.append)
        self.tasks.cancel("unknown", answers.append)
        self.turn()
        self.assertEqual(answers, [State.SCHEDULED, None])
        self.assertIs(self.state(scheduled), State.CANCELLED)
        self.tasks.cancel(waiting, answers.append)
        [cancelled] = self.runner.cancelled
        self.end(cancelled, Failure.of(Cancelled("no", was="waiting")))
        self.assertEqual((answers[-1], self.state(waiting)), (State.WAITING, State.CANCELLED))

    def test_waiters_for_a_cancelled_task_are_called(self):
        scheduled = self.submit(delay=9.0)
        ended = []
        self.tasks.waiters.wait(scheduled, lambda state, outcome: ended.append(state))
        stop = self.tasks.waiters.wait(scheduled, lambda state, outcome: self.fail("it waits no longer"))
        stop()
        stop()
        self.tasks.cancel(scheduled, lambda state: None)
        self.turn()
        self.assertEqual(ended, [State.CANCELLED])

    def test_a_stop_leaves_tasks_in_the_store_that_have_not_begun(self):
        task, waiting = self.submit(), self.submit()
        running = self.begin()
        self.tasks.stop_accepting()
        self.assertEqual(self.runner.queue, [])
        self.assertRaises(ShuttingDown, self.tasks.submit, "f", None, Options(), print)
        self.end(running, Failure.of(ShuttingDown("the server shut down")))
        self.assertEqual((self.state(task), self.state(waiting)), (State.WAITING, State.WAITING))
        self.successResultOf(self.tasks.close())
        self.start()
        self.assertEqual(len(self.runner.queue), 2)
        self.assertEqual(self.store.get(task).losses, 0)

    def test_a_task_that_is_refused_at_the_stop_stays_in_the_store(self):
        task = self.submit()
        self.end(self.runner.queue.pop(), Failure.of(ShuttingDown("the server shut down")))
        self.assertIs(self.state(task), State.WAITING)
        self.assertEqual(self.events(task), ["queued"])


class RetryTests(DurableCase):
    retries = 2

    def test_a_failure_is_tried_again_after_a_while(self):
        task = self.submit()
        for _ in range(2):
            self.end(self.begin(), Failure.of(TaskFailed("no", type="ValueError")))
            self.assertIs(self.state(task), State.SCHEDULED)
            self.turn(4.0)
        self.end(self.begin(), Failure.of(TaskFailed("no", type="ValueError")))
        self.assertIs(self.state(task), State.FAILED)
        record = self.store.get(task)
        self.assertEqual((record.attempt, record.errors), (3, 3))
        self.assertEqual(self.events(task).count("retrying"), 2)

    def test_arguments_that_do_not_fit_are_not_tried_again(self):
        task = self.submit()
        self.end(self.begin(), Failure.of(InvalidParams("no")))
        self.assertIs(self.state(task), State.FAILED)

    def test_a_function_may_say_when_it_is_tried_again(self):
        task = self.submit()
        self.make_fail(after=30.0)
        self.assertEqual(self.store.get(task).due, 1030.0)
        self.assertEqual(self.data(task, "retrying")["due"], 1030.0)
        self.turn(29.9)
        self.assertIs(self.state(task), State.SCHEDULED)
        self.turn(0.2)
        self.assertIs(self.state(task), State.WAITING)
        self.make_fail(after=1e300)
        self.assertLess(self.store.get(task).due, 1030.0 + 400 * 86400)

    def test_a_task_that_is_due_again_before_its_failure_is_stored_is_not_forgotten(self):
        task = self.submit()
        self.make_fail(after=0.0)
        self.turn()
        self.assertIs(self.state(task), State.WAITING)

    def test_a_failure_that_is_no_reason_to_try_again_ends_the_task(self):
        task = self.submit()
        self.make_fail(may_retry=False)
        self.assertIs(self.state(task), State.FAILED)
        self.assertEqual(self.store.get(task).errors, 1)

    def test_the_log_has_the_traceback_of_every_attempt_and_the_outcome_has_none(self):
        task = self.submit()
        for number in range(3):
            self.make_fail(f"Traceback {number}", after=0.0)
            self.turn()
        logged = [json.loads(each.data) for each in self.store.events(task, 0, 100) if b"error" in each.data]
        self.assertEqual(
            [each["traceback"] for each in logged], ["Traceback 0", "Traceback 1", "Traceback 2"]
        )
        self.assertEqual({each["error"]["message"] for each in logged}, {"no"})
        self.assertNotIn(b"Traceback", self.store.get(task).outcome)

    def test_callers_get_the_tracebacks_only_if_the_operator_wants_that(self):
        for wanted in False, True:
            self.tasks.log.shows_tracebacks = wanted
            task = self.submit()
            self.make_fail("the trace", may_retry=False)
            page = self.successResultOf(self.tasks.log.read("task", task, 0, 100))
            shown = json.loads(page.events[-1].data)
            self.assertEqual(shown.get("traceback"), "the trace" if wanted else None)
            self.assertEqual(shown["error"]["message"], "no")
            page = self.successResultOf(self.tasks.log.read("task", task, 0, 100, grant=OPERATOR))
            self.assertEqual(json.loads(page.events[-1].data)["traceback"], "the trace")
            self.assertEqual(self.data(task, "failed")["traceback"], "the trace")

    def test_a_task_that_has_run_too_long_is_tried_again_only_if_its_function_wants_that(self):
        task = self.submit()
        self.end(self.begin(), Failure.of(TimedOut("slow", limit="timeout")))
        self.assertIs(self.state(task), State.SCHEDULED)
        durable = Durability.of(durable=True, retries=2, retry_for=(OSError,))
        self.tasks.use([FunctionInfo("f", "f()", "", {}, durable=durable)])
        task = self.submit()
        self.end(self.begin(), Failure.of(TimedOut("slow", limit="timeout")))
        self.assertIs(self.state(task), State.FAILED)


class CurrentTaskTests(DurableCase):
    retries = 1

    def test_each_attempt_knows_the_id_its_number_and_whether_the_one_before_was_lost(self):
        task = self.submit()
        seen = []
        for outcome in Failure.of(WorkerLost("killed")), Failure.of(TaskFailed("no")), Result(Raw(b"1")):
            running = self.begin()
            seen.append((running.call.id, running.call.attempt, running.call.was_interrupted))
            self.end(running, outcome)
            self.turn(4.0)
        self.assertEqual(seen, [(task, 1, False), (task, 2, True), (task, 3, True)])

    def test_a_failure_is_no_interruption_and_a_stop_or_being_put_back_is_one(self):
        task = self.submit()
        self.make_fail(may_retry=True)
        self.turn(4.0)
        running = self.begin()
        self.assertFalse(running.call.was_interrupted)
        for _ in range(3):
            self.tasks.stop_accepting()
            self.end(running, Failure.of(WorkerLost("killed")))
            self.runner = FakeRunner()
            self.start()
            running = self.begin()
            self.assertTrue(running.call.was_interrupted)
        self.assertEqual(self.events(task)[-4:], ["returned", "started", "returned", "started"])
        self.assertEqual(self.store.get(task).losses, 0)
        self.end(running, Failure.of(TaskFailed("no")))
        self.tasks.put_back(task, bool)
        self.turn(4.0)
        self.assertTrue(self.begin().call.was_interrupted)


class OnceTests(DurableCase):
    once = True

    def test_a_task_is_given_to_a_worker_only_after_its_start_is_stored(self):
        self.submit()
        self.assertEqual(len(self.runner.queue), 1)
        self.assertIs(self.state(self.runner.queue[0].subscriber.record.new.id), State.RUNNING)

    def test_few_tasks_are_marked_ahead_of_their_workers(self):
        tasks = [self.submit() for _ in range(AHEAD + 3)]
        self.assertEqual(len(self.runner.queue), AHEAD)
        self.assertIs(self.state(tasks[-1]), State.WAITING)
        self.end(self.begin(), Result(Raw(b"1")))
        self.turn()
        self.assertEqual(len(self.runner.queue), AHEAD)

    def test_a_task_that_ran_when_the_daemon_died_is_not_run_again(self):
        task = self.submit()
        self.begin()
        self.runner.queue.clear()
        self.start()
        self.assertEqual(self.runner.queue, [])
        self.assertEqual((self.state(task), self.store.get(task).losses), (State.FAILED, 1))
        self.assertEqual(self.events(task), ["queued", "started", "failed"])
        self.assertIn(b"not run again", self.store.get(task).outcome)

    def test_a_stop_returns_the_tasks_that_no_worker_has(self):
        tasks = [self.submit() for _ in range(AHEAD + 1)]
        self.tasks.stop_accepting()
        self.turn()
        self.assertEqual({self.state(task) for task in tasks}, {State.WAITING})
        self.assertEqual(self.store.get(tasks[0]).losses, 0)
        self.runner.queue.clear()
        self.start()
        self.assertEqual(len(self.runner.queue), AHEAD)

    def test_a_task_that_is_held_can_be_cancelled(self):
        tasks = [self.submit() for _ in range(AHEAD + 1)]
        answers = []
        self.tasks.cancel(tasks[-1], answers.append)
        self.turn()
        self.assertEqual((self.state(tasks[-1]), answers), (State.CANCELLED, [State.WAITING]))
        self.end(self.begin(), Result(Raw(b"1")))
        self.turn()
        self.assertEqual(len(self.runner.queue), AHEAD - 1)
        self.assertIs(self.state(tasks[-1]), State.CANCELLED)

    def test_a_task_that_runs_once_fails_with_its_process(self):
        task = self.submit()
        self.end(self.begin(), Failure.of(WorkerLost("killed")))
        self.assertIs(self.state(task), State.FAILED)
        self.assertEqual(self.store.get(task).losses, 1)


class StopTests(DurableCase):
    def test_a_stop_waits_only_for_some_time_for_a_store_that_has_failed(self):
        self.submit()
        task = self.begin()

        def fail(batch, now):
            raise StoreError("the disk is full")

        self.store.write = fail
        task.subscriber.task_ended(task.key, Result(Raw(b"1")))
        self.turn()
        self.tasks.stop_accepting()
        closed = self.tasks.close()
        self.turn(1.0)
        self.assertNoResult(closed)
        self.turn(GIVE_UP_SECONDS)
        self.successResultOf(closed)

    def test_a_run_that_has_ended_does_not_keep_its_task_alive(self):
        self.submit()
        task = self.begin()
        self.end(task, Result(Raw(b"1")))
        self.assertIsNone(task.subscriber.task)
