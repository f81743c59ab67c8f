"""A daemon's part in a store that is shared: what it shows of the nodes, and how it drains them."""

from twisted.internet.defer import execute

from taskd.durable import opening
from taskd.durable.opening import StoreChoice
from taskd.durable.start import StorePart
from taskd.functions.durability import Durability
from taskd.store.base import Changes
from taskd.store.memory import MemoryStore
from taskd.store.nodes import Beat, Hint, NodeInfo, NodeRow
from taskd.store.records import New, State
from tests.unit.durable.test_node import FakeNodes
from tests.unit.pools import ServerCase, function


class SharedNodes(FakeNodes):
    """Nodes that list themselves as the store has them."""

    def __init__(self, store):
        super().__init__(store)
        self.beat = Beat(5000.0)
        self.info = None

    def now(self):
        return 5000.0

    def renew(self, info, lost=b"null", *, rescues=True):
        self.info = info
        return super().renew(info, lost, rescues=rescues)

    def rows(self):
        return [
            NodeRow(2, NodeInfo("far:1", "0.1", ["render"], labels=["gpu"], workers=4), 4000.0, 4990.0, 5),
            NodeRow(self.node, self.info, 4990.0, 5000.0, drain=self.beat.drain),
        ]


class SharedStore(MemoryStore):
    """A store in memory that passes for one of several nodes."""

    def __init__(self):
        super().__init__()
        self.nodes = SharedNodes(self)


class Inline:
    """Stands for the thread of a store."""

    def __init__(self, reactor, name="store"):
        pass

    def execute(self, function):
        return execute(function)

    def end(self):
        pass


class SharedCase(ServerCase):
    def setUp(self):
        super().setUp()
        self.store = SharedStore()
        self.patch(opening, "open_store", lambda description: self.store)
        self.patch(opening, "StoreThread", Inline)
        self.make(loaded=False, labels=["big"])
        part = StorePart(self.clock, self.server, StoreChoice("postgres:"))
        self.addCleanup(part.close)
        once = Durability(once=True)
        self.pool.load(
            function("send", durable=once), function("render", needs=("gpu",), durable=once), function("ping")
        )
        self.turn()
        self.pool.ready()
        self.pass_time(3.0)

    def pass_time(self, seconds):
        for _ in range(int(seconds * 10)):
            self.turn(0.1)

    def ask(self, method, **params):
        client = self.connect()
        client.call(f"taskd.{method}", params)
        self.pass_time(1.0)
        return client.reply()


class SharedNodesTests(SharedCase):
    def test_hints_of_others_come_from_a_thread(self):
        calls = []
        self.clock.callFromThread = lambda function, *arguments: calls.append((function, arguments))
        self.store.write(Changes(submits=[New("t", "send", b"[]", due=5000.0)]), 5000.0)
        self.store.nodes.hint(Hint(functions=["send"]))
        self.assertIs(self.store.get("t").state, State.WAITING)
        [(function, arguments)] = calls
        function(*arguments)
        self.turn()
        self.assertIs(self.store.get("t").state, State.RUNNING)

    def test_the_status_has_why_nobody_can_wake_the_node(self):
        self.assertIsNone(self.server.status().store.polls)
        self.store.nodes.polls = "a pooler is in between"
        self.assertEqual(self.server.status().store.polls, "a pooler is in between")

    def test_a_node_shows_the_functions_that_it_can_run_and_its_labels(self):
        info = self.store.nodes.info
        self.assertEqual((list(info.functions), list(info.once)), (["send", "ping"], ["send"]))
        self.assertEqual((list(info.labels), info.workers, info.is_draining), (["big"], 1, False))

    def test_the_nodes_are_listed(self):
        other, own = self.ask("nodes")
        self.assertEqual((other["node"], other["labels"], other["functions"]), (2, ["gpu"], ["render"]))
        self.assertEqual((other["claimed"], other["workers"], other["this"]), (5, 4, False))
        self.assertGreaterEqual(other["seen_ago"], 10.0)
        self.assertEqual((own["node"], own["this"], own["draining"]), (3, True, False))
        self.assertEqual(self.ask("status")["store"]["node"], 3)

    def test_a_task_that_needs_a_label_shows_who_runs_it(self):
        task = self.ask("submit", function="render")["task"]
        self.assertIn("nodes that run it: 2", self.ask("why", task=task)["reason"])

    def test_this_node_is_drained_and_is_not_ready(self):
        self.assertEqual(self.ask("drain"), {"draining": True, "node": 3})
        self.assertEqual(self.server.unready().reason, "draining")
        self.assertTrue(self.store.nodes.info.is_draining)
        self.assertTrue(self.ask("nodes")[1]["draining"])
        self.assertEqual(self.ask("drain", node=3, drained=False), {"draining": False, "node": 3})
        self.assertIsNone(self.server.unready())

    def test_another_node_is_drained_and_that_is_noted(self):
        self.assertEqual(self.ask("drain", node=2), {"draining": True, "node": 2})
        self.assertIsNone(self.server.unready())
        refused = self.ask("drain", node=100)
        self.assertEqual((refused["code"], refused["data"]["argument"]), (-32602, "node"))
        self.ask("drain", drained=False)
        noted = [(each["action"], each.get("text")) for each in self.ask("audit")["entries"]]
        self.assertEqual(noted, [("undrain", "node 3"), ("drain", "node 2")])

    def test_a_drained_node_leaves_to_others_the_tasks_that_wait(self):
        first, second = (self.ask("submit", function="ping")["task"] for _ in range(2))
        self.ask("drain")
        self.assertEqual(self.store.get(second).attempt, 0)
        self.assertEqual(self.ask("status")["store"]["claimed"], 1)
        self.assertEqual(self.ask("get", task=first)["state"], "running")
