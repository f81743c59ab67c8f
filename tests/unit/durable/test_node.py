"""One node of many: what it follows, what it ends when its lease is lost, and what it reads of the others."""

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred, execute

from taskd.durable.cancels import FENCE_GRACE
from taskd.durable.elsewhere import Elsewhere
from taskd.durable.node import POLL_SECONDS, STALLED_SECONDS, Node
from taskd.durable.pace import LEAST, Pace
from taskd.errors import Cancelled, WorkerLost
from taskd.model import Failure, Result
from taskd.store.base import Changes, StoreError
from taskd.store.batches import NewBatch, Rows
from taskd.store.nodes import Beat, NodeInfo
from taskd.store.records import ENDED, New, Settle, Start, State, first_seq
from tests.unit.durable.test_tasks import DurableCase, Watcher


class FakeNodes:
    """The nodes of a store in memory, of which the others are played by the test."""

    def __init__(self, store):
        self.store = store
        self.node = 3
        self.beat = Beat(1000.0)
        self.fault = None
        self.reads = 0
        self.drained = []
        self.others = []

    def renew(self, info, lost=b"null", *, rescues=True):
        if self.fault is not None:
            raise self.fault
        return self.beat

    def rejoin(self):
        self.node += 10
        self.beat = Beat(1000.0)

    def rows(self):
        return self.others

    def drain(self, node, *, drain):
        if self.fault is not None:
            raise self.fault
        self.drained.append((node, drain))
        if node == self.node:
            self.beat = msgspec.structs.replace(self.beat, drain=drain)
        return node < 100

    def last_seqs(self, tasks):
        self.reads += 1
        if self.fault is not None:
            raise self.fault
        found = ((task, self.store.get(task)) for task in tasks)
        return {task: record.last_seq for task, record in found if record is not None}

    def ends(self, tasks):
        found = [self.store.get(task) for task in tasks]
        return [record for record in found if record is not None and record.state in ENDED]


class NodeCase(DurableCase):
    def start(self):
        super().start()
        self.nodes = FakeNodes(self.store)
        self.drains = []
        tasks = self.tasks
        elsewhere = Elsewhere(
            self.clock, self.store, self.nodes, execute, tasks.hub, tasks.waiters, tasks.batches, tasks.runs
        )
        self.node = Node(
            self.clock,
            tasks,
            self.nodes,
            execute,
            execute,
            elsewhere,
            NodeInfo,
            lambda now, asked: None,
            self.drains.append,
        )
        self.node.start()
        self.turn()

    def pass_time(self, seconds):
        for _ in range(int(seconds * 10)):
            self.turn(0.1)

    def elsewhere(self, **changes):
        """Have another node change the store."""
        return self.store.write(Changes(**changes), 1000.0 + self.clock.seconds())

    def submit_elsewhere(self, name="t", function="other", **more):
        self.elsewhere(submits=[New(name, function, b"[1]", **more)])
        return name

    def start_elsewhere(self, task):
        record = self.store.get(task)
        self.elsewhere(want={record.new.function: 1}, starts=[Start(task, record.attempt + 1)])

    def end_elsewhere(self, task, state=State.SUCCEEDED, event="succeeded"):
        attempt = self.store.get(task).attempt
        settle = Settle(task, attempt, state, event, outcome=b'"done"', seq=first_seq(attempt) + 5)
        self.elsewhere(settles=[settle])


