"""The nodes as operators see them: a server whose store is its own, and what is shown of several."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.server.nodes import NodeView
from taskd.store.nodes import NodeInfo, NodeRow
from tests.unit.pools import function
from tests.unit.server.test_operation import OperationCase


class OnlyNodeTests(OperationCase):
    def test_a_server_with_a_store_of_its_own_is_the_only_node(self):
        self.make(most=2, labels=["b", "a"], functions=[function("f"), function("g", needs=("gpu",))])
        self.connect().call("f")
        [node] = self.ask("nodes")
        self.assertEqual((node["node"], node["this"], node["draining"]), (None, True, False))
        self.assertEqual((node["labels"], node["functions"]), (["a", "b"], ["f"]))
        self.assertEqual((node["workers"], node["running"], node["claimed"]), (1, 1, 0))
        self.assertEqual(node["seen_ago"], 0.0)
        self.ask("drain")
        self.assertTrue(self.ask("nodes")[0]["draining"])

    def test_it_can_drain_no_other(self):
        self.make()
        refused = self.ask("drain", {"node": 3})
        self.assertEqual((refused["code"], refused["data"]["argument"]), (-32602, "node"))
        self.assertIn("shared with no other", refused["message"])
        self.assertIsNone(self.server.unready())
        self.assertEqual(self.actions(), [])


class NodeViewTests(SynchronousTestCase):
    def test_a_node_is_drained_if_it_shows_so_or_somebody_wants_that(self):
        for is_draining, drain, shown in ((False, False, False), (True, False, True), (False, True, True)):
            row = NodeRow(3, NodeInfo(is_draining=is_draining), 100.0, 105.0, 7, drain)
            view = NodeView.of(row, 106.5, 3)
            self.assertEqual((view.node, view.draining, view.this), (3, shown, True))
            self.assertEqual((view.started, view.seen_ago, view.claimed), (100.0, 1.5, 7))

    def test_no_node_was_seen_in_the_future(self):
        view = NodeView.of(NodeRow(3, NodeInfo(), 100.0, 105.0), 104.0, 4)
        self.assertEqual((view.seen_ago, view.this), (0.0, False))
