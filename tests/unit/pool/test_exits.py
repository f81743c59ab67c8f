"""How a worker ended, in words."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.pool.exits import WorkerExit, signal_name


class WorkerExitTests(SynchronousTestCase):
    def test_an_exit_is_described_by_its_status_signal_or_reason(self):
        for ending, words in [
            (WorkerExit(3), "exit status 3"),
            (WorkerExit(-9), "killed by SIGKILL"),
            (WorkerExit(-9, out_of_memory=True), "killed by SIGKILL, the kernel was out of memory"),
            (WorkerExit(None, reason="the fork server ended"), "the fork server ended"),
        ]:
            self.assertEqual(ending.describe(), words)

    def test_a_signal_without_a_name_has_its_number(self):
        self.assertEqual((signal_name(15), signal_name(250)), ("SIGTERM", "signal 250"))
