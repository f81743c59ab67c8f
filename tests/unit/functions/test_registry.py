"""What users import: tasks, their arguments, the registry."""

import dataclasses
import enum
import functools
import importlib
import inspect
import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Optional

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

import taskd
from taskd.errors import InvalidParams
from taskd.functions.parameters import Parameters, python_name, wire_name
from taskd.functions.progress import report_progress_to
from taskd.functions.registry import Function, Registry
from taskd.functions.stops import GRACE
from tests.unit.texts import values

# `taskd.task` is the decorator; this is the module.
registry_module = importlib.import_module("taskd.functions.registry")


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclasses.dataclass
class Address:
    street: str
    number: int


class Colour(enum.Enum):
    RED = "red"


class Explosive(msgspec.Struct):
    """Its own check fails in a way that msgspec does not know."""

    x: int

    def __post_init__(self):
        {}[self.x]


class Tree(msgspec.Struct):
    """It holds itself, twice."""

    left: "Tree | None" = None
    right: "Tree | None" = None


class Opaque:
    """JSON cannot be converted to it."""


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

    def test_no_arguments_are_given_by_null_or_not_at_all(self):
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

    def test_more_arguments_are_taken_by_star_parameters(self):
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
    def test_the_names_on_the_wire_and_in_python_are_each_others_inverse(self, name):
        self.assertEqual(wire_name(python_name(name)), name)
        self.assertTrue(python_name(name).isidentifier())

    def test_no_argument_passes_by_its_type_check_under_another_name(self):
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
    def test_a_call_by_position_is_as_python_has_it(self, data):
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

    @given(values)
    def test_without_an_annotation_an_argument_is_any_json(self, value):
        self.assertEqual(call(lambda a: a, {"a": value}), value)
        self.assertEqual(call(lambda a: a, [value]), value)
        self.assertEqual(call(lambda *a: a, [value]), (value,))
        self.assertEqual(call(lambda **a: a, {"a": value}), {"a": value})

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

    def test_what_does_not_fit_is_told_with_what_was_expected_and_got(self):
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
            (dict[str, int], {"k": "v"}, {"argument": "a[...]", "expected": "int", "got": "str"}),
        ]:

            def function(a):
                pass

            function.__annotations__["a"] = annotation
            for args in {"a": value}, [value]:
                error = self.assert_refused(function, args, **data)
                self.assertTrue(error.message.startswith("argument 'a': "), error.message)

    def test_what_does_not_fit_is_told_with_its_argument_at_least(self):
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

    def test_an_argument_goes_by_its_name_on_the_wire_in_errors(self):
        def function(from_: list[int]):
            pass

        self.assert_refused(function, {"from": ["x"]}, argument="from[0]", expected="int", got="str")
        self.assert_refused(function, [["x"]], argument="from[0]", expected="int", got="str")

    def test_an_annotation_whose_own_check_fails_is_the_callers_mistake_or_at_least_no_crash(self):
        """A worker answers `InvalidParams`; anything else ends its process."""

        def function(a: Explosive):
            pass

        self.assertRaises(InvalidParams, bind, function, [{"x": 1}])

    def test_an_error_does_not_quote_the_caller_at_any_length(self):
        """The reply would be longer than a message may be."""

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
        for text in b'["\xff"]', b'{"a":"\xff"}', b'["\\ud800"]', b"[1e999]", b"[" * 5000 + b"]" * 5000:
            self.assertRaises(InvalidParams, bind, function, text)

    # --- what can be resolved ---

    def test_an_annotation_may_name_what_is_defined_later(self):
        def function(a: "Later") -> "Nothing":  # noqa: F821
            return a

        added = Function("f", function)
        function.__globals__["Later"] = Point
        function.__globals__["Nothing"] = None
        self.addCleanup(function.__globals__.pop, "Later")
        self.addCleanup(function.__globals__.pop, "Nothing")
        self.assertEqual(added.parameters.bind(Raw(b'[{"x":1}]')), ([Point(1)], {}))
        self.assertIs(added.parameters, added.parameters)

    def test_an_annotation_that_cannot_be_resolved_is_refused(self):
        def function(a: "Missing"):  # noqa: F821
            pass

        self.assertRaises(NameError, Parameters, function)

    def test_an_annotation_to_which_json_cannot_be_converted_is_refused(self):
        for annotation in Opaque, complex, list[int] | set[int], 5:

            def function(a):
                pass

            function.__annotations__["a"] = annotation
            self.assertRaises(TypeError, Parameters, function)

    def test_an_annotation_to_which_json_cannot_be_converted_is_refused_wherever_it_stands(self):
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

    def test_a_method_does_not_show_its_self(self):
        class Service:
            def method(self, a: int):
                return a

        self.assertEqual(call(Service().method, [1]), 1)
        self.assertEqual(call(Service().method, {"a": 1}), 1)


