"""Batches: all or nothing, counted, cancelled and waited for as one, with a call at their end."""

import msgspec

from taskd.durable import batch_events, batch_methods, batches
from taskd.errors import Cancelled, ShuttingDown, WorkerLost
from taskd.functions.descriptions import ParameterInfo
from taskd.functions.kinds import Kind
from taskd.model import Failure
from taskd.store.base import StoreError
from taskd.store.batches import NewBatch, Rows
from taskd.store.records import New, State
from tests.unit.durable.test_methods import StoredCase, durable
from tests.unit.durable.test_tasks import DurableCase
from tests.unit.pools import function

NUMBER = ParameterInfo([Kind("integer")], required=True)
ANY = ParameterInfo([Kind("integer"), Kind("string")], passed="more_names")


class BatchCase(StoredCase):
    def setUp(self):
        super().setUp()
        self.make()
        self.load()

    def load(self):
        self.pool.load(
            msgspec.structs.replace(durable("f"), parameters={"more": ANY}),
            msgspec.structs.replace(function("g"), parameters={"n": NUMBER}),
        )
        self.turn()
        self.pool.ready()
        self.turns()

    def submit(self, *rows, function="g", options=None, then=None, token=None):
        client = self.connect()
        params = {"function": function, "args": list(rows), "options": options or {}, "token": token}
        client.call("taskd.submit_batch", params=params | ({"then": then} if then else {}))
        for _ in range(len(rows) + 4):
            self.turns()
        return client.reply()

    def batch(self, batch):
        client = self.connect()
        client.call("taskd.get", params={"batch": batch})
        self.turns()
        return client.reply()

    def counts(self, batch):
        shown = self.batch(batch)
        return shown["state"], shown["done"], shown["failed"], shown["cancelled"], shown["total"]

    def wait(self, batch, **params):
        client = self.connect()
        client.call("taskd.wait", params={"batch": batch, **params})
        self.turns()
        return client


class BatchTests(BatchCase):
    def test_a_batch_has_a_task_for_each_row(self):
        given = self.submit([1], {"n": 2}, [3])
        self.assertEqual((len(given["tasks"]), given["joined"]), (3, False))
        self.assertEqual([each["task"] for each in self.ask("list")], given["tasks"])
        waiting = self.wait(given["batch"])
        self.assertEqual(waiting.received(), [])
        for _ in range(3):
            self.assertEqual(self.batch(given["batch"])["state"], "running")
            self.finish()
        self.assertEqual(self.counts(given["batch"]), ("succeeded", 3, 0, 0, 3))
        self.assertEqual(waiting.reply(), self.batch(given["batch"]))
        self.assertEqual(self.wait(given["batch"]).reply(), self.batch(given["batch"]))

    def test_a_large_batch_is_stored_in_parts(self):
        self.patch(batch_methods, "ROWS_AT_ONCE", 2)
        given = self.submit(*([each] for each in range(7)))
        self.assertEqual(self.store.batches.get(given["batch"]).parts, 4)
        args = [self.store.get(task).new.args for task in given["tasks"]]
        self.assertEqual(args, [b"[%d]" % each for each in range(7)])

    def test_a_wait_ends_after_its_time(self):
        batch = self.submit([1])["batch"]
        client = self.wait(batch, timeout=2.0)
        self.turns(2.0)
        self.assertEqual(client.reply()["state"], "running")

    def test_the_function_at_the_end_gets_the_counts(self):
        given = self.submit([1], then="f")
        self.finish()
        then = self.batch(given["batch"])["then"]
        self.assertEqual(then["function"], "f")
        self.assertEqual(self.ask("get", then["task"])["state"], "running")
        self.assertEqual(
            msgspec.json.decode(self.store.get(then["task"]).new.args),
            {"batch": given["batch"], "done": 1, "failed": 0, "cancelled": 0, "total": 1},
        )
        self.finish()
        self.assertEqual(len(self.ask("list")), 2)

    def test_an_empty_batch_ends_at_once(self):
        given = self.submit(then="f")
        self.assertEqual(self.counts(given["batch"]), ("succeeded", 0, 0, 0, 0))
        self.assertEqual(self.ask("get", self.batch(given["batch"])["then"]["task"])["state"], "running")

    def test_a_token_joins(self):
        first = self.submit([1], [2], token="t")
        self.assertEqual(self.submit([5], token="t"), {**first, "joined": True})
        self.assertEqual(len(self.ask("list")), 2)

    def test_a_delay_is_that_of_each_task(self):
        batch = self.submit([1], options={"delay": 5.0})["batch"]
        self.assertEqual([each["state"] for each in self.ask("list")], ["scheduled"])
        self.turns(5.0)
        self.finish()
        self.assertEqual(self.counts(batch), ("succeeded", 1, 0, 0, 1))

    def test_a_store_that_fails_refuses_batches(self):
        self.fails = True
        self.assertIn("the disk is full", self.submit([1])["message"])
        self.assertIn("the disk is full", self.batch("x")["message"])
        self.assertIn("the disk is full", self.ask("cancel", None, "x")["message"])

    def test_a_batch_that_was_accepted_is_stored_once_the_store_works_again(self):
        self.patch(batch_methods, "ROWS_AT_ONCE", 1)
        add = self.store.batches.add

        def add_and_fail(new, now, allowance):
            self.fails = True
            return add(new, now, allowance)

        self.patch(self.store.batches, "add", add_and_fail)
        client = self.connect()
        client.call("taskd.submit_batch", params=["g", [[1], [2]]])
        self.turns()
        self.assertEqual(client.received(), [])
        self.fails = False
        self.turns(batches.RETRY_SECONDS)
        self.assertEqual(len(client.reply()["tasks"]), 2)
        self.assertEqual(len(self.ask("list")), 2)


