"""The conversion of JSON arguments to Python ones by a function's signature and annotations."""

import dataclasses
import enum
import functools
import inspect
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Optional

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import InvalidParams
from taskd.functions.parameters import Parameters
from taskd.functions.registry import Function
from taskd.functions.wire_names import python_name, wire_name
from tests.unit.texts import values


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    a: int = 0
    b: int = 0


class Bare(msgspec.Struct, forbid_unknown_fields=True):
    pass


@dataclasses.dataclass
class Address:
    street: str
    number: int


class Colour(enum.Enum):
    RED = "red"


class Explosive(msgspec.Struct):
    """A type whose own check raises an exception that msgspec does not expect."""

    x: int

    def __post_init__(self):
        {}[self.x]


class Tree(msgspec.Struct):
    """A type that refers to itself, twice."""

    left: "Tree | None" = None
    right: "Tree | None" = None


class Opaque:
    """A type to which JSON cannot be converted."""


def bind(function, args):
    """Bind arguments, given as a value or as JSON text."""
    text = args if isinstance(args, bytes) else json.dumps(args).encode()
    return Parameters(function).bind(Raw(text))


def call(function, args):
    positional, named = bind(function, args)
    return function(*positional, **named)


class BindTests(SynchronousTestCase):
    def assert_refused(self, function, args, **data):
        error = self.assertRaises(InvalidParams, bind, function, args)
        self.assertEqual(error.code, -32602)
        self.assertEqual(error.data, data, error.message)
        return error

    # --- by name and by position ---

    def test_arguments_are_given_by_name(self):
        def function(a, b=2, *, c, d=4):
            return a, b, c, d

        self.assertEqual(call(function, {"a": 1, "c": 3}), (1, 2, 3, 4))
        self.assertEqual(call(function, {"d": 40, "c": 30, "b": 20, "a": 10}), (10, 20, 30, 40))

    def test_arguments_are_given_by_position(self):
        def function(a, b=2, *, d=4):
            return a, b, d

        self.assertEqual(call(function, [1]), (1, 2, 4))
        self.assertEqual(call(function, [1, 20]), (1, 20, 4))
        self.assert_refused(function, [1, 2, 3], expected=2, got=3)

    def test_null_or_left_out_arguments_mean_no_arguments(self):
        def function(a=1, /, b=2, *rest, c=3, **more):
            return a, b, rest, c, more

        for none in None, Raw(b"null"), Raw(b"{}"), Raw(b"[]"):
            positional, named = Parameters(function).bind(none)
            self.assertEqual(function(*positional, **named), (1, 2, (), 3, {}))

    def test_a_missing_argument_is_named(self):
        def function(a, from_, *, c):
            pass

        for args, missing in {
            "null": "a",
            "[]": "a",
            '{"from": 1, "c": 1}': "a",
            "[1]": "from",
            '{"a": 1, "c": 1}': "from",
            "[1, 2]": "c",
            '{"a": 1, "from": 1}': "c",
        }.items():
            error = self.assert_refused(function, args.encode(), argument=missing, got="nothing")
            self.assertIn(repr(missing), error.message)

    def test_an_unknown_argument_is_named(self):
        def function(a=1, from_=2):
            pass

        error = self.assert_refused(function, {"a": 1, "b": 2}, argument="b")
        self.assertIn("a, from", error.message)
        self.assert_refused(lambda: None, {"x": 1}, argument="x")

    def test_too_many_arguments_are_counted(self):
        self.assert_refused(lambda: None, [1], expected=0, got=1)
        self.assert_refused(lambda a, b=1: None, [1, 2, 3, 4], expected=2, got=4)

    def test_keyword_only_parameters_are_not_filled_by_position(self):
        def function(a, *, b=5):
            return a, b

        self.assertEqual(call(function, [1]), (1, 5))
        self.assert_refused(function, [1, 2], expected=1, got=2)

    def test_positional_only_parameters_are_filled_by_name_too(self):
        def function(a, b=2, /, c=3):
            return a, b, c

        self.assertEqual(call(function, {"b": 20, "a": 10}), (10, 20, 3))
        self.assertEqual(call(function, {"a": 10, "c": 30}), (10, 2, 30))
        self.assertEqual(call(function, [10, 20, 30]), (10, 20, 30))
        self.assert_refused(function, {"b": 20}, argument="a", got="nothing")

    def test_a_positional_only_parameter_cannot_be_given_without_those_before_it(self):
        def function(a=1, from_=2, b=3, /):
            return a, from_, b

        self.assertEqual(call(function, {"a": 10, "from": 20}), (10, 20, 3))
        self.assert_refused(function, {"a": 10, "b": 30}, argument="from")
        self.assert_refused(function, {"from": 20}, argument="a")

    def test_star_parameters_take_further_arguments(self):
        def function(a, *rest: int, **more: float):
            return a, rest, more

        self.assertEqual(call(function, [1, 2, 3]), (1, (2, 3), {}))
        self.assertEqual(call(function, {"a": 1, "x": 2, "class": 0.5}), (1, (), {"x": 2.0, "class": 0.5}))
        self.assert_refused(function, {"a": 1, "x": "y"}, argument="x", expected="float", got="str")
        error = self.assertRaises(InvalidParams, bind, function, [1, 2, "3"])
        self.assertEqual((error.data["expected"], error.data["got"]), ("int", "str"))

    def test_a_keyword_is_written_without_its_underscore_on_the_wire(self):
        def function(from_, class_=None, plain_=None, match_=None):
            return from_, class_, plain_, match_

        self.assertEqual(call(function, {"from": 1, "class": 2, "plain_": 3, "match_": 4}), (1, 2, 3, 4))
        self.assert_refused(function, {"from_": 1}, argument="from_")
        self.assert_refused(function, {"from": 1, "plain": 1}, argument="plain")

    @given(st.sampled_from(["from", "class", "a", "match", "a_", "None"]))
    def test_the_mappings_between_wire_and_python_names_are_inverse(self, name):
        self.assertEqual(wire_name(python_name(name)), name)
        self.assertTrue(python_name(name).isidentifier())

    def test_no_argument_evades_its_type_check_under_another_name(self):
        def function(from_: int, **more):
            return from_, more

        for args in b'{"from": 1, "from_": "x"}', b'{"from_": "x", "from": 1}':
            try:
                result = call(function, args)
            except InvalidParams:
                continue
            self.assertEqual(result[0], 1, args)

    # --- any signature ---

    @given(st.data())
    def test_a_call_by_position_binds_arguments_like_python(self, data):
        function = data.draw(functions())
        given = data.draw(st.lists(st.integers(), max_size=6))
        try:
            expected = function(*given)
        except TypeError:
            self.assertRaises(InvalidParams, bind, function, given)
        else:
            self.assertEqual(call(function, given), expected)

    @given(st.data())
    def test_a_call_by_name_gives_each_parameter_its_argument_or_its_default(self, data):
        function = data.draw(functions())
        names = st.sampled_from(["a", "b", "c", "from", "e", "f", "other"])
        given = data.draw(st.dictionaries(names, st.integers()))
        expected = by_name(inspect.signature(function).parameters.values(), dict(given))
        if expected is None:
            self.assertRaises(InvalidParams, bind, function, given)
        else:
            self.assertEqual(call(function, given), expected)

    @given(st.data())
    def test_converting_arguments_at_once_or_one_by_one_gives_the_same(self, data):
        function = data.draw(functions())
        names = st.sampled_from(["a", "b", "c", "from", "from_", "e", "other"])
        value = st.integers() | st.just("x")
        args = data.draw(st.none() | st.lists(value, max_size=6) | st.dictionaries(names, value))
        parameters = Parameters(function)
        text = Raw(json.dumps(args).encode())
        at_once, one_by_one = (
            outcome(function, bind, text) for bind in (parameters.bind, parameters.bind_one_by_one)
        )
        self.assertEqual(at_once, one_by_one)

    @given(values)
    def test_an_argument_without_an_annotation_may_be_any_json(self, value):
        self.assertEqual(call(lambda a: a, {"a": value}), value)
        self.assertEqual(call(lambda a: a, [value]), value)
        self.assertEqual(call(lambda *a: a, [value]), (value,))
        self.assertEqual(call(lambda **a: a, {"a": value}), {"a": value})

    # --- defaults ---

    def test_a_default_is_passed_as_the_object_that_the_function_declares(self):
        shared: list = []

        def function(a: int, b: list[int] = shared, *, c: int = "no number"):
            return b, c

        for args in {"a": 1}, [1]:
            b, c = call(function, args)
            self.assertIs(b, shared)
            self.assertEqual(c, "no number")

    def test_an_omitted_argument_is_omitted_from_the_call(self):
        """A decorator may have another default than the signature that it shows."""

        def shown(a, b=1, c=2):
            pass

        @functools.wraps(shown)
        def function(a, **more):
            return a, more

        self.assertEqual(call(function, {"a": 1}), (1, {}))
        self.assertEqual(call(function, {"a": 1, "c": 3}), (1, {"c": 3}))

    def test_an_explicit_null_does_not_mean_the_default(self):
        def function(a: int | None = 5, b: int = 6):
            return a, b

        self.assertEqual(call(function, {"a": None}), (None, 6))
        self.assertEqual(call(function, [None]), (None, 6))

    # --- types ---

    def test_arguments_are_converted_by_their_annotations(self):
        for annotation, value, expected in [
            (int, 3, 3),
            (float, 3, 3.0),
            (float, 1.5, 1.5),
            (str, "x", "x"),
            (bool, True, True),
            (Any, [1], [1]),
            (object, [1], [1]),
            (datetime, "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
            (timedelta, "PT90S", timedelta(seconds=90)),
            (bytes, "AAE=", b"\x00\x01"),
            (Point, {"x": 1}, Point(1, 0)),
            (Address, {"street": "s", "number": 3}, Address("s", 3)),
            (Colour, "red", Colour.RED),
            (Optional[int], None, None),  # noqa: UP045
            (int | None, 5, 5),
            (Literal["a", "b"], "b", "b"),
            (list[int], [1, 2], [1, 2]),
            (set[int], [1, 1], {1}),
            (tuple[int, str], [1, "x"], (1, "x")),
            (dict[str, Point], {"p": {"x": 1, "y": 2}}, {"p": Point(1, 2)}),
            (Annotated[int, msgspec.Meta(ge=1)], 1, 1),
            ("list[Point]", [{"x": 7}], [Point(7, 0)]),
            (Path, "a/b", Path("a/b")),
            (list[PurePosixPath], ["a"], [PurePosixPath("a")]),
            (dict[str, object], {"a": [1]}, {"a": [1]}),
            (Tree, {"left": {"right": {}}}, Tree(Tree(None, Tree()))),
            (list[Tree], [{}], [Tree()]),
        ]:

            def function(a):
                return a

            function.__annotations__["a"] = annotation
            for args in {"a": value}, [value]:
                result = call(function, args)
                self.assertEqual(result, expected, annotation)
                self.assertIs(type(result), type(expected), annotation)

    def test_an_error_names_what_was_expected_and_what_was_given(self):
        for annotation, value, data in [
            (int, "3", {"argument": "a", "expected": "int", "got": "str"}),
            (int, 1.5, {"argument": "a", "expected": "int", "got": "float"}),
            (int, True, {"argument": "a", "expected": "int", "got": "bool"}),
            (str, 3, {"argument": "a", "expected": "str", "got": "int"}),
            (int | None, "x", {"argument": "a", "expected": "int | null", "got": "str"}),
            (list[int], [1, "x"], {"argument": "a[1]", "expected": "int", "got": "str"}),
            (list[int], {}, {"argument": "a", "expected": "array", "got": "object"}),
            (Point, {"x": None}, {"argument": "a.x", "expected": "int", "got": "null"}),
            (Point, {"x": 1, "y": "z"}, {"argument": "a.y", "expected": "int", "got": "str"}),
            (
                Address,
                {"street": "s", "number": []},
                {"argument": "a.number", "expected": "int", "got": "array"},
            ),
            (Path, 5, {"argument": "a", "expected": "str", "got": "int"}),
            (dict[str, int], {"k": "v"}, {"argument": "a[...]", "expected": "int", "got": "str"}),
        ]:

            def function(a):
                pass

            function.__annotations__["a"] = annotation
            for args in {"a": value}, [value]:
                error = self.assert_refused(function, args, **data)
                self.assertTrue(error.message.startswith("argument 'a': "), error.message)

    def test_every_error_names_at_least_the_argument(self):
        for annotation, value in [
            (Literal["a"], "b"),
            (Colour, "blue"),
            (datetime, "yesterday"),
            (bytes, "%"),
            (Annotated[int, msgspec.Meta(ge=1)], 0),
            (Point, {}),
            (float, 10**400),
        ]:

            def function(a):
                pass

            function.__annotations__["a"] = annotation
            error = self.assertRaises(InvalidParams, bind, function, [value])
            self.assertTrue(error.data["argument"].startswith("a"), error.data)

    def test_an_unknown_member_of_a_structure_is_refused_with_those_that_there_may_be(self):
        for annotation, ending in (
            (Strict, "unknown field `c`; there may be: a, b"),
            (Bare, "unknown field `c`; there may be: none"),
            (Strict | None, "unknown field `c`"),
            (list[Strict], "unknown field `c` - at `$[0]`"),
        ):

            def function(a):
                pass

            function.__annotations__["a"] = annotation
            value = {"c": 1}
            error = self.assertRaises(
                InvalidParams, bind, function, [[value] if annotation == list[Strict] else value]
            )
            self.assertTrue(error.message.endswith(ending), error.message)

    def test_the_bounds_of_an_argument_are_part_of_what_is_expected(self):
        def function(
            a: Annotated[int, msgspec.Meta(ge=1)], b: Annotated[str, msgspec.Meta(max_length=2)] = ""
        ):
            pass

        self.assert_refused(function, [0], argument="a", expected="int >= 1")
        self.assert_refused(function, [1, "abc"], argument="b", expected="str of length <= 2")

    def test_errors_use_the_argument_names_on_the_wire(self):
        def function(from_: list[int]):
            pass

        self.assert_refused(function, {"from": ["x"]}, argument="from[0]", expected="int", got="str")
        self.assert_refused(function, [["x"]], argument="from[0]", expected="int", got="str")

    def test_an_annotation_whose_own_check_raises_does_not_crash_the_worker(self):
        """A worker answers `InvalidParams`; any other exception would end its process."""

        def function(a: Explosive):
            pass

        self.assertRaises(InvalidParams, bind, function, [{"x": 1}])

    def test_an_error_quotes_the_caller_only_up_to_a_limit(self):
        """Otherwise the reply could be longer than a message may be."""

        def function(a: int = 1, b: Literal["x"] = "x", c: dict[str, int] = {}):  # noqa: B006
            pass

        long = "x" * 1_000_000
        for args in {long: 1}, {"a": long}, {"b": long}, {"c": {long: "x"}}, {"c": {"x": long}}:
            error = self.assertRaises(InvalidParams, bind, function, args)
            self.assertLess(len(error.message) + len(json.dumps(error.data)), 10_000)

    def test_arguments_that_cannot_be_read_are_refused(self):
        def function(a: Any = 1):
            pass

        for text in b"[1", b'{"a":', b'{"a":}', b"[\xff]", b"3", b'"x"', b"x", b"[" * 5000, b"[1]]":
            self.assertRaises(InvalidParams, bind, function, text)
        for text in b'["\xff"]', b'{"a":"\xff"}', b'["\\ud800"]', b"[1e999]":
            self.assertRaises(InvalidParams, bind, function, text)

    # --- what can be resolved ---

    def test_an_annotation_may_refer_to_a_later_definition(self):
        def function(a: "Later") -> "Nothing":  # noqa: F821
            return a

        added = Function("f", function)
        function.__globals__["Later"] = Point
        function.__globals__["Nothing"] = None
        self.addCleanup(function.__globals__.pop, "Later")
        self.addCleanup(function.__globals__.pop, "Nothing")
        self.assertEqual(added.parameters.bind(Raw(b'[{"x":1}]')), ((Point(1),), {}))
        self.assertIs(added.parameters, added.parameters)

    def test_an_annotation_that_cannot_be_resolved_is_refused(self):
        def function(a: "Missing"):  # noqa: F821
            pass

        error = self.assertRaises(TypeError, Parameters, function)
        self.assertIn("parameter 'a'", str(error))
        self.assertIn("'Missing'", str(error))
        self.assertIn("TYPE_CHECKING", str(error))

    def test_an_annotation_to_which_json_cannot_be_converted_is_refused(self):
        for annotation in Opaque, complex, list[int] | set[int], 5:

            def function(a):
                pass

            function.__annotations__["a"] = annotation
            self.assertRaises(TypeError, Parameters, function)

    def test_a_nested_annotation_to_which_json_cannot_be_converted_is_refused(self):
        for annotation in list[Opaque], Optional[Opaque], dict[str, Opaque], tuple[int, Opaque]:  # noqa: UP045

            def function(a):
                pass

            function.__annotations__["a"] = annotation
            error = self.assertRaises(TypeError, Parameters, function)
            self.assertIn("a", str(error))

    def test_a_wrapped_function_keeps_its_signature(self):
        def wrapped(a: int):
            return a

        @functools.wraps(wrapped)
        def wrapper(*args, **kwargs):
            return wrapped(*args, **kwargs)

        self.assertEqual(call(wrapper, {"a": 1}), 1)
        self.assert_refused(wrapper, {"a": "x"}, argument="a", expected="int", got="str")

    def test_the_signature_of_a_method_omits_self(self):
        class Service:
            def method(self, a: int):
                return a

        self.assertEqual(call(Service().method, [1]), 1)
        self.assertEqual(call(Service().method, {"a": 1}), 1)


def outcome(function, bind, args):
    """Return the result of a function for these arguments, or how they are refused."""
    try:
        positional, named = bind(args)
    except InvalidParams as error:
        return error.message, error.data
    return function(*positional, **named)


@st.composite
def functions(draw):
    """Draw a function of any signature, which returns its arguments; `from_` is one of its parameters."""
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "from_", "e"]), unique=True, max_size=5))
    positional_only = draw(st.integers(0, len(names)))
    keyword_only = draw(st.integers(positional_only, len(names)))
    optional = draw(st.integers(0, keyword_only))
    star = draw(st.booleans())
    parts = []
    for index, name in enumerate(names):
        if index == keyword_only and not star:
            parts.append("*")
        if index == keyword_only and star:
            parts.append("*rest")
        has_default = index >= optional if index < keyword_only else draw(st.booleans())
        annotated = f"{name}: int" if draw(st.booleans()) else name
        parts.append(f"{annotated}=-{index + 1}" if has_default else annotated)
        if index + 1 == positional_only:
            parts.append("/")
    if star and keyword_only == len(names):
        parts.append("*rest")
    returned = [*names, *(["rest"] if star else [])]
    if draw(st.booleans()):
        parts.append("**more")
        returned.append("more")
    namespace = {}
    exec(f"def function({', '.join(parts)}): return [{', '.join(returned)}]", namespace)
    return namespace["function"]


def by_name(parameters, given):
    """Return what a function of `functions` returns for arguments by name; None if they do not fit."""
    returned = []
    rest = None
    left_out = False
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = ()
        elif parameter.kind is parameter.VAR_KEYWORD:
            more, given = given, {}
            return [*returned, *([] if rest is None else [rest]), more]
        elif (name := parameter.name.removesuffix("_")) in given:
            if parameter.kind is parameter.POSITIONAL_ONLY and left_out:
                return None
            returned.append(given.pop(name))
        elif parameter.default is parameter.empty:
            return None
        else:
            left_out = True
            returned.append(parameter.default)
    return None if given else [*returned, *([] if rest is None else [rest])]