@st.composite
def functions(draw):
    """A function of any signature, which returns its arguments; `from_` is one of its parameters."""
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
        parts.append(f"{name}=-{index + 1}" if has_default else name)
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
    """What a function of `functions` returns for arguments by name; None where they do not fit."""
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


def example(a: int, from_: "str", /, b=2, *rest: float, c: int | None = None, **more) -> int:
    """Do as an example does.

    And nothing else.
    """


class TaskTests(SynchronousTestCase):
    def test_a_task_tells_what_its_user_wants_to_know(self):
        info = Function("x.example", example).describe()
        self.assertEqual(info.name, "x.example")
        self.assertEqual(info.summary, "Do as an example does.")
        self.assertTrue(
            info.signature.startswith("x.example(a: int, from_: 'str', /, b=2, *rest: float, c: ")
        )
        self.assertTrue(info.signature.endswith("**more) -> int"), info.signature)
        self.assertEqual(list(info.parameters), ["a", "from", "b", "rest", "c", "more"])
        self.assertEqual(
            [info.parameters[name] for name in ("a", "from", "b", "rest")], ["int", "str", "", "float"]
        )

    def test_a_task_without_a_docstring_has_no_summary(self):
        self.assertEqual(Function("f", lambda: None).describe().summary, "")

    def test_a_task_tells_whether_it_is_async(self):
        async def function():
            pass

        self.assertTrue(Function("f", function).is_async)
        self.assertTrue(Function("f", functools.partial(function)).is_async)
        self.assertFalse(Function("f", example).is_async)

    def test_a_task_tells_where_it_is(self):
        self.assertIn(f"{__file__}:", Function("f", example).where)
        self.assertEqual(Function("f", len).where, repr(len))


class RegistryTests(SynchronousTestCase):
    def test_a_function_is_registered_under_its_name_or_another(self):
        registry = Registry()
        self.assertEqual(len(registry), 0)
        self.assertEqual(registry.add(example).name, "example")
        self.assertEqual(registry.add(example, "mail.send").name, "mail.send")
        self.assertEqual([entry.name for entry in registry], ["example", "mail.send"])
        self.assertEqual(len(registry), 2)
        self.assertIn("mail.send", registry)
        self.assertNotIn("send", registry)
        self.assertIs(registry["example"].callable, example)

    def test_the_names_of_the_server_are_reserved(self):
        for name in "taskd.", "taskd.ping", "taskd.x.y", "":
            self.assertRaises(ValueError, Registry().add, example, name)
        for name in "taskd", "taskdx", "x.taskd.y", "Taskd.ping":
            self.assertEqual(Registry().add(example, name).name, name)

    def test_a_name_is_given_once(self):
        registry = Registry()
        first = registry.add(example, "f")
        error = self.assertRaises(ValueError, registry.add, lambda: None, "f")
        self.assertIn("'f'", str(error))
        self.assertIn(first.where, str(error))
        self.assertIs(registry["f"], first)

    def test_the_same_function_may_come_twice(self):
        registry = Registry()
        registry.add(example)
        registry.add(example)
        self.assertEqual(len(registry), 1)

    def test_what_is_no_function_is_no_task(self):
        for thing in 3, None, "example", Point, Opaque():
            self.assertRaises(TypeError, Registry().add, thing, "f")

    def test_what_is_callable_and_has_no_name_needs_one(self):
        self.assertRaises(TypeError, Registry().add, functools.partial(example, 1))
        self.assertEqual(Registry().add(functools.partial(example, 1), "f").name, "f")

    def test_a_generator_is_no_task(self):
        def generator():
            yield 1

        async def async_generator():
            yield 1

        for function in generator, async_generator, functools.partial(generator):
            self.assertRaises(TypeError, Registry().add, function, "f")

    def test_a_task_may_have_a_time_limit_and_a_grace(self):
        registry = Registry()
        plain, limited = registry.add(example, "plain"), registry.add(example, "limited", 2.5, 0)
        self.assertEqual((plain.timeout, plain.grace), (None, GRACE))
        self.assertEqual((limited.timeout, limited.grace), (2.5, 0))
        self.assertEqual((limited.describe().timeout, limited.describe().grace), (2.5, 0))

    def test_a_limit_is_a_number_of_seconds_above_zero(self):
        for timeout in 0, -1, 0.0, float("nan"), float("inf"), "3", True, []:
            error = self.assertRaises(ValueError, Registry().add, example, "f", timeout)
            self.assertIn("timeout", str(error))

    def test_a_grace_is_a_number_of_seconds_from_zero(self):
        for grace in -0.1, float("nan"), float("inf"), "3", False, []:
            error = self.assertRaises(ValueError, Registry().add, example, "f", None, grace)
            self.assertIn("grace", str(error))

    def test_compiling_resolves_every_signature(self):
        registry = Registry()
        registry.add(example)
        registry.compile()
        self.assertIn("parameters", vars(registry["example"]))

    def test_compiling_names_the_task_whose_signature_cannot_be_resolved(self):
        def opaque(a: Opaque):
            pass

        def missing(a: "Missing"):  # noqa: F821
            pass

        for function, reason in (opaque, "Opaque"), (missing, "Missing"), (max, "max"):
            registry = Registry()
            registry.add(example)
            registry.add(function, "the.task")
            error = self.assertRaises(TypeError, registry.compile)
            self.assertIn("'the.task'", str(error))
            self.assertIn(reason, str(error))
            self.assertIn(registry["the.task"].where, str(error))


