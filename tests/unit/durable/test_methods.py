"""The methods about stored tasks, and ordinary calls of durable functions, over a connection."""

import msgspec
from twisted.internet.defer import execute

from taskd.durable import writer as writer_module
from taskd.durable.methods import StoredMethods
from taskd.durable.tasks import DurableTasks
from taskd.functions.descriptions import ParameterInfo
from taskd.functions.durability import Durability
from taskd.store.base import StoreError
from taskd.store.memory import MemoryStore
from tests.unit.pools import ServerCase, function


def durable(name):
    return msgspec.structs.replace(function(name), durable=Durability())


def takes_anything(name):
    values = ParameterInfo([], passed="more_positions")
    return msgspec.structs.replace(function(name), parameters={"values": values})


class StoredCase(ServerCase):
    def make(self, **more):
        super().make(loaded=False, **more)
        self.patch(writer_module, "RIDE_SECONDS", 0.0)
        self.store = MemoryStore()
        self.fails = False
        self.tasks = DurableTasks(self.clock, self.server, self.store, self.execute, self.clock.seconds)
        self.server.stored = StoredMethods(self.clock, self.tasks, lambda: self.server.functions)
        return self.server

    def execute(self, call):
        if self.fails:
            return execute(self.fail_to_write)
        return execute(call)

    def fail_to_write(self):
        raise StoreError("the disk is full")

    def load(self):
        self.pool.load(durable("f"), takes_anything("g"))
        self.turn()
        self.pool.ready()
        self.turns()

    def turns(self, seconds=0.0):
        self.turn(seconds)
        for _ in range(4):
            self.turn()

    def finish(self):
        [number] = [number for number, worker in self.pool.workers.items() if worker.attempts]
        self.pool.finish(number)
        self.turns()

    def ask(self, method, *params):
        client = self.connect()
        client.call(f"taskd.{method}", params=list(params))
        self.turns()
        return client.reply()


