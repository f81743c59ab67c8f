"""The signature that callers have to keep to, whatever a function is wrapped in."""

import dataclasses
import datetime
import enum
import functools
import inspect
from typing import TYPE_CHECKING, Annotated, NotRequired, ParamSpec, TypedDict, TypeVar, Unpack

import msgspec
from msgspec import UNSET, Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import InvalidParams
from taskd.functions.descriptions import describe_parameters, signature_text
from taskd.functions.parameters import Parameters
from taskd.functions.registry import Function, Registry
from taskd.functions.secrets import Secret
from taskd.functions.signatures import explain_misfit, innermost, signature, takes_signature_of_another

if TYPE_CHECKING:
    from decimal import Decimal

P = ParamSpec("P")
R = TypeVar("R")
Positive = Annotated[int, msgspec.Meta(gt=0)]


class Level(enum.Enum):
    HIGH = "high"


@dataclasses.dataclass
class Price:
    amount: "Decimal"


class Options(TypedDict):
    width: int
    height: NotRequired[int]


def query(conn, sql: str, limit: "Positive" = 10):
    return conn, sql, limit


def ordinary(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def injects(function):
    """Pass the first argument, and show what remains."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function("conn", *args, **kwargs)

    shown = inspect.signature(function)
    wrapper.__signature__ = shown.replace(parameters=list(shown.parameters.values())[1:])
    return wrapper


def injects_in_secret(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function("conn", *args, **kwargs)

    return wrapper


def injects_with_parameters(function):
    @functools.wraps(function)
    def wrapper(sql, limit=5):
        return function("conn", sql, limit)

    return wrapper


def wants_more(function):
    @functools.wraps(function)
    def wrapper(*args, tenant, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def names_the_first(function):
    @functools.wraps(function)
    def wrapper(first, *args, **kwargs):
        return function(first, *args, **kwargs)

    return wrapper


def typed(function):
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return wrapper


class Service:
    def method(self, sql: str):
        return "conn", sql, 10

    def __call__(self, sql: str):
        return "conn", sql, 10

    @ordinary
    def decorated(self, sql: str):
        return "conn", sql, 10


def call(function, args):
    positional, named = Parameters(function).bind(Raw(args))
    return function(*positional, **named)


class SignatureTests(SynchronousTestCase):
    def test_a_wrapper_with_its_own_signature_hides_the_arguments_that_it_passes(self):
        for function in injects(query), ordinary(injects(query)), ordinary(ordinary(injects(query))):
            self.assertEqual(list(Parameters(function).signature.parameters), ["sql", "limit"])
            self.assertEqual(call(function, b'{"sql":"x"}'), ("conn", "x", 10))
            error = self.assertRaises(InvalidParams, call, function, b'{"sql":"x","limit":0}')
            self.assertEqual(error.data["argument"], "limit")

    def test_a_wrapper_that_cannot_be_called_as_it_shows_has_its_own_parameters(self):
        for function in injects_with_parameters(query), ordinary(injects_with_parameters(query)):
            self.assertEqual(call(function, b'{"sql":"x"}'), ("conn", "x", 5))
            self.assertEqual(call(function, b'["x",7]'), ("conn", "x", 7))
            error = self.assertRaises(InvalidParams, call, function, b"[5]")
            self.assertEqual(error.data["expected"], "str")

    def test_a_wrapper_that_names_its_parameters_otherwise_takes_them_by_position(self):
        def doubles(function):
            @functools.wraps(function)
            def wrapper(x):
                return function(x * 2)

            return wrapper

        def one(n: int):
            return n

        def optional(n: int = 1):
            return n

        self.assertEqual(call(doubles(one), b'{"n":2}'), 4)
        self.assertEqual(call(doubles(optional), b'{"x":2}'), 4)  # by {} it cannot be called

    def test_a_wrapper_that_nobody_can_call_is_refused(self):
        for function in wants_more(query), ordinary(wants_more(query)):
            error = self.assertRaises(TypeError, signature, function)
            for words in "tenant", f"{__file__}:", "__signature__":
                self.assertIn(words, str(error))

    def test_if_a_wrapper_may_pass_an_argument_the_error_for_a_missing_one_says_how_to_show_it(self):
        error = self.assertRaises(InvalidParams, call, injects_in_secret(query), b'{"sql":"x"}')
        self.assertIn("'conn' is missing", error.message)
        self.assertIn("__signature__", error.message)
        for function in query, injects(query):
            error = self.assertRaises(InvalidParams, call, function, b"{}")
            self.assertNotIn("__signature__", error.message)

    def test_a_wrapper_that_passes_everything_on_shows_what_is_inside(self):
        for function in (
            ordinary(query),
            names_the_first(query),
            functools.cache(query),
            functools.singledispatch(query),
            ordinary(functools.partial(query)),
        ):
            self.assertEqual(call(function, b'{"conn":"conn","sql":"x"}'), ("conn", "x", 10))
        self.assertEqual(call(typed(query), b'["conn","x"]'), ("conn", "x", 10))

    def test_methods_partials_and_callable_objects_have_what_callers_have_to_pass(self):
        for function in (
            Service().method,
            Service().decorated,
            Service(),
            functools.partial(query, "conn"),
            functools.partial(injects(query), limit=10),
        ):
            self.assertEqual(call(function, b'{"sql":"x"}'), ("conn", "x", 10), function)

    def test_a_builtin_without_a_signature_is_refused(self):
        error = self.assertRaises(TypeError, signature, max)
        self.assertIn("def", str(error))

    def test_an_object_that_makes_up_its_attributes_has_an_end(self):
        class Endless:
            def __getattr__(self, name):
                if name != "__wrapped__":
                    raise AttributeError(name)
                return Endless()

            def __call__(self):
                return 1

        self.assertIs(innermost(Endless()), None)
        self.assertRaises(TypeError, signature, Endless())

    def test_a_hundred_and_fifty_decorators_keep_the_signature(self):
        def layers(count):
            inner = query
            for _ in range(count):
                inner = ordinary(inner)
            return inner

        self.assertEqual(list(signature(layers(150)).parameters), ["conn", "sql", "limit"])

    def test_the_innermost_function_is_found(self):
        for function in (
            query,
            ordinary(query),
            functools.partial(query),
            functools.partial(ordinary(query), 1),
            functools.cache(query),
        ):
            self.assertIs(innermost(function), query)
        self.assertIs(innermost(Service().method), Service.method)
        self.assertIs(innermost(Service()), Service.__call__)
        self.assertIs(innermost(len), None)

    def test_a_signature_is_anothers_only_by_wraps(self):
        self.assertTrue(takes_signature_of_another(ordinary(query)))
        for function in query, injects(query), Service(), functools.partial(ordinary(query)):
            self.assertFalse(takes_signature_of_another(function))


class MisfitTests(SynchronousTestCase):
    def notes(self, function, *args):
        """Return the notes of the `TypeError` that a call raises."""
        error = self.assertRaises(TypeError, function, *args)
        explain_misfit(function, error)
        return getattr(error, "__notes__", [])

    def test_a_call_that_a_wrapper_makes_wrongly_is_explained(self):
        for function in injects_in_secret(query), ordinary(injects_in_secret(query)):
            (note,) = self.notes(function, "conn", "x", 5)
            self.assertIn(f"{__file__}:", note)
            self.assertIn("__signature__", note)

    def test_errors_of_the_function_itself_are_not_explained(self):
        def fails(n):
            return len(n)

        for function in fails, ordinary(fails), functools.partial(ordinary(fails)), Service():
            self.assertEqual(
                self.notes(function, 5, *([6] if isinstance(function, Service) else [])), [], function
            )

    def test_an_error_that_was_never_raised_has_no_note(self):
        error = TypeError()
        explain_misfit(ordinary(query), error)
        explain_misfit(ordinary(query), ValueError())
        self.assertFalse(hasattr(error, "__notes__"))


class ResolvingTests(SynchronousTestCase):
    def test_annotations_are_resolved_however_they_are_quoted(self):
        Local = int  # noqa: N806

        def function(n):
            return n, Local

        for annotation in (
            "int",
            "'int'",
            "Positive",
            list["Positive"],
            "list['Positive']",
            "int | None",
            "Local",
        ):
            function.__annotations__["n"] = annotation
            value = b"[[1]]" if "list" in str(annotation) else b"[1]"
            self.assertEqual(call(function, value), ([1] if value == b"[[1]]" else 1, int), annotation)
            self.assertRaises(InvalidParams, call, function, b'["x"]')

    def test_a_variable_without_a_value_yet_resolves_nothing(self):
        def enclosing():
            def inner(n: "int"):
                return missing

            yield inner
            missing = 1

        self.assertEqual(Parameters(next(enclosing())).bind(Raw(b"[1]")), ((1,), {}))

    def test_a_type_that_only_a_type_checker_imports_is_refused_by_name(self):
        def direct(amount: "Decimal"):
            pass

        def inside(price: Price):
            pass

        for function, name in (direct, "amount"), (inside, "price"):
            error = self.assertRaises(TypeError, Parameters, function)
            for words in f"parameter {name!r}", "'Decimal'", "TYPE_CHECKING":
                self.assertIn(words, str(error))

    def test_a_return_annotation_that_cannot_be_resolved_is_no_error(self):
        def function(n: int) -> "Decimal":
            pass

        self.assertEqual(Parameters(function).bind(Raw(b"[1]")), ((1,), {}))
        self.assertEqual(Function("f", function).describe().signature, "f(n: int) -> Decimal")

    def test_an_annotation_that_is_not_python_is_named(self):
        for annotation in "int |", "int.missing", "print(", "1 / 0", "5":

            def function(n):
                pass

            function.__annotations__["n"] = annotation
            error = self.assertRaises(TypeError, Parameters, function)
            self.assertIn("parameter 'n'", str(error))
            self.assertIn(repr(annotation), str(error))

    def test_the_keys_of_unpacked_options_are_arguments(self):
        def function(**options: Unpack[Options]):
            return options

        self.assertEqual(call(function, b'{"width":1}'), {"width": 1})
        self.assertEqual(call(function, b'{"height":2,"width":1}'), {"height": 2, "width": 1})
        for args in b'{"height":1}', b'{"width":"x"}', b'{"width":1,"depth":1}':
            self.assertRaises(InvalidParams, call, function, args)
        described = describe_parameters(Parameters(function))
        self.assertEqual([each.required for each in described.values()], [True, False])


class DescriptionTests(SynchronousTestCase):
    def test_a_signature_has_the_names_of_the_wire_and_the_marks_of_python(self):
        def nothing():
            pass

        def both(from_: "str", n=1, /, class_=None, *, in_: int = 2) -> None:
            pass

        def stars(*args: int, last, **kwargs: "str"):
            pass

        def positional(n, /):
            pass

        for function, text in [
            (nothing, "()"),
            (both, "(from: str, n=1, /, class=None, *, in: int = 2) -> None"),
            (stars, "(*args: int, last, **kwargs: str)"),
            (positional, "(n, /)"),
            (lambda *, n: n, "(*, n)"),
            (lambda n, *, m: n, "(n, *, m)"),
            (lambda a_, from__: a_, "(a_, from__)"),
        ]:
            self.assertEqual(signature_text(inspect.signature(function)), text)

    def test_a_default_is_shown_at_a_bounded_length_on_one_line_whatever_it_is(self):
        class Silent:
            def __repr__(self):
                raise ValueError

        class Long:
            def __repr__(self):
                return "line\n" * 1000

        def function(a=Silent(), b=Long()):  # noqa: B008
            pass

        text = signature_text(inspect.signature(function))
        self.assertTrue(text.startswith("(a=…, b=line line"), text)
        self.assertLess(len(text), 200)
        self.assertNotIn("\n", text)

    def test_each_parameter_has_its_kinds_and_how_it_is_passed(self):
        def function(from_: int, /, n: str = "", *rest: float, last: bool, **more: "int | None"):
            pass

        described = describe_parameters(Parameters(function))
        self.assertEqual(
            {
                name: (each.required, each.passed, [kind.type for kind in each.kinds], each.annotation)
                for name, each in described.items()
            },
            {
                "from": (True, "either", ["integer"], "int"),
                "n": (False, "either", ["string"], "str"),
                "rest": (False, "more_positions", ["number"], "float"),
                "last": (True, "by_name", ["boolean"], "bool"),
                "more": (False, "more_names", ["integer", "null"], "int | None"),
            },
        )

    def test_a_default_is_described_if_a_form_has_room_for_it(self):
        for default, described in [
            ("A4", "A4"),
            (3, 3),
            (-0.5, -0.5),
            (True, True),
            (Level.HIGH, "high"),
            (datetime.date(2026, 12, 24), "2026-12-24"),
            ("x" * 101, UNSET),
            (2**60, UNSET),
            (float("nan"), UNSET),
            (None, UNSET),
            ([], UNSET),
        ]:

            def function(a=default):
                pass

            found = describe_parameters(Parameters(function))["a"]
            self.assertEqual(found.default, described, default)

    def test_the_default_of_a_secret_is_not_described(self):
        def function(key: Annotated[str, Secret] = "swordfish"):
            pass

        self.assertIs(describe_parameters(Parameters(function))["key"].default, UNSET)

    def test_a_summary_is_that_of_the_function_not_of_what_holds_it(self):
        def documented():
            """Do it.

            At length.
            """

        class Documented:
            """A thing that does it."""

            def __call__(self):
                pass

        class Called:
            def __call__(self):
                """Do it when called."""

        for function, summary in [
            (documented, "Do it."),
            (ordinary(documented), "Do it."),
            (functools.partial(documented), "Do it."),
            (functools.cache(documented), "Do it."),
            (Documented(), "A thing that does it."),
            (Called(), "Do it when called."),
            (functools.partial(query), ""),
            (len, "Return the number of items in a container."),
        ]:
            self.assertEqual(Function("f", function).describe().summary, summary, function)

    def test_a_description_that_cannot_be_sent_is_found_at_the_start(self):
        def function(a):
            pass

        function.__doc__ = "half a character: \ud800"
        registry = Registry()
        self.assertEqual(registry.add(function).describe().summary, "half a character: \\ud800")
        registry.compile()
