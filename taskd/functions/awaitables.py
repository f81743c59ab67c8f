"""Awaitable results: whatever a function returns is awaited if it can be."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from taskd.functions.signatures import innermost

__all__ = ["NEVER_AWAITABLE", "is_async", "may_be_async", "must_await", "settled"]

NEVER_AWAITABLE = frozenset({type(None), bool, int, float, str, bytes, list, dict, tuple})
"""The types of most results: to look here first is several times as fast as `must_await`."""


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether calling `function` runs nothing yet, but makes a coroutine: it is an ``async def``."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004  # the method, not whether there is one
    )


def may_be_async(function: Callable[..., Any]) -> bool:
    """Return whether `function` is an ``async def``, or decorators, however plain, around one.

    It may be an async generator function, too.
    """
    inside = innermost(function)
    return is_async(function) or inspect.iscoroutinefunction(inside) or inspect.isasyncgenfunction(inside)


must_await = inspect.isawaitable


async def settled(result: Any) -> Any:
    """Await a result, and what that returns, until it need not be awaited."""
    while must_await(result):
        result = await result
    return result
