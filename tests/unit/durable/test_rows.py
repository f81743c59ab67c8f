"""Rows of a batch against a function's parameters."""

from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.rows import RowCheck
from taskd.errors import InvalidParams
from taskd.functions.descriptions import describe_parameters
from taskd.functions.parameters import Parameters


def some(n: int, text: str | None = None, /, *, flag: bool = False) -> None: ...


def named(*, n: float) -> None: ...


def many(first: int, *more: int, **others: object) -> None: ...


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
        self.check(some, b"[1]", b'[-1.0, "x"]', b"[1,null]", b'{"n":1,"flag":true}')
        self.check(named, b'{"n":1}', b'{"n":1.5}')
        self.check(many, b"[1]", b'[1,"anything",{}]', b'{"first":1,"other":[]}')
        self.check(None, b"[1,2,3]", b'{"a":1}')

    def test_a_wrong_argument_is_named(self):
        self.wrong(some, b"[]", "args[7]: argument 'n' is missing")
        self.wrong(some, b"{}", "args[7]: argument 'n' is missing")
        self.wrong(some, b"[1,null,true]", "args[7]: takes 2 positional arguments, got 3")
        self.wrong(some, b'["1"]', "args[7]: argument 'n': expected number, got string")
        self.wrong(some, b"[1,2]", "args[7]: argument 'text': expected string | null, got number")
        self.wrong(some, b'{"n":1,"m":2}', "args[7]: no parameter 'm'; the parameters are: n, text, flag")
        self.wrong(named, b"[1]", "args[7]: takes 0 positional arguments, got 1")
        self.wrong(lambda: None, b'{"n":1}', "the parameters are: none")
        for called in (some, None):
            self.wrong(
                called, b'"x"', "args[7]: the arguments of a task are an object or an array, not a string"
            )
            self.wrong(called, b"null", "an object or an array, not null")
