"""`taskd.progress` reports to whatever the process has set."""

import decimal
import fractions

from msgspec import UNSET
from twisted.trial.unittest import SynchronousTestCase

import taskd
from taskd.functions.progress import TaskReports, report_progress_to
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
        self.assertEqual(reports, [(1, UNSET, None), (2, 3, None), (2, UNSET, "m")])
        report_progress_to(None)
        taskd.progress(4)
        self.assertEqual(len(reports), 3)


class TaskReportsTests(SynchronousTestCase):
    def setUp(self):
        self.reports = TaskReports()

    def check(self, done, total=UNSET, message=None):
        return self.reports.check(done, total, message)

    def test_a_report_without_a_total_keeps_the_one_before(self):
        self.assertEqual(self.check(0), (0, None, None))
        self.assertEqual(self.check(1, 10), (1, 10, None))
        self.assertEqual(self.check(3), (3, 10, None))
        self.assertEqual(self.check(4, 20), (4, 20, None))
        self.assertEqual(self.check(5, message="m"), (5, 20, "m"))

    def test_a_total_of_none_is_unknown_from_then_on(self):
        self.check(1, 10)
        self.assertEqual(self.check(3, None), (3, None, None))
        self.assertEqual(self.check(4), (4, None, None))

    def test_a_report_that_is_refused_changes_nothing(self):
        self.check(1, 10)
        self.assertRaises(ValueError, self.check, float("nan"), 20)
        self.assertRaises(TypeError, self.check, 1, 20, b"m")
        self.assertRaises(ValueError, self.check, 1, float("inf"))
        self.assertEqual(self.check(2), (2, 10, None))

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
            done, total, _ = self.check(number, number)
            self.assertEqual((done, total), (plain, plain))
            self.assertIn(type(done), (int, float))

    def test_values_that_are_no_finite_numbers_are_refused(self):
        for number in "1", b"1", [], 1j, object(), None:
            self.assertRaises(TypeError, self.check, number)
        for number in float("nan"), -float("inf"), decimal.Decimal("NaN"), 10**400, -(10**400):
            self.assertRaises(ValueError, self.check, number)

    def test_a_message_is_a_plain_str_that_can_be_encoded(self):
        class Text(str):
            def __str__(self):
                raise SystemExit

            encode = __getitem__ = isascii = __str__

        self.assertIs(type(self.check(1, 1, Text("a"))[2]), str)
        self.assertEqual(self.check(1, 1, "a\ud800b")[2], "a\\ud800b")
        self.assertEqual(len(self.check(1, 1, "x" * 1_000_000)[2]), MAX_TEXT)
        for message in b"m", 5, ValueError("x"):
            self.assertRaises(TypeError, self.check, 1, 1, message)
