"""What operators do to a task server, and what they see of it: drain, reload, stacks, figures of a minute."""

from twisted.internet.defer import Deferred

from taskd.errors import ShuttingDown
from taskd.model import Grant, Result
from taskd.protocol.requests import parse
from taskd.scheduler import FunctionStats
from taskd.server.sampling import Sampler
from tests.unit.pools import ServerCase

SHUTTING_DOWN = ShuttingDown.code


class OperationCase(ServerCase):
    def ask(self, method, params=None, client=None):
        """Call one of the server's own methods, and return its answer."""
        client = client or self.connect()
        client.call(f"taskd.{method}", params)
        return client.reply()

    def actions(self):
        return [(entry.action, entry.function, entry.task) for entry in self.server.operation.audit.unwritten]


class DrainTests(OperationCase):
    def test_a_drained_server_refuses_calls_and_runs_what_it_has(self):
        self.make()
        client = self.connect()
        client.call()
        client.call()
        self.assertEqual(self.ask("drain"), {"draining": True})
        self.assertEqual(self.server.unready().reason, "draining")
        self.assertEqual(self.ask("ping"), "pong")
        other = self.connect()
        other.call()
        [refused] = other.received()
        self.assertEqual(refused["error"]["code"], SHUTTING_DOWN)
        self.assertIn("taskd drain --undo", refused["error"]["message"])
        for _ in range(2):
            self.pool.finish(1)
            self.turn()
        self.assertEqual(["result" in reply for reply in client.received()], [True, True])

    def test_a_server_takes_tasks_again_when_draining_is_undone(self):
        self.make()
        self.ask("drain")
        self.assertEqual(self.ask("drain", {"drained": False}), {"draining": False})
        self.assertIsNone(self.server.unready())
        client = self.connect()
        client.call()
        self.pool.finish(1)
        self.turn()
        self.assertIn("result", client.received()[0])
        self.assertEqual([action for action, _, _ in self.actions()], ["drain", "undrain"])

    def test_submits_are_refused_too_and_other_methods_about_stored_tasks_are_not(self):
        self.make()
        self.ask("drain")
        for method in "submit", "submit_batch":
            self.assertEqual(self.ask(method, {"function": "f"})["code"], SHUTTING_DOWN)
        self.assertEqual(self.ask("get", {"task": "x"})["message"], "this server has no store")

    def test_an_end_of_draining_does_not_undo_a_stop(self):
        self.make()
        self.server.operation.take_new(new=False)
        self.server.stop_accepting()
        self.server.operation.take_new(new=True)
        client = self.connect()
        client.call()
        self.assertEqual(client.received()[0]["error"]["code"], SHUTTING_DOWN)


class OtherMethodsTests(OperationCase):
    def test_reload_answers_when_it_is_over_with_what_it_has_done(self):
        self.make()
        asked = Deferred()
        self.server.operation.reload_all = lambda: asked
        client = self.connect()
        client.call("taskd.reload")
        self.assertEqual(client.received(), [])
        asked.callback("reloaded: 2 functions")
        self.assertEqual(client.reply(), {"result": "reloaded: 2 functions"})

    def test_stacks_are_shown_with_the_tasks_of_their_workers(self):
        self.make(2)
        client = self.connect()
        client.call()
        self.turn(2.0)
        self.pool.printed_stacks = 'File "app.py", line 3 in f'
        idle, busy = sorted(self.ask("stacks"), key=lambda shown: shown["task"] or 0)
        number = busy["worker"]
        shown = {"worker": number, "pid": 1000 + number, "function": "f", "task": 1, "seconds": 2.0}
        self.assertEqual(busy, {**shown, "stack": 'File "app.py", line 3 in f'})
        self.assertEqual((idle["function"], idle["seconds"]), (None, None))
        self.assertEqual(self.ask("stacks", {"worker": idle["worker"]}), [idle])
        self.assertEqual(self.ask("stacks", {"worker": 9})["message"], "taskd.stacks: there is no worker 9")

    def test_without_a_store_there_are_no_records(self):
        self.make()
        self.assertEqual((self.ask("queue"), self.ask("history")), ([], []))
        self.assertEqual(self.ask("audit"), {"entries": [], "next": None})
        self.assertEqual(self.ask("audit", {"limit": 0})["data"], {"argument": "limit"})

    def test_a_client_on_this_machine_is_an_operator_without_a_name(self):
        self.make()
        answer = self.ask("whoami")
        self.assertEqual((answer["owner"], answer["role"], answer["expires"]), ("", "operate", None))

    def test_a_cancel_is_noted_if_it_has_ended_something(self):
        self.make()
        client = self.connect()
        client.call()
        client.call()
        self.assertEqual(self.ask("cancel", {"task": 2}), {"was": "waiting"})
        self.ask("cancel", {"task": 77})
        self.ask("cancel", {"task": True})
        self.assertEqual(self.actions(), [("cancel", None, "2")])


