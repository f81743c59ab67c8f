"""Stored tasks of paused functions, and those put back by hand: pause, resume, retry."""

from msgspec import Raw
from twisted.internet.defer import execute

from taskd.durable.tasks import DurableTasks
from taskd.errors import TaskFailed, WorkerLost
from taskd.functions.durability import Durability
from taskd.functions.registry import FunctionInfo
from taskd.model import Failure, Options, Result
from taskd.store.base import StoreError
from taskd.store.records import State
from tests.unit.durable.test_methods import StoredCase
from tests.unit.durable.test_tasks import DurableCase


class PauseTests(DurableCase):
    def pause(self, *, paused=True):
        was = self.successResultOf(self.tasks.pauses.pause("f", paused=paused))
        self.turn()
        return was

    def test_nothing_of_a_paused_function_is_started(self):
        first, second = self.submit(), self.submit()
        running = self.begin()
        self.assertFalse(self.pause())
        self.assertTrue(self.pause())
        self.assertEqual(self.runner.queue, [])
        third = self.submit()
        self.submit("g")
        self.assertEqual([task.call.function for task in self.runner.queue], ["g"])
        self.runner.queue.clear()
        self.end(running, Result(Raw(b"1")))
        self.assertIs(self.state(first), State.SUCCEEDED)
        self.assertEqual(self.runner.queue, [])
        self.assertTrue(self.pause(paused=False))
        ids = [task.subscriber.record.new.id for task in self.runner.queue]
        self.assertEqual(ids, [second, third])

    def test_a_claim_in_flight_at_the_pause_is_put_back(self):
        delayed = []
        self.tasks = DurableTasks(
            self.clock, self.runner, self.store, lambda call: delayed.append(execute(call)) or delayed[-1],
            lambda: 1000.0 + self.clock.seconds(),
        )  # fmt: skip
        self.tasks.use([FunctionInfo("f", "f()", "", {}, durable=Durability())])
        self.turn()
        self.tasks.submit("f", None, Options(), lambda accepted: None)
        self.tasks.pauses.pause("f", paused=True)
        self.turn()
        self.assertEqual(self.runner.queue, [])
        self.pause(paused=False)
        self.assertEqual(len(self.runner.queue), 1)

    def test_a_pause_survives_a_restart(self):
        task = self.submit()
        self.pause()
        self.start()
        self.assertEqual(self.tasks.paused, {"f"})
        self.assertEqual(self.runner.queue, [])
        self.pause(paused=False)
        self.assertEqual([each.subscriber.record.new.id for each in self.runner.queue], [task])
        self.start()
        self.assertEqual(self.tasks.paused, frozenset())

    def test_a_paused_task_that_is_tried_again_waits(self):
        task = self.submit()
        running = self.begin()
        self.pause()
        self.end(running, Failure.of(WorkerLost("killed")))
        self.assertIs(self.state(task), State.WAITING)
        self.assertEqual(self.runner.queue, [])

    def test_a_paused_task_can_be_cancelled(self):
        task = self.submit()
        self.pause()
        answers = []
        self.tasks.cancel(task, answers.append)
        self.turn()
        self.assertEqual((answers, self.state(task)), ([State.WAITING], State.CANCELLED))


class PutBackTests(DurableCase):
    def test_a_failed_task_runs_again(self):
        task = self.submit()
        self.end(self.begin(), Failure.of(TaskFailed("no", type="ValueError")))
        answers = []
        self.tasks.put_back(task, answers.append)
        self.turn()
        self.assertEqual(answers, [State.FAILED])
        self.end(self.begin(), Result(Raw(b"1")))
        self.assertIs(self.state(task), State.SUCCEEDED)
        self.assertEqual(self.events(task), ["queued", "started", "failed", "queued", "started", "succeeded"])


class MethodTests(StoredCase):
    def setUp(self):
        super().setUp()
        self.make()
        self.load()

    def fail_task(self):
        [number] = [number for number, worker in self.pool.workers.items() if worker.attempts]
        self.pool.fail(number)
        self.turns()

    def test_a_pause_that_cannot_be_stored_is_refused(self):
        def broken(function, *, paused):
            raise error

        self.store.pause = broken
        error = StoreError("the disk is full")
        self.assertIn("the disk is full", self.ask("pause", "f")["message"])
        error = ZeroDivisionError()
        self.assertEqual(self.ask("pause", "f")["code"], -32603)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)  # where the answer points
        self.assertEqual(self.tasks.paused, frozenset())

    def test_a_function_is_paused_and_resumed(self):
        self.assertEqual(self.ask("pause", "f"), {"was": "running"})
        self.assertEqual(self.ask("pause", "f"), {"was": "paused"})
        self.assertEqual(self.ask("status")["store"]["paused"], ["f"])
        client = self.connect()
        client.call("f")
        self.turns()
        self.assertEqual([each["state"] for each in self.ask("list")], ["waiting"])
        self.assertEqual(self.ask("resume", "f"), {"was": "paused"})
        self.finish()
        self.assertEqual(client.reply(), 1)
        self.assertEqual(self.ask("resume", "f"), {"was": "running"})

    def test_a_function_that_is_gone_can_be_resumed(self):
        self.ask("pause", "f")
        self.server.stored.use([])
        self.assertEqual(self.ask("resume", "f"), {"was": "paused"})

    def test_a_task_that_failed_is_put_back(self):
        task = self.ask("submit", "g", [1])["task"]
        self.fail_task()
        self.assertEqual(self.ask("retry", task), {"was": "failed"})
        self.finish()
        self.assertEqual(self.ask("get", task)["state"], "succeeded")

    def test_other_states_are_not_put_back(self):
        scheduled = self.ask("submit", "g", [], {"delay": 9})["task"]
        self.assertIn("starts by itself", self.ask("retry", scheduled)["message"])
        running = self.ask("submit", "g")["task"]
        waiting = self.ask("submit", "g")["task"]
        self.assertIn("waits already", self.ask("retry", waiting)["message"])
        error = self.ask("retry", running)
        self.assertEqual((error["code"], error["data"]), (-32008, {"state": "running"}))
        self.finish()
        self.assertIn("has succeeded", self.ask("retry", running)["message"])
        self.assertIn("there is no task none", self.ask("retry", "none")["message"])

    def test_a_task_whose_key_another_has_is_not_put_back(self):
        task = self.ask("submit", "g", [], {"key": "k"})["task"]
        self.fail_task()
        self.ask("submit", "g", [], {"key": "k"})
        error = self.ask("retry", task)
        self.assertEqual(error["code"], -32008)
        self.assertIn("another unfinished task of g has the key k", error["message"])

    def test_wrong_functions_and_a_store_that_fails_are_errors(self):
        for method in ("pause", "resume"):
            self.assertIn("no such function: none", self.ask(method, "none")["message"])
        self.fails = True
        for method, what in (("pause", "f"), ("resume", "f"), ("retry", "none")):
            self.assertIn("the disk is full", self.ask(method, what)["message"])
        self.assertEqual(self.ask("status")["store"]["paused"], [])