class FollowingTests(NodeCase):
    def test_tasks_that_others_have_stored_are_claimed(self):
        self.submit_elsewhere(function="f")
        self.pass_time(2 * POLL_SECONDS)
        self.assertEqual(len(self.runner.queue), 1)

    def test_pauses_of_others_are_followed(self):
        self.submit()
        self.nodes.beat = Beat(0.0, paused=["f"])
        self.pass_time(2.5)
        self.assertEqual((self.runner.queue, self.tasks.paused), ([], {"f"}))
        self.nodes.beat = Beat(0.0)
        self.pass_time(2.5)
        self.assertEqual(len(self.runner.queue), 1)

    def test_cancels_of_others_reach_the_worker(self):
        task = self.submit()
        running = self.begin()
        self.nodes.beat = Beat(0.0, cancelled=[task, "unknown"])
        self.pass_time(2.5)
        self.assertEqual(self.runner.cancelled, [running])

    def test_rescued_tasks_are_claimed_at_once(self):
        self.node.stop()
        self.submit_elsewhere(function="f")
        self.pass_time(2.5)
        self.assertEqual(self.runner.queue, [])
        self.nodes.beat = Beat(0.0, rescued=1)
        self.pass_time(2.5)
        self.assertEqual(len(self.runner.queue), 1)

    def test_a_drain_is_passed_on_once(self):
        self.submit()
        self.nodes.beat = Beat(0.0, drain=True)
        self.pass_time(5)
        self.assertEqual((self.drains, self.runner.queue), ([True], []))
        self.nodes.beat = Beat(0.0)
        self.pass_time(5)
        self.assertEqual((self.drains, len(self.runner.queue)), ([True, False], 1))

    def test_a_drained_node_that_was_fenced_stays_drained(self):
        self.nodes.beat = Beat(0.0, drain=True)
        self.pass_time(3)
        self.node.fence()
        self.node.joined()
        self.submit_elsewhere(function="f")
        self.pass_time(2)
        self.assertEqual(self.runner.queue, [])

    def test_a_node_that_is_drained_here_claims_nothing_at_once_and_is_marked_in_the_store(self):
        self.submit()
        self.assertTrue(self.successResultOf(self.node.drain(3, drained=True)))
        self.assertEqual((self.drains, self.runner.queue, self.nodes.drained), ([True], [], [(3, True)]))
        self.submit_elsewhere(function="f")
        self.pass_time(3)
        self.assertEqual(self.runner.queue, [])
        self.assertTrue(self.successResultOf(self.node.drain(3, drained=False)))
        self.turn()
        self.assertEqual(len(self.runner.queue), 2)

    def test_a_drain_that_was_asked_for_here_may_be_undone_elsewhere(self):
        self.node.drain(3, drained=True)
        self.pass_time(3)
        self.nodes.drain(3, drain=False)
        self.submit_elsewhere(function="f")
        self.pass_time(3)
        self.assertEqual((self.drains[-1], len(self.runner.queue)), (False, 1))

    def test_another_node_is_drained_in_the_store_alone(self):
        self.submit()
        self.assertTrue(self.successResultOf(self.node.drain(4, drained=True)))
        self.assertFalse(self.successResultOf(self.node.drain(100, drained=True)))
        self.pass_time(3)
        self.assertEqual((self.drains, len(self.runner.queue)), ([], 1))

    def test_a_drain_that_the_store_cannot_note_has_its_effect_here(self):
        self.nodes.fault = StoreError("no server")
        self.failureResultOf(self.node.drain(3, drained=True), StoreError)
        self.submit_elsewhere(function="f")
        self.pass_time(1)
        self.assertEqual((self.drains, self.runner.queue), ([True], []))

    def test_a_drained_node_with_a_new_number_stays_drained(self):
        self.node.drain(3, drained=True)
        self.pass_time(3)
        self.nodes.beat = Beat(0.0, is_mine=False)
        self.submit_elsewhere(function="f")
        self.pass_time(3)
        self.flushLoggedErrors()
        self.assertEqual((self.node.number, self.nodes.drained), (13, [(3, True), (13, True)]))
        self.assertEqual((self.drains[-1], self.runner.queue), (True, []))

    def test_a_drain_that_is_undone_while_the_lease_is_lost_claims_nothing_before_it_is_back(self):
        self.node.drain(3, drained=True)
        self.pass_time(3)
        self.nodes.fault = StoreError("no server")
        self.submit_elsewhere(function="f")
        self.pass_time(10)
        self.failureResultOf(self.node.drain(3, drained=False), StoreError)
        self.turn()
        self.flushLoggedErrors()
        self.assertEqual(self.runner.queue, [])

    def test_a_closed_node_asks_nothing(self):
        self.node.close()
        self.pass_time(1)
        self.tasks.waiters.wait(self.submit_elsewhere(), lambda *_: None)
        self.nodes.reads = 0
        self.pass_time(2)
        self.assertEqual(self.nodes.reads, 0)


class PaceTests(NodeCase):
    def setUp(self):
        super().setUp()
        self.tasks.window.pace = Pace(self.clock)

    def test_a_slow_node_leaves_tasks_to_others(self):
        for number in range(2 * LEAST):
            self.submit_elsewhere(f"{number}", function="f")
        self.pass_time(5)
        self.assertEqual(len(self.runner.queue), LEAST)

    def test_a_quick_one_claims_those_of_a_fifth_of_a_second(self):
        for number in range(1000):
            self.submit_elsewhere(f"{number:03}", function="f")
        self.pass_time(1)
        most = 0
        for _ in range(4):
            for _ in range(2):  # all that it has, in a twentieth of a second each
                most = max(most, len(self.runner.queue))
                for _ in range(len(self.runner.queue)):
                    self.end(self.begin(), Result(Raw(b"1")))
                self.turn(0.05)
        self.assertGreater(most, 4 * LEAST)

    def test_the_pace_is_that_of_the_last_tenth_of_a_second(self):
        pace = self.tasks.window.pace
        for _ in range(100):
            pace.ended()
        self.assertEqual(pace.size, LEAST)
        self.turn(0.1)
        self.assertEqual(pace.size, 200)
        self.turn(0.1)
        self.assertEqual(pace.size, LEAST)


