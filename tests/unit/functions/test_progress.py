"""`taskd.progress` reports to whatever the process has set."""

import decimal
import fractions

from twisted.trial.unittest import SynchronousTestCase

import taskd
from taskd.functions.progress import check_report, report_progress_to
from taskd.functions.raised import MAX_TEXT


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


class CheckReportTests(SynchronousTestCase):
    def test_the_numbers_of_other_types_are_plain_afterwards(self):
        class Steps(int):
            def __str__(self):
                raise SystemExit

        class Exact(float):
            pass

        for number, plain in [
            (Steps(3), 3),
            (True, 1),
            (Exact(1.5), 1.5),
            (fractions.Fraction(1, 2), 0.5),
            (decimal.Decimal("2.5"), 2.5),
            (2**53, 2.0**53),
        ]:
            done, total, _ = check_report(number, number, None)
            self.assertEqual((done, total), (plain, plain))
            self.assertIn(type(done), (int, float))

    def test_values_that_are_no_finite_numbers_are_refused(self):
        for number in "1", b"1", [], 1j, object(), None:
            self.assertRaises(TypeError, check_report, number, None, None)
        for number in float("nan"), -float("inf"), decimal.Decimal("NaN"), 10**400, -(10**400):
            self.assertRaises(ValueError, check_report, number, None, None)

    def test_a_message_is_a_plain_str_that_can_be_encoded(self):
        class Text(str):
            def __str__(self):
                raise SystemExit

            encode = __getitem__ = isascii = __str__

        self.assertIs(type(check_report(1, 1, Text("a"))[2]), str)
        self.assertEqual(check_report(1, 1, "a\ud800b")[2], "a\\ud800b")
        self.assertEqual(len(check_report(1, 1, "x" * 1_000_000)[2]), MAX_TEXT)
        for message in b"m", 5, ValueError("x"):
            self.assertRaises(TypeError, check_report, 1, 1, message)
