"""Tasks as the log names them."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.model import Call, Options, StoredCall
from taskd.pool.task_label import TaskLabel, label_of
from tests.unit.tasks import make_task

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class LabelTests(SynchronousTestCase):
    def label(self, call):
        task = make_task(7)
        task.call = call
        return label_of(task)

    def test_a_task_is_named_by_its_function_and_number(self):
        label = self.label(Call("f"))
        self.assertEqual((str(label), label), ("f #7", TaskLabel("f", 7)))

    def test_the_fields_have_the_id_of_a_stored_task_and_of_its_trace(self):
        options = Options(traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
        self.assertEqual(
            self.label(StoredCall("f", options=options, id="0190")).fields(),
            {"function": "f", "task": 7, "id": "0190", "trace_id": TRACE},
        )