class FenceTests(NodeCase):
    def lose(self):
        self.nodes.fault = StoreError("no server")
        self.pass_time(10)
        self.flushLoggedErrors()

    def find(self):
        self.nodes.fault = None
        self.pass_time(1)

    def test_waiting_tasks_are_given_back_and_running_ones_ended_soon(self):
        first, second = self.submit(), self.submit()
        running = self.begin()
        graces = []
        self.runner.cancel = lambda task, grace: graces.append((task, grace))
        self.lose()
        self.assertEqual((self.runner.queue, graces), ([], [(running, FENCE_GRACE)]))
        self.end(running, Failure.of(Cancelled("stopped", was="running")))
        self.assertIs(self.state(first), State.WAITING)
        self.assertEqual(self.events(first), ["queued", "started", "returned"])
        self.pass_time(1)
        self.assertEqual(self.runner.queue, [])  # nothing is claimed
        self.find()
        self.assertEqual(len(self.runner.queue), 2)
        self.assertEqual(self.store.get(second).attempt, 0)

    def test_a_result_that_comes_all_the_same_is_stored(self):
        task = self.submit()
        running = self.begin()
        self.lose()
        self.end(running, Result(Raw(b"1")))
        self.assertIs(self.state(task), State.SUCCEEDED)

    def test_a_claim_that_comes_after_the_fence_is_given_back(self):
        self.lose()
        record = self.store.get(self.submit_elsewhere(function="f"))
        self.elsewhere(want={"f": 1})
        self.tasks._claimed([record], {"f": 1})
        self.turn()
        self.assertEqual(self.runner.queue, [])
        self.find()
        self.assertEqual(len(self.runner.queue), 1)

    def test_a_node_that_was_taken_for_dead_joins_anew(self):
        self.submit()
        running = self.begin()
        self.nodes.beat = Beat(0.0, is_mine=False)
        self.pass_time(3)
        self.flushLoggedErrors()
        self.assertEqual(self.runner.cancelled, [running])
        self.submit_elsewhere("u", function="f")
        self.pass_time(2)
        self.assertEqual(len(self.runner.queue), 1)

    def test_the_end_of_a_task_that_is_another_nodes_by_now_is_dropped(self):
        task = self.submit()
        running = self.begin()
        self.end_elsewhere(task)
        self.end(running, Failure.of(WorkerLost("killed")))
        self.assertIs(self.state(task), State.SUCCEEDED)

    def test_a_start_that_is_not_its_own_ends_the_attempt(self):
        task = self.submit()
        self.elsewhere(cancels=[task])
        running = self.begin()
        self.assertEqual(self.runner.cancelled, [running])


class OnceFenceTests(FenceTests):
    once = True

    def test_waiting_tasks_are_given_back_and_running_ones_ended_soon(self):
        task = self.submit()
        running = self.begin()
        self.lose()
        self.end(running, Failure.of(Cancelled("stopped", was="running")))
        self.assertIs(self.state(task), State.FAILED)
        self.assertIn(b"lost its store", self.store.get(task).outcome)

    def test_a_start_that_is_not_its_own_ends_the_attempt(self):
        self.submit()
        self.assertEqual(self.runner.cancelled, [])

    def test_a_marked_task_without_a_worker_is_given_back(self):
        task = self.submit()
        self.lose()
        self.assertEqual((self.runner.queue, self.events(task)), ([], ["queued", "started", "returned"]))

    def test_a_task_that_is_about_to_start_is_not_given_to_a_worker(self):
        pending = []
        self.tasks._execute = lambda function: pending.append((function, Deferred())) or pending[-1][1]
        self.tasks.writer._execute = self.tasks._execute
        self.submit_elsewhere(function="f")
        self.pass_time(1)
        function, fires = pending.pop(0)
        fires.callback(function())  # it is claimed, and its start is being stored
        self.turn()
        self.node.fence()
        while pending:
            function, fires = pending.pop(0)
            fires.callback(function())
            self.turn()
        self.assertEqual(self.runner.queue, [])
        self.assertEqual(self.events("t"), ["queued", "started", "returned"])


