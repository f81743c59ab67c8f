"""What an app module imports: `task`, `progress`, the worker hooks, and what stops a task.

A task is a plain function, or an ``async def``. Its arguments arrive as JSON
and are checked against its signature and converted by its annotations with
msgspec before it is called::

    from taskd import progress, task

    @task
    def resize(path: str, width: int, height: int | None = None) -> dict[str, int]:
        progress(0, total=1)
        ...
"""

from __future__ import annotations

import inspect
import keyword
import math
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, TypeVar, overload

import msgspec

from taskd.errors import InvalidParams, quoted

__all__ = [
    "FunctionInfo",
    "Parameters",
    "Registry",
    "Task",
    "TaskCancelled",
    "TaskStopped",
    "TaskTimeout",
    "on_worker_start",
    "on_worker_stop",
    "progress",
    "registry",
    "report_progress_to",
    "task",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Hook = TypeVar("_Hook", bound=Callable[[], object])

RESERVED = "taskd."
"""Names that begin so are the server's own methods (docs/protocol.md)."""


GRACE = 5.0
"""Seconds that a stopped function has to clean up in, where it does not say otherwise:
enough to roll back and to delete a file; whoever waits is not kept much longer."""


# --- what stops a task -------------------------------------------------------


class TaskStopped(BaseException):
    """Raised inside a function that is to end now, whatever it is doing.

    Not an `Exception`, as `asyncio.CancelledError` is none: code that catches
    every error and goes on must not swallow it. A function may catch it to
    clean up, for as long as its grace is; what it returns is not used. An
    ``async def`` function gets `asyncio.CancelledError` in its place.
    """


class TaskTimeout(TaskStopped):
    """The function has reached its time limit."""


class TaskCancelled(TaskStopped):
    """Somebody has cancelled the task."""


# --- arguments ---------------------------------------------------------------


def wire_name(parameter: str) -> str:
    """The name that a parameter has on the wire: ``from_`` is ``from`` there.

    Only an underscore that keeps a Python keyword apart is dropped.
    """
    bare = parameter.removesuffix("_")
    return bare if keyword.iskeyword(bare) else parameter


def python_name(argument: str) -> str:
    """The inverse of `wire_name`: the parameter that an argument on the wire stands for."""
    return argument + "_" if keyword.iskeyword(argument) else argument


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
MAX_REASON = 500
"""Characters of a reason why an argument does not fit: it may quote the argument."""

_ARRAY_STARTS, _NULL_STARTS = b"[n"
_EXPECTED = re.compile(r"Expected `(?P<expected>.*?)`(?:, got `(?P<got>.*?)`)?(?: - at `\$(?P<path>.*)`)?$")


def _custom_type(info: Any, seen: set[int]) -> type | None:
    """The first type in an annotation that msgspec does not know; None where it knows all."""
    if isinstance(info, msgspec.inspect.CustomType):
        return info.cls
    if id(info) in seen:
        return None  # a structure that holds itself, or one that stands in many places
    seen.add(id(info))
    if isinstance(info, tuple):
        parts: Iterable[Any] = info
    elif isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        parts = (getattr(info, name) for name in info.__struct_fields__)
    else:
        return None
    return next((found for part in parts if (found := _custom_type(part, seen))), None)


_AllDecoder = Callable[[Any], Any]


def _kind(parameter: inspect.Parameter) -> Any:
    """The type that an argument is converted to."""
    annotation = parameter.annotation
    return Any if annotation in (parameter.empty, object) else annotation


class Parameters:
    """The parameters of one function: how JSON arguments become Python ones.

    Raises `TypeError` or `NameError` where an annotation cannot be resolved
    or is no type that JSON can be converted to.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.signature = inspect.signature(function, eval_str=True)
        self._positional: list[inspect.Parameter] = []
        self._named: dict[str, inspect.Parameter] = {}
        self._more_positional: msgspec.json.Decoder[Any] | None = None
        self._more_named: msgspec.json.Decoder[Any] | None = None
        self._decoders: dict[str, msgspec.json.Decoder[Any]] = {}
        for parameter in self.signature.parameters.values():
            decoder = self._decoder(parameter)
            if parameter.kind is parameter.VAR_POSITIONAL:
                self._more_positional = decoder
            elif parameter.kind is parameter.VAR_KEYWORD:
                self._more_named = decoder
            else:
                self._decoders[parameter.name] = decoder
                self._named[wire_name(parameter.name)] = parameter
                if parameter.kind is not parameter.KEYWORD_ONLY:
                    self._positional.append(parameter)
        self._all_named, self._all_positional = self._decoders_of_all()

    def _decoders_of_all(self) -> tuple[_AllDecoder | None, _AllDecoder | None]:
        """What decodes all arguments at once, by name and by position.

        That is several times as fast as one by one, and fails wherever any of
        them is left out or does not fit: then it is done one by one, which
        finds out what is wrong. None where the function takes any number.
        """
        named = list(self._named.items())
        if not named or self._more_positional is not None or self._more_named is not None:
            return None, None
        fields = [(f"argument_{place}", _kind(parameter)) for place, (_, parameter) in enumerate(named)]
        wire_names = {field: name for (field, _), (name, _) in zip(fields, named, strict=True)}
        decoders: list[_AllDecoder | None] = [None, None]
        if len(self._positional) == len(named):
            for place, array_like in enumerate((False, True)):
                struct = msgspec.defstruct(
                    "Arguments", fields, rename=wire_names, array_like=array_like, forbid_unknown_fields=True
                )
                decoders[place] = msgspec.json.Decoder(struct).decode
        return decoders[0], decoders[1]

    @staticmethod
    def _decoder(parameter: inspect.Parameter) -> msgspec.json.Decoder[Any]:
        kind = _kind(parameter)
        if (custom := _custom_type(msgspec.inspect.type_info(kind), set())) is not None:
            raise TypeError(f"parameter {parameter.name}: JSON cannot be converted to {custom!r}")
        return msgspec.json.Decoder(kind)

    def bind(self, args: msgspec.Raw | None) -> tuple[list[Any], dict[str, Any]]:
        """Turn JSON arguments into positional and keyword ones, converted.

        `args` is the JSON text of an object (by name), of an array (by
        position), or None or null for no arguments. Raises `InvalidParams`, which
        names the first argument that does not fit.
        """
        first = _NULL_STARTS if args is None else memoryview(args)[0]
        if args is None or first == _NULL_STARTS:
            return self._bind_named({})
        at_once = self._all_positional if first == _ARRAY_STARTS else self._all_named
        if at_once is not None:
            try:
                return list(msgspec.structs.astuple(at_once(args))), {}
            except Exception:  # noqa: S110  # whatever it is, it is found below as well, and explained
                pass
        try:
            if first == _ARRAY_STARTS:
                return self._bind_positional(_ARRAY.decode(args))
            return self._bind_named(_OBJECT.decode(args))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidParams(f"the arguments cannot be read: {error}") from None

    def _bind_positional(self, values: list[msgspec.Raw]) -> tuple[list[Any], dict[str, Any]]:
        positional: list[Any] = []
        for parameter, raw in zip(self._positional, values, strict=False):
            positional.append(self._convert(wire_name(parameter.name), self._decoders[parameter.name], raw))
        for raw in values[len(positional) :]:
            if self._more_positional is None:
                raise InvalidParams(
                    f"takes {len(self._positional)} positional arguments, got {len(values)}",
                    expected=len(self._positional),
                    got=len(values),
                )
            positional.append(self._convert(str(len(positional)), self._more_positional, raw))
        for parameter in self._positional[len(values) :]:
            self._require_default(parameter)
        for parameter in self._named.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                self._require_default(parameter)
        return positional, {}

    def _bind_named(self, values: dict[str, msgspec.Raw]) -> tuple[list[Any], dict[str, Any]]:
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for name, raw in values.items():
            parameter = self._named.get(name)
            if parameter is not None:
                named[parameter.name] = self._convert(name, self._decoders[parameter.name], raw)
            elif self._more_named is not None and name not in self._decoders:
                named[name] = self._convert(name, self._more_named, raw)
            else:
                known = ", ".join(self._named) or "none"
                shown = quoted(name)
                raise InvalidParams(f"no parameter {shown!r}; the parameters are: {known}", argument=shown)
        left_out: str | None = None
        for parameter in self._named.values():
            if parameter.name not in named:
                self._require_default(parameter)
                left_out = left_out or wire_name(parameter.name)
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                if left_out is not None:
                    name = wire_name(parameter.name)
                    raise InvalidParams(f"{name} can be given only along with {left_out}", argument=left_out)
                positional.append(named.pop(parameter.name))
        return positional, named

    @staticmethod
    def _require_default(parameter: inspect.Parameter) -> None:
        if parameter.default is parameter.empty:
            name = wire_name(parameter.name)
            raise InvalidParams(f"argument {name!r} is missing", argument=name, got="nothing")

    @staticmethod
    def _convert(name: str, decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw) -> Any:
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError as error:
            name = quoted(name)
            data = {"argument": name}
            if match := _EXPECTED.match(str(error)):
                found = match.groupdict()
                data["argument"] = name + (found.pop("path") or "")
                data |= {key: value for key, value in found.items() if value}
            raise InvalidParams(f"argument {name!r}: {quoted(str(error), MAX_REASON)}", **data) from None
        except Exception as error:  # a type of the app may check more, and raise what it likes
            why = quoted(f"{type(error).__name__}: {error}", MAX_REASON)
            raise InvalidParams(f"argument {name!r} cannot be read: {why}", argument=name) from None


# --- the registry ------------------------------------------------------------


class FunctionInfo(msgspec.Struct, frozen=True):
    """What `taskd.functions` tells of one function.

    `parameters` maps each name on the wire to its annotation, as text ("" for
    none); `signature` is as a Python programmer would read it. `timeout` is the
    function's own time limit and `grace` what it has to clean up in, in seconds.
    """

    name: str
    signature: str
    summary: str
    parameters: dict[str, str]
    timeout: float | None = None
    grace: float = GRACE


class Task:
    """One registered function, under the name that it has on the wire.

    `timeout` and `grace` are in seconds; None for no limit of its own.
    """

    def __init__(
        self, name: str, function: Callable[..., Any], timeout: float | None = None, grace: float = GRACE
    ) -> None:
        self.name = name
        self.function = function
        self.timeout = timeout
        self.grace = grace
        self.is_async = inspect.iscoroutinefunction(function)

    @cached_property
    def parameters(self) -> Parameters:
        """Resolved on first use: an annotation may name what its module defines later."""
        return Parameters(self.function)

    @property
    def where(self) -> str:
        """The file and line of the function, as far as Python knows them."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(self.function)

    def describe(self) -> FunctionInfo:
        """What a user of this function wants to know of it."""
        signature = inspect.signature(self.function)
        doc = inspect.getdoc(self.function) or ""
        return FunctionInfo(
            name=self.name,
            signature=f"{self.name}{signature}",
            summary=doc.partition("\n")[0],
            parameters={
                wire_name(parameter.name): _annotation_text(parameter.annotation)
                for parameter in signature.parameters.values()
            },
            timeout=self.timeout,
            grace=self.grace,
        )


def _annotation_text(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


class Registry:
    """The functions that may be called, by name. Nothing else ever runs."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self.start_hooks: list[Callable[[], object]] = []
        self.stop_hooks: list[Callable[[], object]] = []

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    def __getitem__(self, name: str) -> Task:
        return self._tasks[name]

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)

    def add(
        self,
        function: Callable[..., Any],
        name: str | None = None,
        timeout: float | None = None,
        grace: float | None = None,
    ) -> Task:
        """Register `function` under `name` (default: its own).

        Raises `TypeError` for what can be no task, `ValueError` for a name
        that is reserved, or taken by another function, and for a `timeout` or
        a `grace` that is no number of seconds.
        """
        if timeout is not None and not (_is_seconds(timeout) and timeout > 0):
            raise ValueError(f"timeout is a number of seconds above 0, not {timeout!r}")
        if grace is not None and not (_is_seconds(grace) and grace >= 0):
            raise ValueError(f"grace is a number of seconds, 0 or more, not {grace!r}")
        if not callable(function) or inspect.isclass(function):
            raise TypeError(f"a task is a function, not {function!r}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function!r} is a generator; a task returns its result")
        if name is None and not hasattr(function, "__name__"):
            raise TypeError(f"{function!r} has no name of its own: give it one with name=")
        own_name = name if name is not None else function.__name__
        added = Task(own_name, function, timeout, GRACE if grace is None else grace)
        if not added.name or added.name.startswith(RESERVED):
            raise ValueError(
                f"a task cannot be named {added.name!r}: names in {RESERVED} are the server's own"
            )
        known = self._tasks.get(added.name)
        if known is not None and known.where != added.where:
            raise ValueError(f"two tasks are named {added.name!r}: {known.where} and {added.where}")
        self._tasks[added.name] = added
        return added

    def compile(self) -> None:
        """Resolve every signature now, so that a mistake shows at the start.

        Raises `TypeError`, which names the task, where one cannot be.
        """
        for entry in self:
            try:
                _ = entry.parameters
            except Exception as error:
                raise TypeError(f"task {entry.name!r} ({entry.where}): {error}") from error


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


registry = Registry()
"""Where `task` and the hooks register: a decorator in an app module has no
argument to take a registry by. Everything else is handed the registry it uses."""


@overload
def task(function: _Function, /) -> _Function: ...
@overload
def task(
    *, name: str | None = None, timeout: float | None = None, grace: float | None = None
) -> Callable[[_Function], _Function]: ...
def task(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    grace: float | None = None,
) -> Any:
    """Register a function as a task; the function itself is returned unchanged.

    Bare (``@task``), or with a `name` for the wire (``@task(name="mail.send")``),
    or with a time limit: after `timeout` seconds `TaskTimeout` is raised in the
    function, and where it has not ended `grace` seconds (`GRACE`) later, its
    process is ended. Raises as `Registry.add` does.
    """

    def register(function: _Function) -> _Function:
        registry.add(function, name, timeout, grace)
        return function

    return register if function is None else register(function)


def on_worker_start(hook: _Hook) -> _Hook:
    """Call `hook` in each worker process before its first task.

    The place for a database connection. Where it raises, the worker exits,
    the traceback is logged, and another is tried after a growing while.
    """
    registry.start_hooks.append(hook)
    return hook


def on_worker_stop(hook: _Hook) -> _Hook:
    """Call `hook` in each worker process that ends in order (not in one that is killed)."""
    registry.stop_hooks.append(hook)
    return hook


# --- progress ----------------------------------------------------------------

_Sink = Callable[[float, float | None, str | None], None]


def _nowhere(done: float, total: float | None, message: str | None) -> None:
    """Where progress goes outside a worker: a task may be called as a plain function."""


_sink: _Sink = _nowhere


def progress(done: float, total: float | None = None, message: str | None = None) -> None:
    """Tell whoever waits for the running task how far it is.

    `done` and `total` are in any unit, the same for both. Cheap enough to be
    called for every row: at most 20 reports a second are sent for a task,
    the last one always. Outside a worker it does nothing.
    """
    _sink(done, total, message)


def report_progress_to(sink: _Sink | None) -> None:
    """Set where `progress` goes in this process; None for nowhere. The worker calls it."""
    global _sink
    _sink = sink or _nowhere
