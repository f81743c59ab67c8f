"""Text that is safe to show in a log and on a terminal."""

from unicodedata import category

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.printable import printable


class PrintableTests(SynchronousTestCase):
    def test_ordinary_text_stays_as_it_is(self):
        for text in "", "hello", "a\tb\n  c", "käse 🧀 日本語 👩\u200d🔬", 'C:\\x1b "quoted"':
            self.assertEqual(printable(text), text)

    def test_colours_are_left_out(self):
        self.assertEqual(printable("\x1b[1;31mred\x1b[0m\x1b[K"), "red")

    def test_a_sequence_within_a_sequence_is_escaped(self):
        self.assertEqual(printable("\x1b[\x1b[0m2J"), "\\x1b[2J")

    def test_characters_that_move_the_cursor_or_hide_text_are_escaped(self):
        for harmful, shown in (
            ("\x00", "\\x00"),
            ("\x07", "\\x07"),
            ("\r", "\\x0d"),
            ("\x1b[2J", "\\x1b[2J"),
            ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            ("\x7f", "\\x7f"),
            ("\x85", "\\x85"),
            ("\x9b31m", "\\x9b31m"),
            ("\u2028", "\\u2028"),
            ("\u202egnp.exe", "\\u202egnp.exe"),
            ("\u2066", "\\u2066"),
            ("\ufeff", "\\ufeff"),
            ("\u200b", "\\u200b"),
            ("\u2060", "\\u2060"),
            ("\xad", "\\xad"),
            ("\ud800", "\\ud800"),
            ("\U000e0041", "\\U000e0041"),
        ):
            self.assertEqual(printable(f"a{harmful}b"), f"a{shown}b")

    @given(st.text(st.characters()))
    def test_nothing_harmful_is_left_and_a_second_time_changes_nothing(self, text):
        shown = printable(text)
        shown.encode()
        self.assertEqual(
            {char for char in shown if category(char) in {"Cc", "Cs", "Zl", "Zp"}} - {"\t", "\n"}, set()
        )
        self.assertEqual(printable(shown), shown)
