"""The fields of a task in the log."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.model import Call, Options, StoredCall
from taskd.pool.task_label import label_of
from tests.unit.tasks import make_task

TRACE = "0af7651916cd43dd8448eb211c80319c"


class TaskLabelTests(SynchronousTestCase):
    def test_a_task_has_its_function_and_its_number(self):
        label = label_of(make_task(7))
        self.assertEqual(str(label), "f #7")
        self.assertEqual(label.fields(), {"function": "f", "task": 7, "id": None, "trace_id": None})

    def test_a_traced_task_has_the_id_of_its_trace(self):
        options = Options(traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
        for call in Call("f", options=options), StoredCall("f", None, options, id="the-id"):
            task = make_task(7)
            task.call = call
            self.assertEqual(label_of(task).fields()["trace_id"], TRACE)
        self.assertEqual(label_of(task).fields()["id"], "the-id")