class CallTests(StoredCase):
    def test_a_call_of_a_durable_function_is_stored_and_answered_when_it_has_ended(self):
        self.make()
        self.load()
        client = self.connect()
        client.call("f", params=[1])
        self.turns()
        self.assertEqual(client.received(), [])
        self.assertEqual([each["state"] for each in self.ask("list")], ["running"])
        self.finish()
        self.assertEqual(client.reply(), 1)
        self.assertEqual([each["state"] for each in self.ask("list", "succeeded", "f")], ["succeeded"])
        client.call("g")
        self.finish()
        self.assertEqual(len(self.ask("list")), 1)

    def test_a_call_of_a_durable_function_gets_its_progress(self):
        self.make()
        self.load()
        client, silent = self.connect(), self.connect()
        client.call("f", progress=True)
        self.turns()
        [number] = [number for number, worker in self.pool.workers.items() if worker.attempts]
        self.pool.report(number, 1, 2)
        [report] = client.received()
        self.assertEqual(report["params"], {"id": 1, "done": 1, "total": 2})
        self.finish()
        self.assertEqual(client.reply(), 1)
        silent.call("f")
        self.turns()
        self.pool.report(number, 1, 2)
        self.assertEqual(silent.received(), [])

    def test_a_task_is_shown_with_its_arguments_if_they_are_asked_for(self):
        self.make()
        self.load()
        for args in ([1, {"a": None}],), ():
            task = self.ask("submit", "g", *args)["task"]
            self.assertNotIn("args", self.ask("get", task))
            self.assertEqual([self.ask("get", task, None, True)["args"]], [*args] or [[]])

    def test_calls_that_come_before_the_import_are_stored_after_it(self):
        self.make()
        client, gone = self.connect(), self.connect()
        client.call("f")
        client.call("none")
        gone.call("f")
        gone.disconnect()
        self.load()
        self.assertEqual(client.reply()["code"], -32601)
        self.finish()
        self.finish()
        self.assertEqual(client.reply(), 1)
        self.assertEqual([each["state"] for each in self.ask("list")], ["succeeded"] * 2)

    def test_a_call_that_cannot_be_stored_is_refused(self):
        self.make()
        self.load()
        self.fails = True
        client = self.connect()
        client.call("f")
        self.turns()
        self.assertEqual(client.reply()["code"], -32004)
        client.call("f")
        error = client.reply()
        self.assertIn("the disk is full", error["message"])
        self.assertEqual(self.ask("status")["store"]["fault"], "the disk is full")

    def test_a_tracked_call_is_answered_with_the_id_of_its_task(self):
        self.make()
        self.load()
        for name in ("f", "g"):
            client = self.connect()
            client.call(name, params=[1], track=True, priority=2)
            self.turns()
            answer = client.reply()
            self.assertEqual(answer["joined"], False)
            self.assertEqual(self.ask("get", answer["task"])["state"], "running")
            self.finish()
            self.assertEqual(self.ask("wait", answer["task"])["result"], 1)

    def test_a_tracked_call_depends_on_no_connection(self):
        self.make()
        self.load()
        for option in ({"progress": True}, {"on_disconnect": "cancel"}):
            client = self.connect()
            client.call("g", track=True, **option)
            self.assertIn("mean nothing", client.reply()["message"])

    def test_a_tracked_call_that_cannot_be_stored_is_refused(self):
        self.make()
        self.load()
        self.fails = True
        client = self.connect()
        client.call("g", track=True)
        self.turns()
        self.assertIn("the disk is full", client.reply()["message"])

    def test_a_call_that_is_not_started_in_time_expires(self):
        self.make(least=1)
        self.load()
        client, other = self.connect(), self.connect()
        other.call("g")
        client.call("f", deadline=3)
        self.turns()
        self.turns(3.0)
        self.assertEqual(client.reply()["code"], -32001)
        self.assertEqual([each["state"] for each in self.ask("list")], ["expired"])

    def test_a_task_without_an_outcome_is_an_error_for_its_caller(self):
        self.make(least=1)
        self.load()
        client, other = self.connect(), self.connect()
        other.call("g")
        client.call("f")
        self.turns()
        [task] = self.ask("list")
        self.assertEqual(self.ask("cancel", None, task["task"]), {"was": "waiting"})
        self.turns()
        self.assertEqual(client.reply()["code"], -32002)


class StopTests(StoredCase):
    def test_the_caller_of_a_durable_function_that_is_not_started_any_more_is_answered(self):
        self.make()
        self.load()
        self.ask("pause", "f")
        client = self.connect()
        client.call("f")
        self.turns()
        self.tasks.stop_accepting()
        self.turns()
        error = client.reply()
        self.assertEqual(error["code"], -32005)
        self.assertIn("is left for its next start", error["message"])