class WrongTests(BatchCase):
    def test_wrong_parameters_are_named(self):
        for params, text in (
            ({"function": "none", "args": []}, "no such function: none"),
            ({"function": "g", "args": 5}, "args"),
            ({"function": "g", "args": [], "options": {"key": "k"}}, "the same key"),
            ({"function": "g", "args": [], "then": "none"}, "no such function: none"),
            ({"function": "g", "args": [[1], 5]}, "args[1]: the arguments of a task are"),
            ({"function": "g", "args": [[1], ["x"]]}, "args[1]: argument 'n': expected integer, got string"),
            (
                {"function": "g", "args": [[1]], "then": "g"},
                "then: g is called with the counts of a batch: no",
            ),
            ({"function": "g", "args": [None]}, "args[0]: the arguments of a task are"),
        ):
            client = self.connect()
            client.call("taskd.submit_batch", params=params)
            self.turns()
            error = client.reply()
            self.assertEqual(error["code"], -32602, params)
            self.assertIn(text, error["message"])
        self.assertEqual(self.ask("list"), [])

    def test_a_function_that_cannot_follow_is_named_by_its_place(self):
        client = self.connect()
        client.call("taskd.submit_batch", params={"function": "g", "args": [[1]], "then": "g"})
        self.turns()
        self.assertEqual(client.reply()["data"]["argument"], "then")

    def test_too_many_rows_are_refused(self):
        self.patch(batch_methods, "MAX_ROWS", 2)
        self.assertIn("at most 2 tasks, not 3", self.submit([], [], [])["message"])

    def test_unknown_batches_are_named(self):
        self.assertIn("there is no batch x", self.batch("x")["message"])
        self.assertIn("there is no batch x", self.wait("x").reply()["message"])
        self.assertIn("either a task or a batch", self.ask("get")["message"])
        self.assertIn("there is no task x", self.ask("cancel", None, "x")["message"])


class CancelTests(BatchCase):
    def test_a_cancel_ends_waiting_and_running_tasks(self):
        given = self.submit([1], [2], [3], then="f")
        client = self.connect()
        client.call("taskd.cancel", params={"task": given["batch"]})
        self.turns()
        self.assertEqual(client.received(), [])
        self.assertEqual(self.counts(given["batch"]), ("running", 0, 0, 2, 3))
        self.finish()
        self.turns()
        self.assertEqual(client.reply(), {"was": "running"})
        state, done, failed, cancelled, total = self.counts(given["batch"])
        self.assertEqual((state, failed, done + cancelled, total), ("cancelled", 0, 3, 3))
        self.assertEqual(self.ask("cancel", None, given["batch"]), {"was": "done"})
        self.assertIs(self.store.get(given["tasks"][1]).state, State.CANCELLED)

    def test_tasks_that_are_not_due_are_cancelled_in_steps(self):
        self.patch(batches, "CANCELLED_AT_ONCE", 2)
        given = self.submit(*([each] for each in range(5)), options={"delay": 9.0})
        waiting = self.connect()
        waiting.call("taskd.wait", params=[given["tasks"][4]])
        self.turns()
        self.assertEqual(self.ask("cancel", None, given["batch"]), {"was": "running"})
        self.assertEqual(self.counts(given["batch"]), ("cancelled", 0, 0, 5, 5))
        self.assertEqual(waiting.reply()["state"], "cancelled")


