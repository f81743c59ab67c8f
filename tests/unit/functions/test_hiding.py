"""Secrets in texts: found in the forms in which code writes them, and not in other words."""

import base64
import json
from urllib.parse import quote, quote_plus

from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.hiding import MASK, hider, unhidden

ODD = 'pass"wörd\\ \n&?/'


class HidingTests(SynchronousTestCase):
    def hide(self, value, text, **more):
        return hider([json.dumps(value).encode()], **more)(text)

    def test_a_value_is_masked_wherever_it_is(self):
        self.assertEqual(self.hide("hunter2", "a hunter2, xhunter2x"), f"a {MASK}, x{MASK}x")

    def test_a_value_is_found_as_python_json_and_urls_write_it(self):
        for form in (
            ODD,
            repr(ODD),
            ascii(ODD),
            json.dumps(ODD),
            quote(ODD),
            quote(ODD, ""),
            quote_plus(ODD),
        ):
            self.assertIn(self.hide(ODD, f"<{form}>"), (f"<{MASK}>", f"<'{MASK}'>", f'<"{MASK}">'))

    def test_a_value_is_found_as_the_bytes_that_it_stands_for(self):
        text = base64.b64encode(b"\xffhunter2").decode()
        self.assertEqual(self.hide(text, repr(b"\xffhunter2")), f"b'{MASK}'")
        self.assertEqual(self.hide(base64.b64encode(b"hunter2").decode(), "hunter2"), MASK)
        self.assertEqual(self.hide("no base64!", "no base64!"), MASK)

    def test_the_lines_of_a_long_value_are_found_one_by_one(self):
        key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nend\n"
        self.assertEqual(self.hide(key, "  | MIIEvQIBADANBg"), f"  | {MASK}")
        self.assertEqual(self.hide(key, "the end"), "the end")

    def test_all_texts_and_numbers_of_a_structure_are_secret(self):
        value = {"user": "smith", "keys": [12345, "hunter2", None, True, "ab"]}
        self.assertEqual(self.hide(value, "smith 12345 hunter2"), f"{MASK} {MASK} {MASK}")
        self.assertEqual(self.hide(value, "user True None ab"), "user True None ab")

    def test_a_short_value_is_a_word_of_its_own(self):
        self.assertEqual(self.hide("abc", "abc abcd 'abc'"), f"{MASK} abcd '{MASK}'")
        self.assertEqual(self.hide(42, "42 line 142"), f"{MASK} line 142")
        self.assertIs(hider([b'""']), unhidden)
        self.assertIs(hider([]), unhidden)
        self.assertEqual(unhidden("a"), "a")

    def test_a_longer_value_is_masked_before_a_part_of_it(self):
        hide = hider([b'"hunter2"', b'"hunter2hunter3"'])
        self.assertEqual(hide("hunter2hunter3 hunter2"), f"{MASK} {MASK}")

    def test_a_number_that_python_cannot_read_is_found_as_it_is_written(self):
        self.assertEqual(hider([b"1" * 5000])("x" + "1" * 5000), f"x{MASK}")

    def test_a_value_is_found_in_further_forms(self):
        hide = hider([b'"hunter2"'], str.upper)
        self.assertEqual(hide("HUNTER2 hunter2"), f"{MASK} {MASK}")

    def test_a_part_at_either_end_of_a_text_that_was_cut_is_masked(self):
        self.assertEqual(self.hide("hunter2hunter3", "ter3 and hunter2h", cut_at=10), f"{MASK} and {MASK}")
        self.assertEqual(self.hide("hunter2hunter3", "nter2hunte", cut_at=10), MASK)
        self.assertEqual(self.hide("hunter2", "no part of it", cut_at=10), "no part of it")
        self.assertEqual(self.hide("hunter2hunter3", "ter3 and", cut_at=10), "ter3 and")