class ElsewhereTests(NodeCase):
    def test_the_end_of_a_task_that_another_node_runs(self):
        ends = []
        task = self.submit_elsewhere()
        self.tasks.waiters.wait(task, lambda state, outcome: ends.append((state, outcome)))
        self.start_elsewhere(task)
        self.pass_time(1)
        self.assertEqual(ends, [])
        self.end_elsewhere(task)
        self.pass_time(1)
        self.assertEqual(ends, [(State.SUCCEEDED, b'"done"')])

    def test_the_events_of_a_task_that_another_node_runs(self):
        seen = []
        task = self.submit_elsewhere()
        self.tasks.hub.attach(Watcher(seen), "task", task, 0, lambda page: None)
        self.turn()
        self.start_elsewhere(task)
        self.pass_time(1)
        self.end_elsewhere(task)
        self.pass_time(1)
        self.assertEqual(seen, ["queued", "started", "succeeded"])

    def test_tasks_that_this_node_runs_are_not_read(self):
        task = self.submit()
        self.tasks.waiters.wait(task, lambda *_: None)
        self.tasks.hub.attach(Watcher([]), "task", task, 0, lambda page: None)
        self.pass_time(2)
        self.assertEqual(self.nodes.reads, 0)

    def test_a_cancel_has_its_receipt_when_the_task_has_ended_at_another_node(self):
        answers = []
        task = self.submit_elsewhere()
        self.start_elsewhere(task)
        self.tasks.cancel(task, answers.append)
        self.pass_time(1)
        self.assertEqual(answers, [])
        self.end_elsewhere(task, State.CANCELLED, "cancelled")
        self.pass_time(1)
        self.assertEqual(answers, [State.RUNNING])

    def test_batches_that_other_nodes_run(self):
        rows = Rows(["b1", "b2"], [b"[1]", b"[2]"])
        self.store.batches.add(NewBatch("b", New("", "other", batch="b"), [rows]), 1000.0)
        self.store.batches.unpack("b", 1000.0)
        seen, ends = [], []
        self.tasks.batches.wait("b", lambda: ends.append("b"))
        self.tasks.hub.attach(Watcher(seen), "batch", "b", 0, lambda page: None)
        for task in ("b1", "b2"):
            self.start_elsewhere(task)
            self.end_elsewhere(task)
            self.pass_time(1)
        self.assertEqual((seen, ends), (["progress", "ended"], ["b"]))

    def test_a_store_that_cannot_be_read_is_read_again(self):
        ends = []
        task = self.submit_elsewhere()
        self.tasks.waiters.wait(task, lambda state, _: ends.append(state))
        self.start_elsewhere(task)
        self.end_elsewhere(task)
        self.nodes.fault = StoreError("no server")
        self.pass_time(1)
        self.assertEqual(ends, [])
        self.nodes.fault = ValueError("a bug")
        self.pass_time(1)
        self.flushLoggedErrors(ValueError)
        self.nodes.fault = None
        self.pass_time(1)
        self.flushLoggedErrors()
        self.assertEqual(ends, [State.SUCCEEDED])

    def test_one_look_at_a_time(self):
        pending = []
        self.node._elsewhere._read = lambda function: pending.append(Deferred()) or pending[-1]
        self.tasks.waiters.wait(self.submit_elsewhere(), lambda *_: None)
        self.pass_time(5)
        self.assertEqual(len(pending), 1)
        pending[0].errback(StoreError("no server"))
        self.pass_time(1)
        self.assertEqual(len(pending), 2)


class StalledBatchTests(NodeCase):
    def add(self, name="b", size=4):
        parts = [Rows([f"{name}{n}"], [b"[1]"]) for n in range(size)]
        self.store.batches.add(NewBatch(name, New("", "other", batch=name), parts), 1000.0)

    def test_a_batch_that_a_node_has_accepted_and_not_stored_is_stored(self):
        self.add()
        self.pass_time(2 * STALLED_SECONDS + 1)
        self.assertTrue(self.store.batches.get("b").is_stored)

    def test_a_batch_that_goes_on_is_left_alone(self):
        self.add()
        for stored in range(3):
            self.assertEqual(self.store.batches.get("b").stored, stored)
            self.store.batches.unpack("b", 1000.0)
            self.pass_time(STALLED_SECONDS)

    def test_a_cancel_that_was_not_finished_is_finished(self):
        self.add()
        for _ in range(4):
            self.store.batches.unpack("b", 1000.0)
        self.store.batches.cancel("b")
        self.pass_time(2 * STALLED_SECONDS + 1)
        self.assertEqual(self.store.batches.get("b").state, "cancelled")

    def test_a_stopped_node_begins_nothing(self):
        self.add()
        self.node.stop()
        self.pass_time(3 * STALLED_SECONDS)
        self.assertEqual(self.store.batches.get("b").stored, 0)
