"""The mark of secret arguments: where in a type it is found, and what callers see of such a parameter."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar, Unpack

import msgspec
from msgspec import Meta, Raw
from twisted.trial.unittest import SynchronousTestCase

import taskd
from taskd.errors import InvalidParams
from taskd.functions.durability import Durability
from taskd.functions.registry import Registry
from taskd.functions.secrets import Secret, has_secret

Password = Annotated[str, Secret]
Kind = TypeVar("Kind")
NewPassword = NewType("NewPassword", Password)


@dataclass
class Login:
    user: str
    password: Password
    parent: "Login | None" = None

    def __post_init__(self) -> None:
        if self.user == "bad":
            raise ValueError(f"too long: {self.password}")


@dataclass
class Plain:
    user: str
    parent: "Plain | None" = None


class Sealed(msgspec.Struct):
    key: Password = ""


class Options(TypedDict, total=False):
    key: Password
    name: str


class Pair(NamedTuple):
    user: str
    password: Password


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Box(Generic[Kind]):
    content: Kind


class Broken:
    it: "Missing"  # noqa: F821


class MarkTests(SynchronousTestCase):
    def test_apps_import_the_mark_from_taskd(self):
        self.assertIs(taskd.Secret, Secret)

    def test_the_mark_is_found_wherever_it_is_in_a_type(self):
        for annotation in (
            Password,
            Annotated[str, Secret()],
            Annotated[str, Meta(max_length=5), Secret],
            Password | None,
            list[Password],
            Sequence[Password],
            dict[str, Password],
            tuple[int, Password],
            Login,
            list[Login | None],
            Sealed,
            Options,
            Pair,
            NewPassword,
            Box[Password],
        ):
            self.assertTrue(has_secret(annotation), annotation)

    def test_other_types_are_not_secret(self):
        for annotation in (str, Any, Plain, Colour, Literal["Secret"], Box[int], list[Plain], Kind, Broken):
            self.assertFalse(has_secret(annotation), annotation)
        self.assertFalse(has_secret(Annotated[str, "a remark"]))


def described(function, **more):
    registry = Registry()
    added = registry.add(function, "f", **more)
    registry.compile()
    return added.describe()


class DescriptionTests(SynchronousTestCase):
    def test_a_parameter_says_that_it_is_secret(self):
        def f(user: str, password: Password, *more: Login, **options: Unpack[Options]): ...

        parameters = described(f).parameters
        secret = {name for name, each in parameters.items() if each.secret}
        self.assertEqual(secret, {"password", "more", "key"})

    def test_the_default_of_a_secret_is_not_shown(self):
        def f(user: str = "root", password: Password = "hunter2", other: Password | None = None): ...

        text = described(f).signature
        self.assertIn("user: str = 'root'", text)
        self.assertIn("= …", text)
        self.assertIn("= None", text)
        self.assertNotIn("hunter2", text)

    def test_a_secret_is_no_concurrency_key_since_a_key_is_stored_and_shown(self):
        def f(user: str, password: Password): ...

        def g(user: str, **more: Password): ...

        for function, key in ((f, "password"), (g, "anything")):
            durable = Durability.of(durable=True, concurrency=1, concurrency_key=key)
            with self.assertRaisesRegex(TypeError, f"concurrency_key '{key}' is a secret argument"):
                described(function, durable=durable)
        for function in f, g:
            durable = Durability.of(durable=True, concurrency=1, concurrency_key="user")
            self.assertEqual(described(function, durable=durable).durable, durable)


class RefusalTests(SynchronousTestCase):
    """What a caller learns of a secret argument that does not fit."""

    def refused(self, function, args):
        with self.assertRaises(InvalidParams) as caught:
            Registry().add(function, "f").parameters.bind(Raw(args))
        self.assertNotIn("hunter2", repr((caught.exception.message, caught.exception.data)))
        self.assertIsNone(caught.exception.__cause__)
        return caught.exception

    def test_the_types_are_named(self):
        def f(password: Annotated[str, Secret, Meta(min_length=10)], code: Annotated[int, Secret] = 1): ...

        error = self.refused(f, b'["hunter2"]')
        self.assertEqual(error.message, "argument 'password', which is secret: expected str of length >= 10")
        error = self.refused(f, b'{"password":"long enough","code":"hunter2"}')
        self.assertEqual(error.data, {"argument": "code", "expected": "int", "got": "str"})

    def test_no_value_is_quoted(self):
        def f(password: Annotated[Literal["a", "b"], Secret], *more: Login): ...

        error = self.refused(f, b'["hunter2"]')
        self.assertEqual(error.message, "argument 'password', which is secret: its value does not fit")
        self.refused(f, b'["a",{"user":"bad","password":"hunter2"}]')
        self.assertEqual(self.refused(f, b'["a",{"user":1,"password":"hunter2"}]').data["got"], "int")

    def test_an_exception_of_a_check_of_the_app_is_named_by_its_type(self):
        class OddPath(PurePosixPath):
            def __new__(cls, text):
                raise RuntimeError(text)

        def f(path: Annotated[OddPath, Secret]): ...

        error = self.refused(f, b'["hunter2"]')
        self.assertEqual(error.message, "argument 'path', which is secret: its check has raised RuntimeError")

    def test_other_arguments_are_quoted_as_ever(self):
        def f(colour: Literal["red"], password: Password = ""): ...

        with self.assertRaisesRegex(InvalidParams, "blue"):
            Registry().add(f, "f").parameters.bind(Raw(b'["blue","hunter2"]'))
