"""Stored tasks of functions that need labels: run by the nodes that have them, refused if nobody can have."""

from twisted.internet.defer import fail, succeed

from taskd.functions.durability import Durability
from taskd.functions.schedule import Schedule
from taskd.store.base import StoreError
from taskd.store.nodes import NodeInfo, NodeRow
from tests.unit.durable.test_methods import StoredCase
from tests.unit.pools import function

EVERY = Schedule.of(None, 60.0, None, None, durable=True)

RENDER = function("render", needs=("gpu",), durable=Durability())
DRAW = function("draw", needs=("gpu",))
SEND = function("send")


def node(number, *functions, **more):
    return NodeRow(number, NodeInfo(functions=functions), 0.0, 0.0, **more)


class Others:
    """The other nodes of a store that is shared, as far as labels concern them."""

    node = 1

    def __init__(self):
        self.rows = []
        self.fault = None

    def nodes(self):
        return succeed(self.rows) if self.fault is None else fail(self.fault)


class LabelCase(StoredCase):
    is_shared = True
    labels = ()

    def setUp(self):
        super().setUp()
        self.make(labels=self.labels)
        self.others = Others()
        if self.is_shared:
            self.tasks.elsewhere = self.others
        self.load()

    def load(self, *functions):
        self.pool.load(*functions or (RENDER, DRAW, SEND))
        self.turn()
        self.pool.ready()
        self.turns()

    def call(self, name, **options):
        client = self.connect()
        client.call(name, **options)
        self.turns()
        return client

    def runs(self):
        return [attempt.function for worker in self.pool.workers.values() for attempt in worker.attempts]


class OwnStoreTests(LabelCase):
    is_shared = False

    def test_a_submit_is_refused_since_nobody_could_run_it(self):
        for method, params in (
            ("submit", ["render"]),
            ("submit", ["draw"]),
            ("submit_batch", ["render", [[], []]]),
            ("submit_batch", ["send", [[]], {}, "draw"]),
        ):
            refused = self.ask(method, *params)
            self.assertEqual((refused["code"], refused["data"]["reason"]), (-32008, "labels"))
            self.assertIn("--label gpu", refused["message"])
        self.assertEqual(self.ask("list"), [])

    def test_so_is_an_ordinary_call(self):
        for name, options in (("render", {}), ("render", {"track": True}), ("draw", {"track": True})):
            refused = self.call(name, **options).reply()
            self.assertEqual((refused["code"], refused["data"]["missing"]), (-32008, ["gpu"]))
        self.assertEqual(self.ask("list"), [])

    def test_a_task_of_an_earlier_start_waits_and_shows_why(self):
        before, self.tasks.elsewhere = self.tasks.elsewhere, self.others
        task = self.ask("submit", "render")["task"]
        self.tasks.elsewhere = before
        why = self.ask("why", task)
        self.assertEqual((why["state"], why["missing"]), ("waiting", ["gpu"]))
        self.assertIn("the label gpu, which this node does not have: start it with --label", why["reason"])
        self.assertNotIn("nodes", why)
        self.assertEqual(self.runs(), [])

    def test_a_schedule_has_no_tasks_that_nobody_runs(self):
        nightly = function("nightly", needs=("gpu",), durable=Durability(), schedule=EVERY)
        daily = function("daily", durable=Durability(), schedule=EVERY)
        self.load(nightly, daily)
        self.turns(61.0)
        self.assertEqual([each["function"] for each in self.ask("list")], ["daily"])
        self.assertEqual([each["function"] for each in self.ask("status")["schedules"]], ["daily"])


class SharedStoreTests(LabelCase):
    def test_a_submit_is_stored_and_left_to_the_nodes_that_have_the_label(self):
        tasks = [self.ask("submit", name)["task"] for name in ("render", "draw")]
        batch = self.ask("submit_batch", "render", [[], []])["batch"]
        self.turns(5.0)
        self.assertEqual(self.runs(), [])
        self.assertEqual([self.ask("get", task)["state"] for task in tasks], ["waiting"] * 2)
        self.assertEqual(self.ask("get", None, batch)["total"], 2)
        self.assertEqual(self.ask("status")["store"]["claimed"], 0)

    def test_ordinary_calls_of_durable_functions_are_stored_and_others_refused(self):
        self.assertEqual(self.call("render").received(), [])
        self.assertEqual(self.call("draw", track=True).reply()["joined"], False)
        refused = self.call("draw").reply()
        self.assertEqual(refused["data"]["reason"], "labels")
        self.assertIn("submit it (taskd.submit)", refused["message"])
        self.assertEqual(sorted(each["function"] for each in self.ask("list")), ["draw", "render"])
        self.assertEqual(self.runs(), [])

    def test_why_names_the_nodes_that_run_it(self):
        task = self.ask("submit", "render")["task"]
        for rows, nodes, text in (
            ([node(2), node(3, "render"), node(5, "render")], [3, 5], "nodes that run it: 3, 5"),
            ([node(2), node(3, "render", drain=True)], [], "all nodes that run it are drained: 3"),
            ([node(2, "send")], [], "no other node runs it either: start one with --label gpu"),
        ):
            self.others.rows = rows
            why = self.ask("why", task)
            self.assertEqual((why["missing"], why["nodes"]), (["gpu"], nodes))
            self.assertTrue(why["reason"].startswith("it needs the label gpu, which this node does not have"))
            self.assertTrue(why["reason"].endswith(text), why["reason"])

    def test_why_does_not_ask_for_nodes_without_need_and_answers_if_the_store_fails(self):
        send = self.ask("submit", "send")["task"]
        render = self.ask("submit", "render")["task"]
        self.others.fault = StoreError("no server")
        self.assertIn("attempt 1 is running", self.ask("why", send)["reason"])
        self.assertIn("no server", self.ask("why", render)["message"])

    def test_a_schedule_has_its_tasks_for_others(self):
        self.load(function("nightly", needs=("gpu",), durable=Durability(), schedule=EVERY))
        self.turns(61.0)
        [task] = self.ask("list")
        self.assertEqual((task["function"], task["state"]), ("nightly", "waiting"))

    def test_new_code_that_needs_a_label_gives_back_what_waits(self):
        self.load(function("render", durable=Durability()))
        tasks = [self.ask("submit", "render")["task"] for _ in range(3)]
        self.turns()
        self.assertEqual(self.ask("status")["store"]["claimed"], 3)
        self.load(RENDER)
        self.turns()
        self.assertEqual(self.ask("status")["store"]["claimed"], 1)  # that the worker has
        self.assertIn("needs the label gpu", self.ask("why", tasks[-1])["reason"])
        self.load(function("render", durable=Durability()))
        self.assertEqual(self.ask("status")["store"]["claimed"], 3)


class LabelledTests(LabelCase):
    is_shared = False
    labels = ("gpu",)

    def test_a_node_with_the_label_runs_them(self):
        task = self.ask("submit", "render")["task"]
        self.assertEqual(self.runs(), ["render"])
        self.finish()
        self.assertEqual(self.ask("get", task)["state"], "succeeded")
        self.call("draw")
        self.assertEqual(self.runs(), ["draw"])
