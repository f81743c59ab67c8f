"""Ordinary calls of durable functions, which are cancelled as any others."""

import msgspec

from taskd.functions.durability import Durability
from taskd.functions.retries import Verdict
from tests.unit.durable.test_methods import StoredCase
from tests.unit.pools import function


class CancelTests(StoredCase):
    def setUp(self):
        super().setUp()
        self.make(least=1)
        retried = msgspec.structs.replace(function("f"), durable=Durability(retries=2, backoff=100.0))
        self.pool.load(retried, function("g"))
        self.turn()
        self.pool.ready()
        self.turns()

    def call(self, **options):
        client = self.connect()
        client.send({"jsonrpc": "2.0", "id": 1, "method": "f", "options": options})
        self.turns()
        return client

    def cancel(self, client):
        client.send({"jsonrpc": "2.0", "id": 2, "method": "taskd.cancel", "params": {"id": 1}})
        self.turns()
        return {each["id"]: each for each in client.received()}

    def the_state(self):
        [task] = self.ask("list")
        return task["state"]

    def test_a_call_that_runs_is_stopped_and_both_requests_are_answered(self):
        client = self.call()
        self.assertEqual(self.cancel(client), {})
        self.pool.stop_task(1)
        self.turns()
        answers = {each["id"]: each for each in client.received()}
        self.assertEqual(answers[1]["error"]["code"], -32002)
        self.assertEqual(answers[2]["result"]["was"], "running")
        self.assertEqual(self.the_state(), "cancelled")

    def test_a_call_that_waits_is_not_started(self):
        self.connect().call("g")
        client = self.call()
        answers = self.cancel(client)
        self.assertEqual(answers[1]["error"]["data"], {"was": "waiting"})
        self.assertEqual(answers[2]["result"], {"was": "waiting"})
        self.assertEqual(self.the_state(), "cancelled")

    def test_a_call_that_waits_for_its_next_attempt_has_none(self):
        client = self.call()
        self.pool.fail(1, verdict=Verdict(may_retry=True))
        self.turns()
        self.assertEqual(self.the_state(), "scheduled")
        answers = self.cancel(client)
        self.assertEqual(answers[1]["error"]["code"], -32002)
        self.assertEqual(answers[2]["result"], {"was": "waiting"})
        self.turns(200.0)
        self.assertEqual(self.the_state(), "cancelled")

    def test_a_call_is_cancelled_with_its_connection_if_it_asked_for_that(self):
        client, other = self.call(on_disconnect="cancel"), self.call()
        client.disconnect()
        other.disconnect()
        self.turns()
        self.pool.stop_task(1)
        self.turns()
        self.finish()
        self.assertEqual([each["state"] for each in self.ask("list")], ["cancelled", "succeeded"])

    def test_a_call_is_answered_once_although_it_was_cancelled_after_its_end(self):
        client = self.call()
        self.finish()
        self.assertEqual([each["result"] for each in client.received()], [1])
        self.assertEqual(self.cancel(client)[2]["result"], {"was": "done"})
