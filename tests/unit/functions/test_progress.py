"""`taskd.progress` reports to whatever the process has set."""

from twisted.trial.unittest import SynchronousTestCase

import taskd
from taskd.functions.progress import report_progress_to


class ProgressTests(SynchronousTestCase):
    def setUp(self):
        self.addCleanup(report_progress_to, report_progress_to(None))

    def test_outside_a_worker_progress_goes_nowhere(self):
        report_progress_to(None)
        self.assertIsNone(taskd.progress(1))
        self.assertIsNone(taskd.progress(1, 2, "message"))

    def test_progress_goes_to_the_reporter_set_by_the_worker(self):
        reports = []
        report_progress_to(lambda *report: reports.append(report))
        taskd.progress(1)
        taskd.progress(2, total=3)
        taskd.progress(done=2, message="m")
        self.assertEqual(reports, [(1, None, None), (2, 3, None), (2, None, "m")])
        report_progress_to(None)
        taskd.progress(4)
        self.assertEqual(len(reports), 3)
