"""Rows of a batch against a function's parameters."""

from typing import Literal

from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.rows import MAX_EXACT, RowCheck
from taskd.errors import InvalidParams
from taskd.functions.descriptions import ParameterInfo, describe_parameters
from taskd.functions.parameters import Parameters


def some(n: int, text: str | None = None, /, *, flag: bool = False) -> None: ...


def named(*, n: float) -> None: ...


def many(first: int, *more: int, **others: object) -> None: ...


def exact(
    paper: Literal["A4", "A5"] = "A4",
    copies: Literal[1, 2] | None = None,
    pages: list[int] | None = None,
    either: Literal[1, "x"] | bool = 1,
) -> None: ...


class RowTests(SynchronousTestCase):
    def check(self, called, *rows):
        check = RowCheck(called and describe_parameters(Parameters(called)))
        for row in rows:
            check.check(Raw(row), "args[7]")

    def wrong(self, called, row, text):
        error = self.assertRaises(InvalidParams, self.check, called, row)
        self.assertIn(text, error.message)
        self.assertEqual(error.data["argument"], "args[7]")

    def test_arguments_that_the_function_takes_pass(self):
        self.check(some, b"[1]", b'[-1, "x"]', b"[1,null]", b'{"n":1,"flag":true}')
        self.check(named, b'{"n":1}', b'{"n":1.5}')
        self.check(many, b"[1]", b"[1,2,3]", b'{"first":1,"other":[]}')
        self.check(None, b"[1,2,3]", b'{"a":1}')

    def test_a_wrong_argument_is_named(self):
        self.wrong(some, b"[]", "args[7]: argument 'n' is missing")
        self.wrong(some, b"{}", "args[7]: argument 'n' is missing")
        self.wrong(some, b"[1,null,true]", "args[7]: takes 2 positional arguments, got 3")
        self.wrong(some, b'["1"]', "args[7]: argument 'n': expected integer, got string")
        self.wrong(some, b"[1,2]", "args[7]: argument 'text': expected string | null, got number")
        self.wrong(some, b'{"n":1,"m":2}', "args[7]: no parameter 'm'; the parameters are: n, text, flag")
        self.wrong(named, b"[1]", "args[7]: takes 0 positional arguments, got 1")
        self.wrong(lambda: None, b'{"n":1}', "the parameters are: none")
        for called in (some, None):
            self.wrong(
                called, b'"x"', "args[7]: the arguments of a task are an object or an array, not a string"
            )
            self.wrong(called, b"null", "an object or an array, not null")

    def test_an_integer_is_a_number_without_a_fraction_or_an_exponent(self):
        for number in (b"1.0", b"1.5", b"1e3"):
            wrong = f"argument 'n': expected integer, got {number.decode()}"
            self.wrong(some, b"[%b]" % number, wrong)
            self.check(named, b'{"n":%b}' % number)

    def test_a_value_is_one_of_those_that_are_listed(self):
        self.check(exact, b'["A5",2]', b'{"copies":null}', b'["A4",1,null,"x"]', b'{"either":true}')
        self.wrong(exact, b'["A3"]', """argument 'paper': expected "A4" | "A5", got "A3\"""")
        self.wrong(exact, b'{"copies":3}', "argument 'copies': expected 1 | 2 | null, got 3")

    def test_the_elements_of_an_array_are_of_their_kinds(self):
        self.check(exact, b'{"pages":[]}', b'{"pages":[1,2]}')
        self.wrong(exact, b'{"pages":[1,"2"]}', """'pages': expected array of integer | null, got [1,"2"]""")

    def test_those_of_a_long_array_are_left_to_the_worker(self):
        long = b'{"pages":["x",%b]}' % b",".join([b"1"] * MAX_EXACT)
        self.check(exact, long)

    def test_any_number_of_further_arguments_are_checked_as_well(self):
        self.wrong(many, b'[1,2,"x"]', "argument [2]: expected integer, got string")
        self.check(many, b'{"first":1,"other":"x"}')

    def test_a_parameter_of_which_no_kinds_are_known_takes_anything(self):
        check = RowCheck({"x": ParameterInfo([], passed="more_positions")})
        check.check(Raw(b'[1,"x",null,{},[]]'), "args")
