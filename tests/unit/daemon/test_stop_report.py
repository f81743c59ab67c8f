"""The words of a stop that waits."""

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.stop_report import StopReport, what_runs


class StopReportTests(SynchronousTestCase):
    def test_tasks_are_counted_by_function_the_most_first(self):
        self.assertEqual(what_runs(Counter(mail=1)), "1 task (mail: 1)")
        self.assertEqual(what_runs(Counter(mail=1, report=2)), "3 tasks (report: 2, mail: 1)")

    def test_no_more_than_a_few_functions_are_named(self):
        self.assertIn("a: 1, b: 1, c: 1, d: 1, e: 1, 1 other function)", what_runs(Counter("abcdef")))
        self.assertIn("e: 1, 2 other functions)", what_runs(Counter("abcdefg")))

    def test_the_beginning_says_for_how_long_and_how_to_end_it(self):
        line = StopReport(30.0).begin(Counter(mail=1))
        self.assertIn(
            "waiting up to 30 s for 1 task (mail: 1); a second Ctrl-C or SIGTERM ends them at once", line
        )

    def test_reports_become_rare(self):
        self.assertEqual(list(StopReport(10.0).times()), [])
        self.assertEqual(list(StopReport(100.0).times()), [10.0, 20.0, 40.0, 80.0])

    def test_a_report_says_how_much_time_is_left(self):
        self.assertIn("for 20 s more", StopReport(30.0).go_on(Counter(mail=1), 10.0))

    def test_the_end_of_the_patience_names_what_is_ended(self):
        self.assertIn(
            "still run after 30 s: they are ended: 1 task (mail: 1)",
            StopReport(30.0).give_up(Counter(mail=1)),
        )
