"""Texts become the JSON values that a parameter takes."""

import enum
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Optional

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.descriptions import describe_parameters
from taskd.functions.kinds import kinds_of
from taskd.functions.parameters import Parameters
from taskd.rows.conversion import TextConverter, convert_text

UserId = NewType("UserId", int)
Positive = Annotated[int, msgspec.Meta(gt=0)]


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Colour(enum.Enum):
    RED = "red"


class Anything(enum.IntEnum):
    KNOWN = 1

    @classmethod
    def _missing_(cls, value):
        return cls.KNOWN


class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2


class Point(msgspec.Struct):
    x: int


def convert(text, annotation):
    return convert_text(text, kinds_of(annotation))


class ConvertTextTests(SynchronousTestCase):
    def test_a_text_becomes_what_the_parameter_takes_whatever_its_annotation_is_called(self):
        for annotation, text, expected in [
            (int, "42", 42),
            (int, "-7", -7),
            (int, " 7 ", 7),
            (Positive, "5", 5),
            (UserId, "5", 5),
            (NewType("Name", str), "5", "5"),
            (Literal[1, 2], "1", 1),
            (Literal["1", "2"], "1", "1"),
            (Literal[1, "a", None], "a", "a"),
            (Literal[1, "a", None], "1", 1),
            (Literal[1, "a", None], "", None),
            (Literal[True], "yes", True),
            (Level, "2", Level.HIGH.value),
            (Anything, "7", 7),
            (Bits, "3", 3),
            (Colour, "red", "red"),
            (Optional[int], "5", 5),  # noqa: UP045
            (Optional[int], "", None),  # noqa: UP045
            (int | None, "null", None),
            (float, "2.5", 2.5),
            (float, "3", 3.0),
            (int | float, "5", 5),
            (int | float, "2.5", 2.5),
            (Annotated[float | None, "a comment"], "", None),
            (bool, "Yes", True),
            (bool, "1", True),
            (bool, "FALSE", False),
            (bool, "0", False),
            (bool | None, "", None),
            (bool | int, "1", 1),
            (bool | int, "no", False),
            (list[int], "[1, 2]", [1, 2]),
            (list[str] | None, "", None),
            (tuple[int, str], '[1, "a"]', [1, "a"]),
            (dict[str, int], '{"a": 1}', {"a": 1}),
            (Point, '{"x": 1}', {"x": 1}),
            (list[int] | dict[str, int], "{}", {}),
            (None, "", None),
        ]:
            result = convert(text, annotation)
            self.assertEqual(result, expected, (annotation, text))
            self.assertIs(type(result), type(expected), (annotation, text))

    def test_a_text_stays_one_where_a_text_is_taken(self):
        for annotation in (
            str, str | None, int | str, Any, object, list[int] | str, Decimal, bytes, datetime, Path,
            Path | None, Literal[1] | str, Level | str, Annotated[str, msgspec.Meta(max_length=9)],
        ):  # fmt: skip
            for text in "42", "", "null", "[]", " x":
                self.assertEqual(convert(text, annotation), text, annotation)
        self.assertEqual(convert_text("42", []), "42")

    def test_a_text_that_cannot_be_converted_is_refused_with_what_is_expected(self):
        for annotation, text, expected in [
            (int, "three", "'three' is not an integer"),
            (int, "2.5", "'2.5' is not an integer"),
            (int, "", "'' is not an integer"),
            (int, "9" * 5000, "… is not an integer"),
            (int | None, "x", "'x' is not an integer or null (an empty text)"),
            (float, "x", "'x' is not a number"),
            (float, "nan", "'nan' is not a number"),
            (float, "1e999", "'1e999' is not a number"),
            (bool, "maybe", "'maybe' is not true or false"),
            (Literal[1, 2], "3", "'3' is not one of 1, 2"),
            (Literal["a", "b"], "c", "'c' is not one of a, b"),
            (Colour | None, "blue", "'blue' is not one of red or null (an empty text)"),
            (list[str], "a", "'a' is not a JSON array"),
            (list[str], "{}", "'{}' is not a JSON array"),
            (list[str], "[" * 100_000, "is not a JSON array"),
            (Point, "1", "'1' is not a JSON object"),
            (list[int] | int, "x", "'x' is not a JSON array or an integer"),
        ]:
            error = str(self.assertRaises(ValueError, convert, text, annotation))
            self.assertIn(expected.removeprefix("… "), error)
            self.assertLess(len(error), 400)

    @given(st.integers())
    def test_every_integer_is_converted(self, number):
        self.assertEqual(convert(str(number), int), number)

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_every_number_is_converted(self, number):
        self.assertEqual(convert(repr(number), float), number)

    @given(
        st.text(),
        st.sampled_from([int, float, bool, str, int | None, Any, list[int], Literal[1, "a"], Point]),
    )
    def test_any_text_is_converted_to_json_or_a_value_error(self, text, annotation):
        try:
            value = convert(text, annotation)
        except ValueError:
            return
        json.dumps(value, allow_nan=False)


class TextConverterTests(SynchronousTestCase):
    def converter(self, function):
        return TextConverter(describe_parameters(Parameters(function)), lambda name, text: f"{name}:={text}")

    def test_arguments_are_converted_by_their_names_on_the_wire(self):
        def function(n: int, /, from_: "int | None", *, to: float, **more: bool):
            pass

        convert = self.converter(function)
        self.assertEqual(
            [
                convert("n", "1"),
                convert("from", "2"),
                convert("to", "3"),
                convert("x", "no"),
                convert("more", "yes"),
            ],
            [1, 2, 3.0, False, True],
        )

    def test_arguments_of_no_parameter_stay_text(self):
        def function(n: int, *rest: int):
            pass

        convert = self.converter(function)
        self.assertEqual([convert("m", "1"), convert("rest", "1")], ["1", "1"])

    def test_an_error_names_the_argument_and_how_to_write_json(self):
        def function(
            n: int,
            urls: list[str],
            pages: list[int] | None,
            point: Point,
            rows: list[list[int]],
            word: str = "",
        ):
            pass

        convert = self.converter(function)
        for name, text, expected in [
            ("n", "x", "argument 'n': 'x' is not an integer"),
            ("urls", "http://x", """'http://x' is not a JSON array; write urls:=["http://x"]"""),
            ("urls", "a, b", """; write urls:=["a","b"]"""),
            ("urls", "[a, b]", """; write urls:=["a","b"]"""),
            ("urls", "'[\"a\"]'", "; write urls:=[…]"),
            ("urls", "a" * 1000, "; write urls:=[…]"),
            ("pages", "1,2", "; write pages:=[1,2]"),
            ("pages", "one", "; write pages:=[…]"),
            ("rows", "1", "; write rows:=[…]"),
            ("point", "1", """'1' is not a JSON object; write point:={"name": …}"""),
        ]:
            error = str(self.assertRaises(ValueError, convert, name, text))
            self.assertTrue(error.endswith(expected), error)
            self.assertTrue(error.startswith(f"argument '{name}'"), error)
