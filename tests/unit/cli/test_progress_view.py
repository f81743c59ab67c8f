"""The progress of a call, as `taskd call` shows it."""

import io

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.progress_view import Lines, UpdatedLine, progress_text
from taskd.model import Progress


class TextTests(SynchronousTestCase):
    def test_numbers_and_message_are_on_one_line(self):
        for report, text in (
            (Progress(3), "3"),
            (Progress(3, 12), "3 of 12 (25 %)"),
            (Progress(0.5, 2.0, "half"), "0.5 of 2 (25 %): half"),
            (Progress(2, 0), "2 of 0"),
            (Progress(1234567), "1234567"),
            (Progress(1, message="a\nb\x1b[31m\0\u202e"), "1: a b [31m"),
        ):
            self.assertEqual(progress_text(report), text)


class LinesTests(SynchronousTestCase):
    def shown(self, *steps):
        now = [0.0]
        output = io.StringIO()
        with Lines("f", Console(file=output, width=200), lambda: now[0]) as view:
            for seconds, report in steps:
                now[0] = seconds
                view.show(report)
        return output.getvalue().splitlines()

    def test_every_new_message_is_a_line(self):
        lines = self.shown((0, Progress(1, 2, "a")), (0.1, Progress(2, 2, "b")))
        self.assertEqual(lines, ["f: 1 of 2 (50 %): a", "f: 2 of 2 (100 %): b"])

    def test_numbers_alone_are_a_line_a_second_and_the_last_is_shown(self):
        steps = [(number / 10, Progress(number)) for number in range(26)]
        self.assertEqual(self.shown(*steps), ["f: 0", "f: 10", "f: 20", "f: 25"])

    def test_nothing_is_shown_without_progress(self):
        self.assertEqual(self.shown(), [])


class UpdatedLineTests(SynchronousTestCase):
    def test_the_message_is_on_a_line_of_the_terminal_that_is_gone_at_the_end(self):
        output = io.StringIO()
        terminal = Console(file=output, force_terminal=True, width=80, _environ={"TERM": "xterm"})
        with UpdatedLine("f", terminal) as view:
            view.show(Progress(1, 2, "a message [bold] " + "x" * 100))
        self.assertIn("a message [bold]", output.getvalue())
        self.assertNotIn("x" * 60, output.getvalue())