class DecoratorTests(SynchronousTestCase):
    def setUp(self):
        self.registry = Registry()
        self.patch(registry_module, "registry", self.registry)

    def test_a_task_is_registered_and_the_function_unchanged(self):
        @taskd.task
        def bare():
            pass

        @taskd.task()
        def called():
            pass

        @taskd.task(name="mail.send")
        def named():
            pass

        @taskd.task(timeout=60, grace=1)
        def limited():
            pass

        names = ["bare", "called", "mail.send", "limited"]
        self.assertEqual([entry.name for entry in self.registry], names)
        self.assertEqual((self.registry["limited"].timeout, self.registry["limited"].grace), (60, 1))
        self.assertTrue(all(inspect.isfunction(function) for function in (bare, called, named)))
        self.assertIs(self.registry["mail.send"].callable, named)

    def test_a_mistake_is_told_where_it_is_made(self):
        self.assertRaises(ValueError, taskd.task(name="taskd.ping"), example)
        self.assertRaises(TypeError, taskd.task, Point)
        self.assertRaises(ValueError, taskd.task(timeout=0), example)

    def test_what_stops_a_task_is_not_caught_along_with_errors(self):
        for kind in taskd.TaskTimeout, taskd.TaskCancelled:
            self.assertTrue(issubclass(kind, taskd.TaskStopped))
            self.assertFalse(issubclass(kind, Exception))

    def test_hooks_are_kept_in_their_order(self):
        def first():
            pass

        def second():
            pass

        self.assertIs(taskd.on_worker_start(first), first)
        self.assertIs(taskd.on_worker_start(second), second)
        self.assertIs(taskd.on_worker_stop(second), second)
        self.assertEqual(self.registry.start_hooks, [first, second])
        self.assertEqual(self.registry.stop_hooks, [second])


class ProgressTests(SynchronousTestCase):
    def setUp(self):
        self.addCleanup(report_progress_to, report_progress_to(None))

    def test_outside_a_worker_progress_goes_nowhere(self):
        report_progress_to(None)
        self.assertIsNone(taskd.progress(1))
        self.assertIsNone(taskd.progress(1, 2, "message"))

    def test_progress_goes_where_the_worker_wants_it(self):
        reports = []
        report_progress_to(lambda *report: reports.append(report))
        taskd.progress(1)
        taskd.progress(2, total=3)
        taskd.progress(done=2, message="m")
        self.assertEqual(reports, [(1, None, None), (2, 3, None), (2, None, "m")])
        report_progress_to(None)
        taskd.progress(4)
        self.assertEqual(len(reports), 3)