class AttachTests(BatchCase):
    def attach(self, batch, after=0):
        client = self.connect()
        client.call("taskd.attach", params={"batch": batch, "after": after})
        self.turns()
        return client

    def events(self, client):
        events = [each["params"] for each in client.received() if "params" in each]
        return [(each["seq"], each["event"], each["done"]) for each in events]

    def test_progress_is_pushed_at_a_bounded_rate_and_the_end_at_once(self):
        given = self.submit(*([each] for each in range(4)))
        client = self.attach(given["batch"])
        self.assertEqual(client.reply(), {"state": "running", "seq": 0})
        self.finish()
        self.assertEqual(self.events(client), [(1, "progress", 1)])
        self.finish()
        self.finish()
        self.assertEqual(self.events(client), [])
        self.turns(batch_events.PUSH_SECONDS)
        self.assertEqual(self.events(client), [(3, "progress", 3)])
        self.finish()
        self.assertEqual(self.events(client), [(5, "ended", 4)])

    def test_a_later_watcher_gets_the_newest_event_that_it_has_not_seen(self):
        given = self.submit([1], [2])
        self.finish()
        self.assertEqual(self.events(self.attach(given["batch"])), [(1, "progress", 1)])
        self.assertEqual(self.events(self.attach(given["batch"], 1)), [])
        self.finish()
        [answer, event] = self.attach(given["batch"], 1).received()
        self.assertEqual(answer["result"], {"state": "succeeded", "seq": 3})
        self.assertEqual(
            {
                name: event["params"][name]
                for name in ("batch", "event", "done", "failed", "cancelled", "state")
            },
            {
                "batch": given["batch"],
                "event": "ended",
                "done": 2,
                "failed": 0,
                "cancelled": 0,
                "state": "succeeded",
            },
        )

    def test_a_cancel_is_pushed_to_the_watchers_of_each_task(self):
        given = self.submit([1], options={"delay": 9.0})
        client = self.connect()
        client.call("taskd.attach", params={"task": given["tasks"][0]})
        self.turns()
        client.received()
        self.ask("cancel", None, given["batch"])
        [event] = client.received()
        self.assertEqual(event["params"]["event"], "cancelled")

    def test_unknown_batches_cannot_be_watched(self):
        self.assertIn("there is no batch x", self.attach("x").reply()["message"])


class RestartTests(DurableCase):
    """What the last process had begun goes on."""

    def add(self, *rows, then=None, stored=0):
        ids = iter(f"task{number}" for number in range(len(rows)))
        parts = [Rows([next(ids)], [row]) for row in rows]
        new = NewBatch("batch", New("", "f", batch="batch", keep=9.0), parts, then=then, keep=9.0)
        self.store.batches.add(new, 1000.0)
        for _ in range(stored):
            self.store.batches.unpack("batch", 1000.0)

    def restart(self):
        self.runner.queue.clear()
        self.start()

    def test_the_tasks_of_a_batch_that_were_not_stored_yet_are_stored(self):
        self.add(b"[1]", b"[2]", b"[3]", stored=1)
        self.restart()
        self.assertEqual([bytes(task.call.args) for task in self.runner.queue], [b"[1]", b"[2]", b"[3]"])

    def test_a_batch_that_was_being_cancelled_is_cancelled(self):
        self.add(b"[1]", b"[2]", b"[3]", stored=1)
        self.restart()
        self.begin()
        self.store.batches.cancel("batch")
        self.restart()
        for task in self.runner.cancelled:
            self.end(task, Failure.of(Cancelled("no", was="waiting")))
        batch = self.store.batches.get("batch")
        self.assertEqual((batch.state, batch.cancelled), ("cancelled", 3))

    def test_a_task_that_returns_while_its_batch_is_cancelled_does_not_wait_again(self):
        self.add(b"[1]", stored=1)
        self.restart()
        running = self.begin()
        answers = []
        self.tasks.batches.cancel("batch", answers.append)
        self.turn()
        self.assertEqual(self.runner.cancelled, [running])
        self.end(running, Failure.of(WorkerLost("killed")))
        self.assertEqual((self.store.batches.get("batch").state, len(answers)), ("cancelled", 1))

    def test_a_store_that_cannot_be_read_at_the_start_is_asked_again(self):
        self.add(b"[1]", stored=0)
        unended = self.store.batches.unended
        fails = iter([True])

        def unended_later():
            if next(fails, False):
                raise StoreError("the disk is gone")
            return unended()

        self.patch(self.store.batches, "unended", unended_later)
        self.restart()
        self.assertEqual(self.runner.queue, [])
        self.turn(batches.RETRY_SECONDS)
        self.assertEqual(len(self.runner.queue), 1)

    def test_nothing_is_begun_after_a_stop(self):
        self.add(b"[1]", stored=0)
        self.tasks.stop_accepting()
        self.assertRaises(ShuttingDown, self.tasks.batches.add, NewBatch("x", New("", "f"), []), print)
        self.restart()
        self.assertEqual(len(self.runner.queue), 1)
