"""`current_task` outside a worker, and with a source of its own."""

from twisted.trial.unittest import SynchronousTestCase

from taskd import current_task
from taskd.functions.current import NO_TASK, CurrentTask, describe_current_task_by


class CurrentTaskTests(SynchronousTestCase):
    def test_outside_a_worker_there_is_an_answer_without_an_id(self):
        self.addCleanup(describe_current_task_by, describe_current_task_by(None))
        self.assertIs(current_task(), NO_TASK)
        self.assertEqual((current_task().id, current_task().attempt), (None, 1))

    def test_the_source_can_be_replaced_and_put_back(self):
        mine = CurrentTask(3, "id")
        before = describe_current_task_by(lambda: mine)
        self.addCleanup(describe_current_task_by, before)
        self.assertIs(current_task(), mine)
        describe_current_task_by(before)
        self.assertIsNot(current_task(), mine)
