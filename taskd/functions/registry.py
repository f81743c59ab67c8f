"""The registry of an app's functions, the decorator `task`, and the hooks of a worker's start and end.

A function is a plain one, or an ``async def``. Its arguments arrive as JSON
and are checked against its signature and converted by its annotations with
msgspec before it is called::

    from taskd import progress, task

    @task
    def resize(path: str, width: int, height: int | None = None) -> dict[str, int]:
        progress(0, total=1)
        ...
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec

from taskd.functions.awaitables import is_async, may_be_async
from taskd.functions.descriptions import ParameterInfo, describe_parameters, signature_text
from taskd.functions.durability import Durability
from taskd.functions.labels import checked_needs
from taskd.functions.origins import Origin
from taskd.functions.parameters import Parameters
from taskd.functions.raised import encodable
from taskd.functions.retries import RETRY_FOR, RetryFor
from taskd.functions.schedule import Schedule
from taskd.functions.secret_arguments import SecretArguments
from taskd.functions.signatures import innermost, place, require_function
from taskd.functions.stops import GRACE
from taskd.functions.wire_names import RESERVED

__all__ = [
    "Function",
    "FunctionInfo",
    "Registry",
    "registry",
]


class FunctionInfo(msgspec.Struct, frozen=True):
    """The description of one function, as the method `taskd.functions` returns it.

    `parameters` describes each by its name on the wire, in the order of the
    signature. `signature` is in Python's notation, but with those names;
    `summary` is the first line of the docstring. `timeout` is the function's
    own time limit (None for none) and `grace` the time that it has to clean up,
    both in seconds. `durable` says how its tasks are stored, None if only some are,
    and `schedule` when the server runs it by itself, None for never. It runs only on nodes
    that have all the labels in `needs`; `missing` are those of them that the node which
    describes it does not have.
    """

    name: str
    signature: str
    summary: str
    parameters: dict[str, ParameterInfo]
    timeout: float | None = None
    grace: float = GRACE
    durable: Durability | None = None
    schedule: Schedule | None = None
    needs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Function:
    """A registered function, under the name that it has on the wire.

    `timeout` is its own time limit in seconds, None for none; `grace` is the
    time that it has to clean up, in seconds. `origin` is where it was registered.
    `durable` says how its tasks are stored, None if only those that are submitted;
    after an exception of the classes `retry_for` those may be tried again.
    `schedule` says when the server runs it by itself, None for never. It runs only
    on nodes that have all the labels in `needs`.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        timeout: float | None = None,
        grace: float = GRACE,
        origin: Origin | None = None,
        durable: Durability | None = None,
        schedule: Schedule | None = None,
        retry_for: RetryFor = RETRY_FOR,
        needs: tuple[str, ...] = (),
    ) -> None:
        self.needs = needs
        self.durable = durable
        self.schedule = schedule
        self.retry_for = retry_for
        self.name = name
        self.callable = function
        self.timeout = timeout
        self.grace = grace
        self.origin = origin
        self.is_async = is_async(function)
        self.may_be_async = may_be_async(function)

    @cached_property
    def parameters(self) -> Parameters:
        """The function's parameters, resolved on first use.

        Resolving them earlier would fail if an annotation names something that
        its module defines later. Raises as `Parameters` does.
        """
        return Parameters(self.callable)

    @cached_property
    def secrets(self) -> SecretArguments:
        """The arguments that are shown nowhere. Raises as `Parameters` does."""
        return SecretArguments.of(describe_parameters(self.parameters))

    @property
    def where(self) -> str:
        """The file and line of the function (``app.py:12``), or its `repr` if Python does not know them."""
        source = innermost(self.callable)
        return place(source) if source is not None else repr(self.callable)

    def describe(self) -> FunctionInfo:
        """Return the function's description for callers.

        Raises as `Parameters` does, and `TypeError` if its concurrency key is none of its parameters.
        """
        parameters = describe_parameters(self.parameters)
        if self.durable is not None:
            self.durable.check_key(parameters)
        return FunctionInfo(
            name=self.name,
            signature=encodable(
                f"{self.name}{signature_text(self.parameters.signature, self.parameters.secret)}"
            ),
            summary=encodable(_doc(self.callable).partition("\n")[0]),
            parameters=parameters,
            timeout=self.timeout,
            grace=self.grace,
            durable=self.durable,
            schedule=self.schedule,
            needs=self.needs,
        )


def _doc(function: Callable[..., Any]) -> str:
    """Return the docstring of a callable, not of the class that it is an instance of if there is another."""
    if inspect.isroutine(function) or "__doc__" in getattr(function, "__dict__", ()):
        return inspect.getdoc(function) or ""
    is_partial = isinstance(function, functools.partial)
    doc = getattr(innermost(function), "__doc__", None) or (None if is_partial else type(function).__doc__)
    return inspect.cleandoc(doc) if isinstance(doc, str) else ""


