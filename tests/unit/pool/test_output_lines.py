"""What a process prints and logs, as lines with levels."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.pool.output_lines import BURST, MAX_LOGGED_LINE, OutputLines
from taskd.worker.logs import MAX_RECORD, marked


def record(level, text):
    return f"{marked(level, text)}\n".encode()


class OutputLinesTests(SynchronousTestCase):
    def setUp(self):
        self.lines = []
        self.now = 0.0
        self.output = OutputLines(lambda: self.now, lambda level, line: self.lines.append((level, line)))

    def received(self, *pieces):
        for piece in pieces:
            self.output.receive(piece)
        self.output.finish()
        return self.lines

    def test_a_printed_line_has_the_level_info(self):
        self.assertEqual(self.received(b"one\ntwo"), [("info", "one"), ("info", "two")])

    def test_a_record_has_its_own_level(self):
        levels = [(5, "debug"), (10, "debug"), (20, "info"), (25, "info"), (30, "warn"), (40, "error")]
        for number, name in [*levels, (50, "critical"), (99, "critical")]:
            self.output.receive(record(number, "text"))
            self.assertEqual(self.lines.pop(), (name, "text"))

    def test_a_record_of_several_lines_stays_one(self):
        self.assertEqual(
            self.received(record(40, "it broke\r\nTraceback\n  x")), [("error", "it broke\nTraceback\n  x")]
        )

    def test_a_record_after_half_a_line_starts_afresh(self):
        self.assertEqual(self.received(b"half" + record(30, "whole")), [("info", "half"), ("warn", "whole")])

    def test_a_record_that_was_interrupted_is_shown_as_far_as_it_came(self):
        data = marked(40, "cut off").encode()[:-2] + record(20, "next")
        self.assertEqual(self.received(data), [("error", "cut o"), ("info", "next")])

    def test_a_long_record_is_not_cut_into_several(self):
        text = "é" * MAX_RECORD
        data = record(20, text)
        self.assertEqual(self.received(data[:9000], data[9000:]), [("info", text)])

    def test_of_a_record_that_is_too_long_the_middle_is_left_out(self):
        [(_, text)] = self.received(record(40, f"begin{'x' * 100_000}end"))
        self.assertTrue(text.startswith("begin") and text.endswith("end"))
        self.assertIn("characters left out)", text)
        self.assertLess(len(text), MAX_RECORD + 100)

    def test_the_last_state_of_a_progress_bar_counts(self):
        bar = b"".join(b"\r%d%%" % done for done in range(101))
        self.assertEqual(self.received(bar + b"\nnext\r\n"), [("info", "100%"), ("info", "next")])

    def test_a_progress_bar_in_pieces_is_one_line_however_long_it_takes(self):
        for done in range(10_000):
            self.output.receive(b"\r%d of 10000: " % done + b"#" * 60)
            self.assertEqual(self.lines, [])
        self.assertEqual(self.received(b"\r10000 of 10000\r", b"\n"), [("info", "10000 of 10000")])

    def test_a_progress_bar_that_removes_itself_leaves_nothing(self):
        self.assertEqual(self.received(b"\r50%\r100%", b"\r    \r"), [])
        self.assertEqual(self.received(b"\r50%\r    \r\n\r\n"), [("info", "")])

    def test_control_characters_are_shown_and_colours_left_out(self):
        printed = b"\x1b[31mred\x1b[0m\x00 \x1b[2J\x9b\n"
        self.assertEqual(self.received(printed), [("info", "red\\x00 \\x1b[2J\\x9b")])

    def test_a_record_cannot_pose_as_another(self):
        forged = record(20, "harmless\x1e5forged\x1fline")
        self.assertEqual(self.received(forged), [("info", "harmless\\x1e5forged\\x1fline")])

    def test_an_error_is_logged_although_other_lines_are_left_out(self):
        self.received(b"x\n" * (BURST + 10), record(40, "it broke"))
        self.assertIn(("error", "it broke"), self.lines)
        self.assertIn(("warn", "(10 lines left out: over 100 a second)"), self.lines)

    def test_a_flood_of_errors_is_bounded_too(self):
        self.received(*[record(40, "it broke")] * (BURST + 10))
        self.assertEqual(len(self.lines), BURST + 1)

    def test_each_line_of_a_record_counts(self):
        self.received(*[record(40, "\n".join("x" * 100))] * 20)
        self.assertEqual(self.lines[-1], ("warn", "(1000 lines left out: over 100 a second)"))

    def test_a_mark_alone_is_no_harm(self):
        self.assertEqual(self.received(b"\x1e\n\x1ezz\n"), [("info", ""), ("info", "z")])

    @given(st.lists(st.binary(max_size=50)))
    def test_any_output_becomes_lines_that_can_be_shown(self, pieces):
        self.setUp()
        for _, line in self.received(*pieces):
            self.assertTrue(line.replace("\n", "").replace("\t", "").isprintable() or not line.isascii())
            self.assertLessEqual(len(line), 4 * MAX_LOGGED_LINE)
