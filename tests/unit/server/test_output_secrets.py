"""The secrets of tasks in what their workers print: masked while a task runs, and after it has ended."""

import json

import msgspec
from msgspec import Raw

from taskd.functions.descriptions import ParameterInfo
from taskd.functions.kinds import Kind
from taskd.model import Options, StoredCall
from taskd.server.output_secrets import CUT_AT, MAX_REMEMBERED, MAX_REMEMBERED_BYTES
from tests.unit.pools import LoggingCase, function
from tests.unit.tasks import FakeSubscriber

SECRET = msgspec.structs.replace(
    function("f"), parameters={"password": ParameterInfo([Kind("string")], secret=True)}
)


class OutputSecretTests(LoggingCase):
    def setUp(self):
        super().setUp()
        self.make()
        self.load(SECRET)

    def load(self, *functions):
        self.pool.load(*functions)
        self.clock.advance(0)

    def run_task(self, value="hunter2hunter2"):
        self.connect().call("f", params=[value])
        self.clock.advance(0)

    def hide(self, text, worker=1):
        return self.pool.observer.hide(worker, text)

    def test_output_of_a_task_has_none_of_its_secrets(self):
        self.run_task()
        for _ in range(2):
            self.assertEqual(self.hide("it is hunter2hunter2"), "it is [secret]")
        self.assertEqual(self.hide("a\\x07b"), "a\\x07b")

    def test_a_secret_that_was_made_printable_is_found(self):
        self.run_task("hunter\u202e2")
        self.assertEqual(self.hide("hunter\\u202e2"), "[secret]")

    def test_a_part_of_a_line_that_was_cut_is_masked(self):
        self.run_task()
        line = "x" * CUT_AT + "hunter2"
        self.assertEqual(self.hide(line), "x" * CUT_AT + "[secret]")

    def test_secrets_are_remembered_when_the_task_has_ended(self):
        self.run_task("hunter1hunter1")
        self.pool.finish(1)
        self.run_task("hunter2hunter2")
        self.pool.fail(1)
        self.assertEqual(self.hide("hunter1hunter1 hunter2hunter2"), "[secret] [secret]")
        self.assertEqual(self.hide("hunter1hunter1", worker=2), "hunter1hunter1")

    def test_but_not_those_of_any_number_of_tasks_nor_of_any_length(self):
        self.run_task("hunter1hunter1")
        self.pool.finish(1)
        self.run_task("x" * MAX_REMEMBERED_BYTES)
        self.pool.finish(1)
        self.assertEqual(self.hide("x" * MAX_REMEMBERED_BYTES), "x" * MAX_REMEMBERED_BYTES)
        for _ in range(MAX_REMEMBERED):
            self.assertEqual(self.hide("hunter1hunter1"), "[secret]")
            self.run_task()
            self.pool.finish(1)
        self.assertEqual(self.hide("hunter1hunter1"), "hunter1hunter1")

    def test_secrets_are_forgotten_with_the_worker(self):
        self.run_task()
        self.pool.finish(1)
        self.pool.lose(1)
        self.assertEqual(self.hide("hunter2hunter2"), "hunter2hunter2")

    def test_a_task_that_is_killed_has_the_tail_of_its_output(self):
        raised = []
        subscriber = FakeSubscriber()
        call = StoredCall("f", Raw(json.dumps(["hunter2hunter2"]).encode()), Options(), raised=raised.append)
        task = self.server.run(call, subscriber, subscriber.lane)
        self.clock.advance(0)
        self.pool.output[1, task.number] = "the tail"
        self.pool.begin(1)
        self.server.cancel(task)
        self.clock.advance(100)
        self.assertEqual([each.printed for each in raised], ["the tail"])

    def test_so_has_one_whose_process_has_died(self):
        raised = []
        subscriber = FakeSubscriber()
        self.server.run(StoredCall("f", raised=raised.append), subscriber, subscriber.lane)
        self.clock.advance(0)
        self.pool.begin(1)
        self.pool.lose(1, printed="the tail", peak_kib=5000)
        self.assertEqual([(each.printed, each.peak_kib) for each in raised], [("the tail", 5000)])


class NoSecretTests(LoggingCase):
    def test_output_stays_as_it_is_if_no_function_has_secrets(self):
        self.make()
        self.pool.load(function("f"))
        self.clock.advance(0)
        self.connect().call("f", params=["hunter2hunter2"])
        self.clock.advance(0)
        self.assertEqual(self.pool.observer.hide(1, "hunter2hunter2"), "hunter2hunter2")
