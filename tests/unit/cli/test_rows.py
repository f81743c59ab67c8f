"""The conversion of texts into arguments."""

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.rows import convert_text


class ConvertTextTests(SynchronousTestCase):
    def test_text_becomes_a_number_if_one_is_wanted(self):
        self.assertEqual(convert_text("42", "int"), 42)
        self.assertEqual(convert_text("-7", "int"), -7)
        self.assertEqual(convert_text("2.5", "float"), 2.5)
        self.assertEqual(convert_text("3", "float"), 3)
        self.assertIs(type(convert_text("3", "int")), int)

    def test_text_stays_text_if_text_or_nothing_is_annotated(self):
        for annotation in ("str", "str | None", "int | str", "", "object", "list[int]", "Any"):
            self.assertEqual(convert_text("42", annotation), "42", annotation)

    def test_text_becomes_a_truth_value_if_one_is_wanted(self):
        for text, value in [
            ("true", True),
            ("Yes", True),
            ("1", True),
            ("FALSE", False),
            ("no", False),
            ("0", False),
        ]:
            self.assertIs(convert_text(text, "bool"), value, text)

    def test_empty_text_becomes_none_if_none_is_allowed(self):
        for annotation in ("int | None", "Optional[int]", "None | float", "bool | None"):
            self.assertIsNone(convert_text("", annotation), annotation)
        self.assertEqual(convert_text("", "str | None"), "")
        self.assertEqual(convert_text("5", "int | None"), 5)
        self.assertEqual(convert_text("5", "Optional[int]"), 5)

    def test_text_that_cannot_be_converted_stays_text_for_the_server_to_refuse(self):
        for text, annotation in [
            ("three", "int"),
            ("2.5", "int"),
            ("", "int"),
            ("x", "float"),
            ("maybe", "bool"),
        ]:
            self.assertEqual(convert_text(text, annotation), text)

    def test_a_number_that_json_does_not_have_stays_text(self):
        for text in ("nan", "inf", "-inf", "Infinity", "1e999"):
            self.assertEqual(convert_text(text, "float"), text)

    def test_a_union_of_numbers_takes_whole_numbers_first(self):
        self.assertEqual(convert_text("5", "int | float"), 5)
        self.assertEqual(convert_text("2.5", "int | float"), 2.5)

    @given(st.integers())
    def test_the_text_of_any_integer_is_converted(self, number):
        self.assertEqual(convert_text(str(number), "int"), number)

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_the_text_of_any_number_is_converted(self, number):
        self.assertEqual(convert_text(repr(number), "float"), number)

    @given(st.text(), st.sampled_from(["int", "float", "bool", "str", "int | None", "", "list[int]"]))
    def test_converting_any_text_raises_nothing(self, text, annotation):
        value = convert_text(text, annotation)
        json.dumps(value, allow_nan=False)
