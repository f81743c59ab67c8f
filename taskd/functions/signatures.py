"""Signatures: what a callable's callers may pass, with every annotation resolved to a type."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from types import FunctionType, SimpleNamespace
from typing import Any

from msgspec import UNSET

__all__ = [
    "NEEDED_AT_RUN_TIME",
    "explain_misfit",
    "innermost",
    "place",
    "require_function",
    "resolve",
    "signature",
    "takes_signature_of_another",
]

MAX_LAYERS = 100
"""Layers of decorators, partials and methods around one function; nobody has so many, but
an object that makes up its attributes can have layers without end."""

NEEDED_AT_RUN_TIME = (
    "the types of arguments are needed when the server runs: import this one outside of "
    "`if TYPE_CHECKING`, or define it at the level of its module"
)
"""What to do about a name in an annotation that does not exist."""

_STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _layers(function: Callable[..., Any]) -> Iterator[Any]:
    """Yield a callable, what it wraps, and so on: decorators, partials, methods, ``__call__``."""
    layer: Any = function
    for _ in range(MAX_LAYERS):
        yield layer
        if isinstance(layer, functools.partial):
            layer = layer.func
        elif inspect.ismethod(layer):
            layer = layer.__func__
        elif callable(wrapped := getattr(layer, "__wrapped__", None)):
            layer = wrapped
        elif inspect.isroutine(layer) or inspect.isclass(layer):
            return
        else:
            layer = type(layer).__call__


def innermost(function: Callable[..., Any]) -> FunctionType | None:
    """Return the Python function inside all decorators, partials and methods; None if it is not one."""
    *_, last = _layers(function)
    return last if isinstance(last, FunctionType) else None


def place(function: FunctionType) -> str:
    """Return the file and line of a function: ``app.py:12``."""
    return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"


def require_function(function: object) -> None:
    """Raise `TypeError` for what cannot be a function of an app, with what to do instead."""
    if isinstance(function, classmethod | functools.partialmethod | property):
        raise TypeError(f"{function!r} belongs to a class: register a function, or the method of an object")
    if not callable(function):
        hint = f": write @task(name={function!r})" if isinstance(function, str) else ""
        raise TypeError(f"only a function can be registered, not {function!r}{hint}")
    if inspect.isclass(function):
        raise TypeError(
            f"only a function can be registered, not the class {function.__qualname__}: "
            "write a function that makes one and uses it"
        )
    if not isinstance(function, FunctionType):
        return
    owner = function.__qualname__.rpartition(".")[0]
    if owner and not owner.endswith("<locals>"):
        first = next(iter(inspect.signature(function).parameters), "")
        if first in ("self", "cls"):
            raise TypeError(
                f"{function.__qualname__} ({place(function)}) is a method, and would be called without its "
                f"{first!r}: register the method of an object, task({owner}().{function.__name__}), "
                "or a function"
            )


def takes_signature_of_another(function: Callable[..., Any]) -> bool:
    """Return whether a callable shows the signature of a function that it wraps (by `functools.wraps`)."""
    return hasattr(function, "__wrapped__") and not hasattr(function, "__signature__")


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature that callers of `function` have to keep to, its annotations as they are written.

    A decorator's wrapper that sets ``__signature__`` has that one. One that
    only uses `functools.wraps` has that of the function inside, as Python shows
    it, unless its own parameters are some of those or cannot take those: then
    it has its own.

    Raises `TypeError` if there is no signature, or if the wrapper cannot be called by it.
    """
    try:
        shown = inspect.signature(function)
    except (TypeError, ValueError):
        raise TypeError(
            "Python knows no signature of it: call it from a function (def) of your own"
        ) from None
    layer: Any = function
    for _ in range(MAX_LAYERS):
        if not takes_signature_of_another(layer):
            break
        try:
            own = inspect.signature(layer, follow_wrapped=False)
        except (TypeError, ValueError):
            own = shown  # not written in Python, like functools.cache
        is_complete = not any(parameter.kind in _STARS for parameter in own.parameters.values())
        if is_complete and own.parameters.keys() <= shown.parameters.keys():
            return own  # what it leaves out, it passes itself
        if misfit := _misfit(own, shown):
            if is_complete:
                return own
            where = place(layer) if inspect.isfunction(layer) else repr(layer)
            raise TypeError(
                f"a decorator's wrapper ({where}) has the signature {own}, but functools.wraps shows "
                f"{shown}, by which it cannot be called ({misfit}); set __signature__ on the wrapper to "
                "what callers have to pass"
            )
        if inspect.ismethod(layer):
            break  # inside it, there is one more parameter
        layer = layer.__wrapped__
    return shown


