"""How the command shows durations and values."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.console import duration, json_text, progress_bar, show_progress
from taskd.model import Progress


class DurationTests(SynchronousTestCase):
    def test_the_unit_suits_the_length(self):
        for seconds, text in (
            (0.0, "0.0 ms"),
            (0.0123, "12.3 ms"),
            (1.0, "1.0 s"),
            (59.94, "59.9 s"),
            (60.0, "1 min 00 s"),
            (3599.0, "59 min 59 s"),
            (3600.0, "1 h 00 min"),
            (90061.0, "25 h 01 min"),
        ):
            self.assertEqual(duration(seconds), text)


class JsonTests(SynchronousTestCase):
    def test_objects_and_arrays_are_written_in_lines_and_other_values_in_one(self):
        for value, text in (
            ({"a": 1}, '{\n  "a": 1\n}'),
            ([1], "[\n  1\n]"),
            ("ไทย", '"ไทย"'),
            (None, "null"),
        ):
            self.assertEqual(json_text(value), text)


class ProgressBarTests(SynchronousTestCase):
    def shown(self, *reports):
        bar = progress_bar()
        shown = bar.add_task("f", total=None)
        for report in reports:
            show_progress(bar, shown, Progress(*report))
        [task] = bar.tasks
        return task.completed, task.total, task.finished

    def test_a_bar_shows_the_last_report(self):
        self.assertEqual(self.shown((1, 10)), (1, 10, False))
        self.assertEqual(self.shown((1, 10), (20, 20)), (20, 20, True))

    def test_a_bar_forgets_its_total_if_it_is_unknown(self):
        self.assertEqual(self.shown((1, 10), (3, None)), (3, None, False))
        self.assertEqual(self.shown((10, 10), (30, None)), (30, None, False))
        self.assertEqual(self.shown((10, 10), (30, None), (4, 5)), (4, 5, False))
