"""The exceptions that end a running function."""

from twisted.trial.unittest import SynchronousTestCase

import taskd


class StopTests(SynchronousTestCase):
    def test_a_stop_is_not_caught_by_except_exception(self):
        for kind in taskd.TaskTimeout, taskd.TaskCancelled:
            self.assertTrue(issubclass(kind, taskd.TaskStopped))
            self.assertFalse(issubclass(kind, Exception))
