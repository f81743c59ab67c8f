"""The patience with a server that is being restarted."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.client.patience import PATIENCE, Patience
from taskd.errors import Busy, ShuttingDown, TaskFailed, Unreachable


class PatienceTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.patience = Patience(self.clock.seconds)

    def test_errors_of_a_restart_are_endured_for_a_while(self):
        for error in (Unreachable("gone"), Busy(), ShuttingDown()):
            self.assertGreater(self.patience.pause_after(error), 0)
        self.clock.advance(PATIENCE + 1)
        self.assertRaises(Unreachable, self.patience.pause_after, Unreachable("gone"))

    def test_the_time_begins_anew_once_the_server_was_there(self):
        self.patience.pause_after(Unreachable("gone"))
        self.clock.advance(PATIENCE - 1)
        self.patience.found()
        self.patience.pause_after(Unreachable("gone"))
        self.clock.advance(2)
        self.patience.pause_after(Unreachable("gone"))

    def test_other_errors_are_not_endured(self):
        self.assertRaises(TaskFailed, self.patience.pause_after, TaskFailed("no paper"))
