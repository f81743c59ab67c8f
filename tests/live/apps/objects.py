"""Functions whose exceptions and results are objects with code of their own."""

import os
from collections import UserDict

import msgspec

from taskd import task


class Odd(Exception):
    """Whatever is asked of it raises something: formatting it, and reading its attributes."""

    def __str__(self):
        raise SystemExit("no text")

    def __getattr__(self, name):
        return getattr(self, name)


class OddItems(UserDict):
    def __iter__(self):
        raise SystemExit("no items")


class OddArgument(msgspec.Struct):
    value: int = 0

    def __post_init__(self):
        raise SystemExit("no argument")


class Markup(str):
    """As SafeString of Django."""

    def __str__(self):
        return self


@task
def pid() -> int:
    return os.getpid()


@task
def raise_odd(inside: bool = False) -> None:
    if inside:
        raise ExceptionGroup("several", [Odd(), ValueError("one more")])
    raise Odd


@task
def take_odd(value: OddArgument) -> None:
    """Never called."""


@task
def result(kind: str) -> object:
    itself: list[object] = []
    itself.append(itself)
    return {
        "markup": {"title": Markup("<b>"), "count": 1},
        "nan": {"rows": [{"price": 1.5}, {"price": float("nan")}]},
        "keys": {"by_id": {1: "one", "1": "other"}},
        "items": [OddItems(a=1)],
        "itself": itself,
        "iterator": iter([1]),
    }[kind]
