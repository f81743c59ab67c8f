"""How texts become values, and values texts again."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.settings.kinds import (
    FLAG,
    LINK,
    MEMORY,
    ORIGIN,
    WORKERS,
    at_least,
    memory_size,
    one_of,
    worker_bounds,
)


class BoundsTests(SynchronousTestCase):
    def test_a_single_number_sets_both_bounds(self):
        for text, bounds in ("1", (1, 1)), ("20", (20, 20)), (" 3 ", (3, 3)):
            self.assertEqual(worker_bounds(text), bounds)

    def test_two_numbers_are_the_least_and_the_most(self):
        for text, bounds in ("0:1", (0, 1)), ("2:8", (2, 8)), ("3:3", (3, 3)):
            self.assertEqual(worker_bounds(text), bounds)

    def test_anything_else_is_refused(self):
        for text in "0", "-1", "", ":", "1:", ":1", "3:2", "0:0", "-1:2", "1:2:3", "1.5", "x", "1-2", "inf":
            self.assertRaises(ValueError, worker_bounds, text)

    @given(st.integers(0, 10_000), st.integers(1, 10_000))
    def test_any_valid_bounds_are_read(self, least, most):
        if least <= most:
            self.assertEqual(worker_bounds(f"{least}:{most}"), (least, most))
        else:
            self.assertRaises(ValueError, worker_bounds, f"{least}:{most}")


class SizeTests(SynchronousTestCase):
    def test_amounts_of_memory_are_read(self):
        for text, size in (
            ("1", 1),
            ("1048576", 1024**2),
            ("1048576K", 1024**3),
            ("500M", 500 * 1024**2),
            ("500MB", 500 * 1024**2),
            ("500mib", 500 * 1024**2),
            ("2G", 2 * 1024**3),
            ("1.5g", 1536 * 1024**2),
            (" 2k ", 2048),
            ("3B", 3),
        ):
            self.assertEqual(memory_size(text), size, text)

    def test_anything_else_is_refused(self):
        for text in (
            "",
            "0",
            "0M",
            "0.0G",
            "0.5",
            "-1",
            "1T",
            "M",
            "1,5G",
            "1.G",
            ".5G",
            "1 M",
            "inf",
            "nan",
            "1e3",
        ):
            self.assertRaises(ValueError, memory_size, text)


class KindTests(SynchronousTestCase):
    def test_the_text_of_a_value_is_read_as_the_same_value(self):
        for kind, texts in (
            (WORKERS, ["3", "0:1", "2:8"]),
            (MEMORY, ["1", "1023", "1024", "500M", "1.5G", "2G"]),
        ):
            for text in texts:
                value = kind.convert(text)
                self.assertEqual(kind.convert(str(kind.show(value))), value, text)

    def test_memory_is_shown_in_its_largest_whole_unit(self):
        for size, text in (1537, 1537), (2048, "2K"), (256 * 1024**2, "256M"), (1024**3, "1G"):
            self.assertEqual(MEMORY.show(size), text)

    def test_a_flag_is_true_or_false_in_several_spellings(self):
        for text in "1", "true", "Yes", "ON":
            self.assertIs(FLAG.convert(text), True)
        for text in "0", "false", "No", "off":
            self.assertIs(FLAG.convert(text), False)
        error = self.assertRaises(ValueError, FLAG.convert, "maybe")
        self.assertEqual(str(error), "is true or false, not 'maybe'")

    def test_the_words_of_a_choice_are_listed_in_its_error(self):
        for words, listed in (
            (("a", "b"), "is a or b, not 'x'"),
            (("a", "b", "c"), "is one of a, b, c, not 'x'"),
        ):
            self.assertEqual(one_of(*words).convert("a"), "a")
            self.assertEqual(str(self.assertRaises(ValueError, one_of(*words).convert, "x")), listed)

    def test_a_number_below_its_minimum_is_refused_and_so_is_what_is_no_number(self):
        kind = at_least(2, int, "NUMBER")
        self.assertEqual(kind.convert("2"), 2)
        for text in "1", "x", "2.5", "":
            self.assertRaises(ValueError, kind.convert, text)
        self.assertRaises(ValueError, at_least(0, float, "SECONDS").convert, "nan")

    def test_links_and_origins_are_refused_in_the_words_of_the_code_that_uses_them(self):
        self.assertEqual(LINK.convert("pooled"), "pooled")
        self.assertIn(": a gateway's link is", str(self.assertRaises(ValueError, LINK.convert, "x")))
        self.assertEqual(ORIGIN.convert("https://*.example.com"), "https://*.example.com")
        self.assertIn(": 'x' is no pattern", str(self.assertRaises(ValueError, ORIGIN.convert, "x")))
