"""The writer of a store: one transaction at a time, with everything that has come meanwhile."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable import writer as writer_module
from taskd.durable.writer import RETRY_SECONDS, RIDE_SECONDS, StoreWriter
from taskd.errors import Busy
from taskd.store.base import StoreError
from taskd.store.memory import MemoryStore
from taskd.store.records import Event, New, Settle, Start, State, Tick, first_seq


class WriterCase(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.store = MemoryStore()
        self.running = []
        self.claims = []
        self.answers = []
        self.writer = StoreWriter(
            self.store,
            self.execute,
            self.clock,
            lambda: 1000.0,
            lambda claims, wants: self.claims.extend(claims),
        )

    def execute(self, function):
        """Keep a function until `commit`, as a thread would that is busy."""
        deferred = Deferred()
        self.running.append((function, deferred))
        return deferred

    def commit(self):
        """Run what the thread was given, and let the reactor have its turn."""
        self.clock.advance(0)
        [(function, deferred)] = self.running
        self.running = []
        deferred.callback(function())

    def make_fail(self, error):
        self.clock.advance(0)
        [(_, deferred)] = self.running
        self.running = []
        deferred.errback(error)

    def submit(self, task, **changes):
        self.writer.submit(New(task, "f", b"[1]", keep=9.0, **changes), self.answers.append)


class WriterTests(WriterCase):
    def test_a_late_event_of_a_task_leaves_its_end_what_it_is(self):
        self.submit("1")
        self.commit()
        self.writer.start(Start("1", 1))
        self.commit()
        ends = []
        self.writer.event(Event("1", 1, "progress", 1000.0))  # whose number is that of an earlier event
        self.writer.settle(Settle("1", 1, State.SUCCEEDED, "succeeded"), ends.append)
        self.commit()
        self.assertEqual(ends, [True])
        self.assertIs(self.store.get("1").state, State.SUCCEEDED)

    def test_changes_that_come_while_a_transaction_runs_are_written_by_the_next_one(self):
        self.submit("1")
        self.clock.advance(0)
        self.submit("2")
        self.submit("3")
        self.assertEqual(len(self.running), 1)
        self.commit()
        self.assertEqual([each.id for each in self.answers], ["1"])
        self.commit()
        self.assertEqual([each.id for each in self.answers], ["1", "2", "3"])
        self.clock.advance(0)
        self.assertEqual(self.running, [])

    def test_all_kinds_are_written_together_and_each_is_answered(self):
        self.submit("1")
        self.writer.want("f", 5)
        self.commit()
        self.assertEqual([each.new.id for each in self.claims], ["1"])
        started, settled, cancelled, put_back = [], [], [], []
        self.writer.start(Start("1", 1), started.append)
        self.writer.event(Event("1", first_seq(1) + 1, "progress", 1000.0))
        self.writer.settle(Settle("1", 1, State.FAILED, "failed", outcome=b"{}"), settled.append)
        self.writer.settle(Settle("other", 1, State.FAILED, "failed"), settled.append)
        self.writer.cancel("other", cancelled.append)
        self.writer.put_back("1", put_back.append)
        self.commit()
        self.assertEqual((started, settled), ([True], [True, False]))
        self.assertEqual((cancelled, put_back), ([None], [State.FAILED]))
        self.assertEqual(
            [each.event for each in self.store.events("1", 0, 9)],
            ["queued", "started", "progress", "failed", "queued"],
        )

    def test_a_store_that_fails_refuses_submits_and_forgets_no_end(self):
        self.submit("1")
        self.writer.want("f", 5)
        self.commit()
        self.writer.start(Start("1", 1))
        self.submit("2")
        settled = []
        self.writer.settle(Settle("1", 1, State.SUCCEEDED, "succeeded", outcome=b"1"), settled.append)
        self.make_fail(StoreError("the disk is full"))
        self.assertEqual(str(self.answers[1]), "the disk is full")
        self.assertEqual((settled, self.writer.fault), ([], "the disk is full"))
        error = self.assertRaises(Busy, self.submit, "3")
        self.assertIn("the disk is full", error.message)
        self.clock.advance(RETRY_SECONDS)
        self.make_fail(StoreError("the disk is full"))
        self.clock.advance(RETRY_SECONDS)
        self.commit()
        self.assertEqual((settled, self.writer.fault), ([True], None))
        self.assertIs(self.store.get("1").state, State.SUCCEEDED)
        self.submit("3")
        self.commit()
        self.assertEqual(self.answers[-1].id, "3")

    def test_a_store_that_has_failed_is_tried_again_though_nothing_waits_to_be_written(self):
        answers = []
        self.writer.cancel("1", answers.append)
        self.make_fail(StoreError("the disk is full"))
        self.assertEqual(str(answers[0]), "the disk is full")
        self.clock.advance(RETRY_SECONDS)
        self.make_fail(StoreError("the disk is still full"))
        self.assertEqual(self.writer.fault, "the disk is still full")
        self.assertRaises(Busy, self.submit, "1")
        self.clock.advance(RETRY_SECONDS)
        self.commit()
        self.assertIsNone(self.writer.fault)
        self.submit("1")
        self.commit()
        self.assertEqual(self.answers[0].id, "1")
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual(self.running, [])

    def test_a_store_that_has_failed_does_not_hold_up_the_end_if_nothing_waits_for_it(self):
        self.writer.cancel("1", bool)
        self.writer.want("f", 5)
        self.make_fail(StoreError("the disk is full"))
        self.clock.advance(RETRY_SECONDS)
        self.clock.advance(0)
        self.writer.want("g", 5)
        flushed = self.writer.flushed()
        self.make_fail(StoreError("the disk is full"))
        self.clock.advance(RETRY_SECONDS)
        self.successResultOf(flushed)
        self.assertEqual(self.running, [])

    def test_a_bug_of_a_store_is_logged_and_treated_like_a_failure(self):
        self.submit("1")
        self.make_fail(RuntimeError("a bug"))
        self.assertIsInstance(self.answers[0], StoreError)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_new_tasks_that_wait_are_bounded_in_bytes(self):
        self.patch(writer_module, "MAX_PENDING", 100)
        self.writer.submit(New("1", "f", b"x" * 90), self.answers.append)
        self.assertRaises(Busy, self.writer.submit, New("2", "f", b"x" * 20), self.answers.append)
        self.commit()
        self.writer.submit(New("2", "f", b"x" * 20), self.answers.append)
        self.commit()
        self.assertEqual(len(self.answers), 2)

    def test_a_transaction_has_a_bounded_number_of_new_tasks(self):
        self.patch(writer_module, "MAX_BATCH", 2)
        for number in range(3):
            self.submit(str(number))
        self.commit()
        self.assertEqual(len(self.answers), 2)
        self.commit()
        self.assertEqual(len(self.answers), 3)

    def test_a_start_and_an_end_that_nobody_waits_for_are_written_with_the_next_submit(self):
        self.submit("1")
        self.writer.want("f", 5)
        self.commit()
        noted = []
        self.writer.start(Start("1", 1), noted.append, may_wait=True)
        self.writer.settle(Settle("1", 1, State.SUCCEEDED, "succeeded"), noted.append, may_wait=True)
        self.clock.advance(RIDE_SECONDS / 2)
        self.assertEqual(self.running, [])
        self.submit("2")
        self.commit()
        self.assertEqual((noted, self.answers[-1].id), ([True, True], "2"))
        self.clock.advance(RIDE_SECONDS)
        self.assertEqual(self.running, [])

    def test_a_start_that_may_wait_does_so_for_a_moment_only(self):
        self.submit("1")
        self.writer.want("f", 5)
        self.clock.advance(0)
        noted = []
        self.writer.start(Start("1", 1), noted.append, may_wait=True)
        self.commit()
        self.assertEqual(self.running, [])
        self.clock.advance(RIDE_SECONDS)
        self.commit()
        self.assertEqual(noted, [True])

    def test_a_start_that_may_wait_does_not_at_a_stop(self):
        self.writer.start(Start("1", 1), may_wait=True)
        flushed = self.writer.flushed()
        self.commit()
        self.successResultOf(flushed)

    def test_the_clock_is_set_between_two_transactions_and_moves_what_waits(self):
        calls = []
        self.writer.between(lambda: calls.append("idle"))
        self.submit("1")
        self.clock.advance(0)
        self.writer.submit(New("2", "f", due=5000.0), self.answers.append)
        self.writer.submit(New("3", "f", due=5000.0, is_fixed=True), self.answers.append)
        self.writer.tick(Tick("f", "every 5 s", 900.0), self.answers.append)
        self.writer.tick(Tick("g", "0 3 * * *", 900.0), self.answers.append)
        self.writer.between(lambda: calls.append(self.writer.move(3600.0, ["f"])))
        self.assertEqual(calls, ["idle"])
        self.commit()
        self.assertEqual(calls, ["idle", None])
        self.commit()
        self.assertEqual([self.store.get(task).due for task in "23"], [8600.0, 5000.0])
        ticks = self.store.last_ticks()
        self.assertEqual((ticks["f"].at, ticks["g"].at), (4500.0, 900.0))

    def test_a_clock_that_was_set_is_written_once_the_store_works_again(self):
        self.writer.submit(New("1", "f", due=5000.0), self.answers.append)
        self.commit()
        self.writer.settle(Settle("none", 1, State.SCHEDULED, "retrying", due=5000.0), self.answers.append)
        self.writer.move(60.0, [])
        self.make_fail(StoreError("the disk is full"))
        self.clock.advance(RETRY_SECONDS)
        self.commit()
        self.assertEqual(self.store.get("1").due, 5060.0)

    def test_flushed_fires_when_everything_is_written(self):
        self.successResultOf(self.writer.flushed())
        self.submit("1")
        flushed = self.writer.flushed()
        self.clock.advance(0)
        self.submit("2")
        self.commit()
        self.assertNoResult(flushed)
        self.commit()
        self.successResultOf(flushed)
