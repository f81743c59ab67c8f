"""Ids of stored tasks, whole and shortened."""

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.stored_ids import full_id
from taskd.errors import InvalidParams

ONE = "01a21e49-e532-7bc6-b50c-b60ac1ede97d"
OTHER = "01a21e49-eef0-799d-b5c2-a7087f60e2e4"


class FakeClient:
    """Lists tasks by how their ids begin and end, as a server does."""

    def __init__(self, *ids, batches=()):
        self.ids = ids
        self.batches = batches
        self.asked = 0

    def request(self, method, params):
        self.asked += 1
        assert method == "taskd.list"
        like = params["like"]
        kind = "batch" if params.get("batches") else "task"
        ids = self.batches if kind == "batch" else self.ids
        found = [each for each in ids if each.startswith(like) or each.endswith(like)]
        tasks = [{kind: each, "function": "f", "state": "failed"} for each in found]
        return succeed(tasks[: params["limit"]])


class FullIdTests(SynchronousTestCase):
    def full(self, text, client):
        return self.successResultOf(Deferred.fromCoroutine(full_id(client, text)))

    def refused(self, text, client, kind):
        return str(self.failureResultOf(Deferred.fromCoroutine(full_id(client, text)), kind).value)

    def test_a_whole_id_is_not_looked_up(self):
        client = FakeClient()
        self.assertEqual(self.full(ONE.upper(), client), ONE)
        self.assertEqual(client.asked, 0)

    def test_an_id_is_known_by_how_it_begins_or_ends(self):
        for text in ("ede97d", "01a21e49-e5", ONE[:-1], " EDE97D\n"):
            self.assertEqual(self.full(text, FakeClient(ONE, OTHER)), ONE)

    def test_an_ambiguous_id_is_refused_with_what_it_could_be(self):
        error = self.refused("01a2", FakeClient(ONE, OTHER), InvalidParams)
        self.assertIn("any of b60ac1ede97d (f, failed), a7087f60e2e4 (f, failed): write more", error)
        error = self.refused("01a2", FakeClient(*[ONE] * 9), InvalidParams)
        self.assertEqual(error.count("b60ac1ede97d"), 3)
        self.assertIn("and others", error)

    def test_the_id_of_a_batch_is_known_likewise(self):
        self.assertEqual(self.full("ede97d", FakeClient(OTHER, batches=[ONE])), ONE)
        error = self.refused("01a2", FakeClient(OTHER, batches=[ONE]), InvalidParams)
        self.assertIn("any of a7087f60e2e4 (f, failed), b60ac1ede97d (a batch of f): write more", error)

    def test_an_unknown_id_is_refused(self):
        error = self.refused("abc", FakeClient(ONE), InvalidParams)
        self.assertIn("whose id begins or ends with abc", error)

    def test_a_text_that_is_no_part_of_an_id_is_not_sent(self):
        for text in ("", "send_mail", "%", "#7"):
            client = FakeClient()
            self.assertIn("not the id of a task", self.refused(text, client, ValueError))
            self.assertEqual(client.asked, 0)