class SubmitTests(StoredCase):
    def setUp(self):
        super().setUp()
        self.make()
        self.load()

    def test_a_task_is_known_by_its_id(self):
        task = self.ask("submit", "g", [1])["task"]
        self.assertEqual(self.ask("get", task)["state"], "running")
        client = self.connect()
        client.call("taskd.wait", params=[task])
        self.turns()
        self.assertEqual(client.received(), [])
        self.finish()
        shown = client.reply()
        self.assertEqual((shown["task"], shown["state"], shown["result"]), (task, "succeeded", 1))
        self.assertEqual(self.ask("wait", task), shown)

    def test_all_who_wait_for_the_same_task_are_answered(self):
        task = self.ask("submit", "g", [1])["task"]
        clients = [self.connect() for _ in range(3)]
        for client in clients:
            client.call("taskd.wait", params=[task])
        self.turns()
        self.finish()
        self.assertEqual([client.reply()["state"] for client in clients], ["succeeded"] * 3)

    def test_a_wait_ends_after_its_time(self):
        task = self.ask("submit", "g")["task"]
        client = self.connect()
        client.call("taskd.wait", params=[task, 2.0])
        self.turns()
        self.turns(2.0)
        self.assertEqual(client.reply()["state"], "running")

    def test_a_stop_keeps_nobody_waiting_for_what_does_not_end_before_it(self):
        running = self.ask("submit", "g", [1])["task"]
        later = self.ask("submit", "g", [], {"delay": 60})["task"]
        batch = self.ask("submit_batch", "g", [[1]], {"delay": 60})["batch"]
        clients = [self.connect() for _ in range(3)]
        clients[0].call("taskd.wait", params=[running])
        clients[1].call("taskd.wait", params=[later])
        clients[2].call("taskd.wait", params={"batch": batch})
        self.turns()
        self.tasks.stop_accepting()
        self.turns()
        self.assertEqual(clients[0].received(), [])
        self.assertEqual([client.reply()["code"] for client in clients[1:]], [-32005, -32005])
        for method in ["wait", later], ["wait", None, None, batch]:
            self.assertEqual(self.ask(*method)["code"], -32005)
        self.finish()
        self.assertEqual(clients[0].reply()["state"], "succeeded")
        self.assertEqual(self.ask("wait", running)["state"], "succeeded")

    def test_a_wait_ends_at_once_when_it_is_cancelled_and_the_task_goes_on(self):
        task = self.ask("submit", "g")["task"]
        client = self.connect()
        wait = client.call("taskd.wait", params=[task])
        self.turns()
        cancel = client.call("taskd.cancel", params={"id": wait})
        self.turns()
        ended, cancelled = client.received()
        self.assertEqual((ended["id"], ended["result"]["state"]), (wait, "running"))
        self.assertEqual((cancelled["id"], cancelled["result"]), (cancel, {"was": "done"}))

    def test_a_wait_whose_caller_is_gone_leaves_nothing_behind(self):
        task = self.ask("submit", "g")["task"]
        client = self.connect()
        client.call("taskd.wait", params=[task, 60.0])
        self.turns()
        before = len(self.clock.getDelayedCalls())
        client.disconnect()
        self.turns()
        self.assertEqual(len(self.clock.getDelayedCalls()), before - 1)

    def test_wrong_parameters_are_named(self):
        for method, params, text in (
            ("submit", ["none"], "no such function: none"),
            ("submit", ["g", 5], "args is an object or an array"),
            ("submit", ["g", [], {"delay": -1}], "delay"),
            (
                "submit",
                ["g", [], {"later": 1}],
                "unknown field `later`; there may be: timeout, priority, delay,",
            ),
            ("submit", ["g", [], {"at": "2026-12-24T18:00:00"}], "at has no zone"),
            ("submit", ["g", [], {"at": "2026-12-24T18:00:00Z", "delay": 1}], "not both"),
            ("submit", ["g", [], {}, ""], "'token': Expected `str` of length >= 1"),
            ("submit", ["g", [], {}, "t" * 201], "'token': Expected `str` of length <= 200"),
            ("get", ["none"], "there is no task none"),
            ("wait", ["none"], "there is no task none"),
            ("list", ["asleep"], "a state is one of"),
            ("list", [None, None, "", 0], "limit is 1 to 1000"),
            ("list", [None, None, "", 9, None, None, ""], "like is the beginning or the end of an id"),
        ):
            error = self.ask(method, *params)
            self.assertEqual(error["code"], -32602, (method, params))
            self.assertIn(text, error["message"])

    def test_tasks_are_listed_by_their_keys_and_by_parts_of_their_ids(self):
        first = self.ask("submit", "g", [], {"key": "a"})["task"]
        second = self.ask("submit", "g", [], {"key": "b", "delay": 9})["task"]
        for batch, key, like, expected in (
            (None, "b", None, [second]),
            ("none", None, None, []),
            (None, None, first, [first]),
            (None, None, second[-12:], [second]),
            (None, None, first[:6], [first, second]),
            (None, "a", second[-12:], []),
        ):
            found = self.ask("list", None, None, "", 9, batch, key, like)
            self.assertEqual([each["task"] for each in found], expected, (batch, key, like))

    def test_an_option_beyond_its_bounds_is_named_with_them(self):
        for option, argument, expected in (
            ({"delay": -1}, "options.delay", "float >= 0.0"),
            ({"delay": 1e300}, "options.delay", "float <= 3153600000.0"),
            ({"key": ""}, "options.key", "str of length >= 1"),
        ):
            data = self.ask("submit", "g", [], option)["data"]
            self.assertEqual((data["argument"], data["expected"]), (argument, expected))

    def test_a_list_has_no_results_and_may_be_of_batches(self):
        task = self.ask("submit", "g", [1])["task"]
        self.finish()
        self.assertIn("result", self.ask("get", task))
        self.assertEqual(
            [(each["state"], "result" in each) for each in self.ask("list")], [("succeeded", False)]
        )
        added = self.ask("submit_batch", "g", [[1], [2]])
        self.assertEqual(
            [each.get("batch") for each in self.ask("list")], [None, added["batch"], added["batch"]]
        )
        for like in (None, added["batch"][-9:]):
            [batch] = self.ask("list", None, None, "", 9, None, None, like, True)
            self.assertEqual((batch["batch"], batch["total"]), (added["batch"], 2))
        self.assertEqual(self.ask("list", None, None, added["batch"], 9, None, None, None, True), [])
        wrong = self.ask("list", "failed", None, "", 9, None, None, None, True)
        self.assertEqual(wrong["data"], {"argument": "batches"})

    def test_batches_are_listed_from_the_newest_on_a_page_at_a_time(self):
        added = [self.ask("submit_batch", "g", [[number]])["batch"] for number in range(5)]
        pages, edge = [], ""
        while page := self.ask("list", None, None, "", 2, None, None, None, True, None, None, True, edge):
            pages.append([each["batch"] for each in page])
            edge = pages[-1][-1]
        self.assertEqual(pages, [added[:2:-1], added[2:0:-1], added[:1]])
        oldest = self.ask("list", None, None, "", 2, None, None, None, True)
        self.assertEqual([each["batch"] for each in oldest], added[:2])

    def test_the_id_of_a_batch_is_not_taken_for_an_unknown_task(self):
        batch = self.ask("submit_batch", "g", [[1]])["batch"]
        for method in ("get", "wait", "why", "retry"):
            self.assertIn(f"{batch} is a batch, not a task", self.ask(method, batch)["message"])

    def test_arguments_that_cannot_fit_are_refused(self):
        for args in ([1, 2], {"n": 1}, [], None):
            answer = self.ask("submit", "f", *([] if args is None else [args]))
            if args:
                self.assertEqual((answer["code"], answer["data"]["argument"]), (-32602, "args"))
            else:
                self.assertIn("task", answer)

    def test_stored_tasks_are_cancelled_by_their_ids(self):
        scheduled = self.ask("submit", "g", [], {"delay": 9})["task"]
        running = self.ask("submit", "g")["task"]
        self.assertEqual(self.ask("cancel", None, scheduled), {"was": "scheduled"})
        self.assertEqual(self.ask("cancel", None, scheduled), {"was": "done"})
        self.assertEqual(self.ask("cancel", None, "none")["code"], -32602)
        self.finish()
        self.assertEqual(self.ask("cancel", None, running), {"was": "done"})

    def test_a_store_that_cannot_be_read_is_an_error(self):
        self.fails = True
        for method, params in (("get", ["x"]), ("list", []), ("cancel", [None, "x"]), ("submit", ["g"])):
            self.assertIn("the disk is full", self.ask(method, *params)["message"])

    def test_the_status_has_the_store(self):
        self.ask("submit", "g")
        self.assertEqual(
            self.ask("status")["store"],
            {"lasting": False, "claimed": 1, "fault": None, "paused": [], "node": None, "polls": None},
        )


class NoStoreTests(ServerCase):
    def test_without_a_store_the_methods_are_refused(self):
        self.make()
        client = self.connect()
        client.call("taskd.list")
        self.assertEqual(client.reply()["code"], -32008)
        client.call("g", track=True)
        self.assertEqual(client.reply()["code"], -32008)