def explain_misfit(function: Callable[..., Any], error: BaseException) -> None:
    """Add a note to `error` if it was raised because a decorator has called what it wraps wrongly.

    That is likely if the decorator passes arguments that its wrapper does not hide.
    """
    if type(error) is not TypeError or not isinstance(function, FunctionType):
        return
    if not takes_signature_of_another(function):
        return
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    wrappers = [getattr(layer, "__code__", None) for layer in _layers(function)][:-1]
    if last is not None and last.tb_frame.f_code in wrappers:
        error.add_note(
            f"The wrapper at {place(function)} shows the signature of the function inside. If it passes "
            "arguments itself, its __signature__ must leave them out."
        )


def _misfit(own: inspect.Signature, shown: inspect.Signature) -> str:
    """Explain why a callable with its `own` signature cannot be called by the `shown` one; "" if it can."""
    required = [each for each in shown.parameters.values() if each.default is each.empty]
    positional = [each for each in required if each.kind not in (*_STARS, each.KEYWORD_ONLY)]
    named = {each.name: None for each in required if each.kind is each.KEYWORD_ONLY}
    try:
        own.bind(*positional, **named)
    except TypeError as error:
        return str(error)
    return ""


def resolve(shown: inspect.Signature, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a signature of `function`, their annotations resolved to types.

    A parameter that is annotated with nothing that says anything about types is
    returned without annotation. ``**options: Unpack[SomeTypedDict]`` becomes a
    keyword-only parameter for each key; the default of one that may be left out
    is `UNSET`. Raises `TypeError`, which names the parameter, if an annotation
    cannot be resolved.
    """
    namespaces = [_names_of(layer) for layer in _layers(function) if isinstance(layer, FunctionType)]
    namespaces.reverse()  # annotations are mostly those of the innermost function
    resolved: list[inspect.Parameter] = []
    for parameter in shown.parameters.values():
        annotation = _resolved(parameter, namespaces or [({}, {})])
        if parameter.kind is parameter.VAR_KEYWORD and typing.get_origin(annotation) is typing.Unpack:
            resolved += _unpacked(typing.get_args(annotation)[0])
        elif isinstance(annotation, typing.ParamSpecArgs | typing.ParamSpecKwargs):
            resolved.append(parameter.replace(annotation=parameter.empty))
        else:
            resolved.append(parameter.replace(annotation=annotation))
    return resolved


_Names = tuple[dict[str, Any], dict[str, Any]]
"""The global names that an annotation can use, and the local ones."""


def _names_of(function: FunctionType) -> _Names:
    local = {each.__name__: each for each in getattr(function, "__type_params__", ())}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            local[name] = cell.cell_contents
        except ValueError:  # nothing has been assigned to it yet
            continue
    return function.__globals__, local


def _resolved(parameter: inspect.Parameter, namespaces: list[_Names]) -> Any:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return annotation
    holder: Any = SimpleNamespace(__annotations__={"it": annotation})
    missing: NameError | None = None
    try:
        for known, local in namespaces:
            try:
                return typing.get_type_hints(holder, known, local, include_extras=True)["it"]
            except NameError as error:
                missing = missing or error
    except Exception as error:
        raise TypeError(
            f"parameter {parameter.name!r}: the annotation {_text(annotation)} cannot be resolved: "
            f"{type(error).__name__}: {error}"
        ) from error
    assert missing is not None
    raise TypeError(
        f"parameter {parameter.name!r}: the annotation {_text(annotation)} cannot be resolved: "
        f"{missing}; {NEEDED_AT_RUN_TIME}"
    ) from missing


def _text(annotation: Any) -> str:
    return repr(annotation) if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _unpacked(options: Any) -> Iterator[inspect.Parameter]:
    for name, hint in typing.get_type_hints(options, include_extras=True).items():
        is_marked = typing.get_origin(hint) in (typing.Required, typing.NotRequired)
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=typing.get_args(hint)[0] if is_marked else hint,
            default=inspect.Parameter.empty if name in options.__required_keys__ else UNSET,
        )