class Registry:
    """The functions that may be called, by name: a worker calls no others.

    `start_hooks` and `stop_hooks` are called without arguments, in order.
    `load_hooks` are, too, once, in the process that imports the apps: after the app
    that has added them, and not where its modules are only imported.
    """

    def __init__(self) -> None:
        self._functions: dict[str, Function] = {}
        self._by_identity: dict[int, Function] = {}
        self.load_hooks: list[Callable[[], object]] = []
        self.start_hooks: list[Callable[[], object]] = []
        self.stop_hooks: list[Callable[[], object]] = []

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    def __getitem__(self, name: str) -> Function:
        return self._functions[name]

    def __iter__(self) -> Iterator[Function]:
        return iter(self._functions.values())

    def __len__(self) -> int:
        return len(self._functions)

    def add(
        self,
        function: Callable[..., Any],
        name: str | None = None,
        timeout: float | None = None,
        grace: float | None = None,
        durable: Durability | None = None,
        schedule: Schedule | None = None,
        retry_for: RetryFor = RETRY_FOR,
        needs: str | Sequence[str] = (),
    ) -> Function:
        """Register `function` under `name` (default: its own name).

        `timeout` and `grace` are in seconds; None means no time limit, and `GRACE`.
        Registering the same function again changes nothing but its limits. A
        module that is imported again, or reloaded, replaces its functions.

        Raises `TypeError` if `function` cannot be a function of an app (a
        class, a method without its object) or has no name;
        `ValueError` if the name is reserved or belongs to another function, if
        `timeout` is not above 0, if `grace` is below 0, or if one of `needs` is no label.
        """
        if timeout is not None and not (_is_seconds(timeout) and timeout > 0):
            raise ValueError(f"timeout is a number of seconds above 0, not {timeout!r}")
        if grace is not None and not (_is_seconds(grace) and grace >= 0):
            raise ValueError(f"grace is a number of seconds, 0 or more, not {grace!r}")
        if isinstance(function, staticmethod):
            function = function.__func__
        require_function(function)
        added = Function(
            _name_of(function, name),
            function,
            timeout,
            GRACE if grace is None else grace,
            Origin.current(),
            durable,
            schedule,
            retry_for,
            checked_needs(needs),
        )
        known = self._functions.get(added.name)
        if known is not None and not _may_replace(known, added):
            raise ValueError(_two_of_one_name(known, added))
        self._functions[added.name] = added
        if known is not None and self._by_identity.get(id(known.callable)) is known:
            del self._by_identity[id(known.callable)]
        self._by_identity[id(added.callable)] = added
        return added

    def name_of(self, function: object) -> str:
        """Return the name of a registered function; of several, the one that was registered last.

        Raises `TypeError` if this very object is not registered.
        """
        found = self._by_identity.get(id(function))
        if found is None and inspect.ismethod(function):  # a method is another object each time
            found = next((each for each in self if each.callable == function), None)
        if found is None:
            raise TypeError(
                f"{function!r} is not registered: decorate it with @task, outermost, "
                "or give the name that it has on the server"
            )
        return found.name

    def compile(self) -> None:
        """Resolve and describe every signature now, so that a mistake shows at the start.

        Raises `TypeError`, which names the function, if a signature cannot be
        resolved, or if a function with a schedule needs arguments.
        """
        for entry in self:
            try:
                described = entry.describe()
                msgspec.json.encode(described)
                _check_schedule(described)
            except Exception as error:
                raise TypeError(f"function {entry.name!r} ({entry.where}): {error}") from error


def _check_schedule(function: FunctionInfo) -> None:
    """Raise `ValueError` if a function with a schedule, which runs without arguments, needs some."""
    needed = [name for name, parameter in function.parameters.items() if parameter.required]
    if function.schedule is not None and needed:
        raise ValueError(
            f"it has a schedule ({function.schedule.line}), and is run without arguments: "
            f"give {', '.join(needed)} a default"
        )


def _name_of(function: Callable[..., Any], name: object) -> str:
    if name is None:
        name = getattr(function, "__name__", None)
        if name is None:
            raise TypeError(f"{function!r} has no name of its own: give it one with @task(name=…)")
    if not isinstance(name, str):
        raise TypeError(f"a function's name is a text, not {name!r}")
    if not name or name.startswith(RESERVED) or name != encodable(name):
        raise ValueError(
            f"a function cannot be named {name!r}: names are not empty and can be encoded as UTF-8, "
            f"and those in {RESERVED} are the server's own"
        )
    return name


def _may_replace(known: Function, added: Function) -> bool:
    """Return whether `added` is the same function as `known`, or its module has been run again."""
    if known.callable is added.callable:
        return True
    if inspect.ismethod(known.callable) and known.callable == added.callable:
        return True  # a method is another object each time
    return (
        known.origin is not None and added.origin is not None and added.origin.is_another_run_of(known.origin)
    )


def _two_of_one_name(known: Function, added: Function) -> str:
    """Explain that two functions have the same name: where both are, and what to do."""
    first, second = (
        f"{each.where}, registered at {each.origin}"
        if each.origin is not None and str(each.origin) != each.where
        else each.where
        for each in (known, added)
    )
    both = f"both {first}" if first == second else f"{first}, and {second}"
    advice = "give each a name of its own: @task(name=…)"
    if "<locals>" in str(getattr(added.callable, "__qualname__", "")):
        advice += (
            "; or, if they come from a decorator, functools.wraps there keeps the names of what it wraps"
        )
    return f"two functions are named {added.name!r}: {both}; {advice}"


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


registry = Registry()
"""The registry that `task` and the hooks use, since a decorator in an app module cannot be
passed one. Everything else takes its registry as an argument."""
