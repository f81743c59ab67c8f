"""The list of the functions, which each caller gets as far as its token goes."""

import json

from msgspec import Raw

from taskd.errors import NotAllowed
from taskd.listeners.covered_functions import covered
from taskd.model import Failure, Grant, Result
from tests.unit.listeners.test_gate import GateCase, rpc
from tests.unit.pools import LoggingCase


class ListTests(GateCase):
    def names(self, client):
        client.call("taskd.functions")
        return [each["name"] for each in client.reply()]

    def test_a_caller_sees_the_functions_that_its_token_covers(self):
        everything = ["f", "g", "tenants", "any"]
        for token, expected in (
            ("alice", ["f"]),
            ("narrow", ["f"]),
            ("bob", everything),
            ("root", everything),
            ("watcher", everything),
        ):
            self.assertEqual(self.names(self.let_in(token)), expected, token)

    def test_a_covered_function_is_described_in_full(self):
        narrow, bob = self.let_in("narrow"), self.let_in("bob")
        for client in narrow, bob:
            client.call("taskd.functions")
        self.assertEqual(narrow.reply(), bob.reply()[:1])

    def test_each_list_of_a_batch_is_cut(self):
        client = self.let_in("alice")
        client.send([rpc(1, "taskd.functions"), rpc(2, "taskd.ping"), rpc(3, "taskd.functions")])
        [replies] = client.received()
        results = {each["id"]: each["result"] for each in replies}
        self.assertEqual(results[2], "pong")
        for number in 1, 3:
            self.assertEqual([each["name"] for each in results[number]], ["f"])

    def test_a_list_that_is_asked_for_before_the_import_is_cut_too(self):
        self.make(functions=self.functions(), loaded=False, verifier=self.verifier)
        client = self.let_in("alice")
        client.call("taskd.functions")
        self.assertEqual(client.received(), [])
        self.pool.load(*self.functions())
        self.turn()
        self.assertEqual([each["name"] for each in client.reply()], ["f"])

    def test_a_caller_that_is_gone_before_the_import_gets_nothing(self):
        self.make(functions=self.functions(), loaded=False, verifier=self.verifier)
        client = self.let_in("alice")
        client.call("taskd.functions")
        client.disconnect()
        self.pool.load(*self.functions())
        self.turn()
        self.assertEqual(client.received(), [])

    def test_a_notification_has_no_answer(self):
        client = self.let_in("alice")
        client.send(rpc(None, "taskd.functions"))
        self.assertEqual(client.received(), [])
        self.assertFalse(self.has_logged("the list"))

    def test_an_operator_sees_what_is_covered_for_those_that_it_speaks_for(self):
        root = self.let_in("root")
        grant = {"owner": "bob", "functions": ["t*", "g"]}
        root.call("taskd.functions", caller="owner bob 1", grant=grant)
        self.assertEqual([each["name"] for each in root.reply()], ["g", "tenants"])


class CoveredTests(LoggingCase):
    def setUp(self):
        super().setUp()
        self.make()

    def test_failures_stay_what_they_are(self):
        failure = Failure.of(NotAllowed("no"))
        self.assertIs(covered(failure, Grant(functions=())), failure)

    def test_an_answer_that_is_no_list_of_functions_is_not_shown(self):
        for text in (b"null", b"{}", b'[{"nom":"f"}]', b'[{"name":1}]', b"[1]"):
            outcome = covered(Result(Raw(text)), Grant(functions=("f",)))
            self.assertEqual(outcome.code, -32603, text)
        self.assertTrue(self.has_logged("the list of functions cannot be read"))
        self.flushLoggedErrors()

    def test_nothing_is_left_of_a_list_of_which_nothing_is_covered(self):
        text = json.dumps([{"name": "f"}, {"name": "g"}]).encode()
        for functions, expected in (((), []), (("x",), []), (("g",), [{"name": "g"}])):
            outcome = covered(Result(Raw(text)), Grant(functions=functions))
            self.assertEqual(json.loads(bytes(outcome.value)), expected)
