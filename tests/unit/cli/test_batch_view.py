"""Batches, as the commands print them."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.batch_view import batch_lines, batch_text, show_batch
from taskd.model import Progress


class Reports:
    def __init__(self):
        self.shown = []

    def show(self, report):
        self.shown.append(report)


class BatchViewTests(SynchronousTestCase):
    def test_counts_are_shown_in_words(self):
        counts = {"done": 996, "failed": 4, "total": 1000}
        self.assertEqual(batch_text(counts), "996 done, 4 failed, of 1000")
        self.assertEqual(
            batch_text({**counts, "cancelled": 2, "total": 1002}), "996 done, 4 failed, 2 cancelled, of 1002"
        )

    def test_progress_is_how_many_tasks_have_ended(self):
        view = Reports()
        show_batch(view, {"event": "progress", "done": 2, "failed": 0, "total": 9})
        show_batch(view, {"event": "ended", "done": 5, "failed": 3, "cancelled": 1, "total": 9})
        self.assertEqual(view.shown, [Progress(2, 9), Progress(9, 9, "3 failed")])

    def test_a_batch_is_shown_with_its_counts_and_what_follows_it(self):
        batch = {
            "batch": "b",
            "function": "f\x1b[2J",
            "state": "failed",
            "created": 10.0,
            "ended": 12.5,
            "done": 1,
            "failed": 1,
            "cancelled": 0,
            "total": 2,
            "then": {"function": "report", "task": "t"},
        }
        lines = list(batch_lines(batch))
        self.assertEqual(lines[0], "b  batch of f\\x1b[2J: failed")
        self.assertIn("after 2.5 s", lines[2])
        self.assertEqual(lines[3:], ["1 done, 1 failed, of 2", "then report, as task t"])