class AuditTests(OperationCase):
    def test_the_submits_of_a_second_are_one_entry_for_each_owner_and_function(self):
        self.make()
        audit = self.server.operation.audit
        ann, operator = Grant("ann"), Grant("ops", "operate")
        self.server.operation.stored("f", 1, ann, "ann")
        self.server.operation.stored("f", 20, ann, "ann")
        self.server.operation.stored("g", 1, operator, "ann")
        self.server.operation.stored("f", 1, None, "")  # by a schedule
        self.assertEqual(list(audit.unwritten), [])
        self.turn(1.0)
        shown = [(each.owner, each.function, each.count, each.text) for each in audit.unwritten]
        self.assertEqual(shown, [("ann", "f", 21, None), ("ops", "g", 1, "for ann")])

    def test_many_owners_do_not_fill_the_memory(self):
        self.make()
        for number in range(1000):
            self.server.operation.stored("f", 1, Grant(f"owner {number}"), f"owner {number}")
        self.assertEqual(len(self.server.operation.audit.unwritten), 1000)

    def test_methods_are_noted_with_what_they_were_given_once_they_have_succeeded(self):
        self.make()
        audit = self.server.operation.audit
        request = parse(b'{"jsonrpc":"2.0","id":1,"method":"taskd.retry","params":["abc"]}')
        note = audit.noting(Grant("ann"), request)
        note(Result(b'{"was":"failed"}'))
        request = parse(b'{"jsonrpc":"2.0","id":1,"method":"taskd.pause","params":{"function":"f"}}')
        audit.noting(Grant("ann"), request)(Result(b'{"was":"running"}'))
        self.assertEqual(self.actions(), [("retry", None, "abc"), ("pause", "f", None)])
        self.assertIsNone(audit.noting(Grant("ann"), parse(b'{"jsonrpc":"2.0","id":1,"method":"taskd.get"}')))


class SamplerTests(ServerCase):
    def test_a_sample_has_the_work_since_the_last_one(self):
        self.make()
        client, samples = self.connect(), self.server.operation.samples
        for seconds in 1.0, 3.0:
            client.call()
            self.pool.finish(1, seconds=seconds)
            self.turn()
        client.call()
        for look in samples.look, samples.look, samples.take:
            figures = look()["f"]
            self.assertEqual((figures.submitted, figures.succeeded), (3, 2))
            self.assertEqual((figures.ran, figures.longest_run, sum(figures.runs)), (4.0, 3.0, 2))
        self.assertEqual(samples.take(), {})
        self.pool.finish(1, seconds=2.0)
        self.turn()
        figures = samples.take()["f"]
        self.assertEqual((figures.submitted, figures.succeeded, figures.longest_run), (0, 1, 2.0))

    def test_stored_tasks_count_as_submitted_when_they_are_stored(self):
        self.make()
        operation = self.server.operation
        operation.stored("f", 2, None, "")
        self.assertEqual(operation.samples.take()["f"].submitted, 2)
        operation.queued("f", 1)
        operation.queued("f", -1)
        self.assertEqual(operation.samples.take(), {})

    def test_the_work_of_a_function_that_was_replaced_counts(self):
        old, new = FunctionStats("f"), FunctionStats("f")
        functions = {"f": old}
        samples = Sampler(lambda: functions, dict)
        old.add(1.0, failed=False, printed=False)
        samples.take()
        old.add(2.0, failed=True, printed=False)
        functions["f"] = new
        new.add(4.0, failed=False, printed=False)
        figures = samples.take()["f"]
        self.assertEqual((figures.succeeded, figures.failed, figures.ran), (1, 1, 6.0))
        del functions["f"]
        self.assertEqual(samples.take(), {})
