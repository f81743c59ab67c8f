"""Functions whose annotations are written in all the ways that people write them."""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect
from typing import Annotated, Literal, NewType, Union

from msgspec import Meta

from taskd import task

Positive = Annotated[int, Meta(gt=0)]
UserId = NewType("UserId", int)
Number = int


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@task
def numbers(
    a: Positive,
    b: UserId,
    c: Literal[1, 2],
    d: Level,
    e: Number,
    f: int | None,
    g: "Union[int, None]",  # noqa: UP007, UP037
) -> list[int | None]:
    return [a, b, c, d, e, f, g]


@task
def counts(**count: int) -> dict[str, int]:
    return count


@task
def fetch(urls: list[str]) -> list[str]:
    return urls


@task
def mail(from_: str, copies: int = 1) -> str:
    return from_ * copies


def ordinary(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def with_connection(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function("a connection", *args, **kwargs)

    shown = inspect.signature(function)
    wrapper.__signature__ = shown.replace(parameters=list(shown.parameters.values())[1:])
    return wrapper


@task
@ordinary
async def later(number: int) -> int:
    await asyncio.sleep(0)
    return number


@task
@with_connection
def query(connection, limit: int) -> list:
    return [connection, limit]
