"""The words that all Python clients share: their options, and how functions and arguments are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from taskd.functions.wire_names import wire_name
from taskd.model import NO_OPTIONS, PRIORITY, Call, Options, Progress, SubmitOptions, Token
from taskd.protocol.method_names import SUBMIT, SUBMIT_BATCH
from taskd.protocol.request_lines import encode_arguments

if TYPE_CHECKING:
    from taskd.functions.registry import Registry

__all__ = [
    "CONCURRENCY",
    "NO_WORDS",
    "GivenOptions",
    "OnProgress",
    "Words",
    "call_of",
    "function_name",
    "named_call",
    "row_call",
    "submit_batch_of",
    "submit_of",
]

OnProgress = Callable[[Progress], object]
"""What is called with each report of a task's progress."""

_WHERE = {
    "timeout": ("call", "map", "submit", "submit_batch"),
    "priority": ("call", "map", "submit", "submit_batch"),
    "deadline": ("call", "map", "submit", "submit_batch"),
    "on_disconnect": ("call", "map"),
    "on_progress": ("call", "map"),
    "key": ("submit",),
    "token": ("submit", "submit_batch"),
    "delay": ("submit", "submit_batch"),
    "at": ("submit", "submit_batch"),
    "retries": ("submit", "submit_batch"),
    "keep": ("submit", "submit_batch"),
    "traceparent": ("call", "map", "submit", "submit_batch"),
    "owner": ("call", "map", "submit", "submit_batch"),
    "wait": ("call", "map", "submit", "submit_batch"),
}
"""The methods that each option belongs to."""

_LATER = ("delay", "at", "key", "retries", "keep")
"""Options of stored tasks alone, as `SubmitOptions` has them."""


class GivenOptions(TypedDict, total=False):
    """The options as they are given: None takes one away."""

    timeout: float | None
    priority: int | None
    deadline: float | None
    on_disconnect: Literal["finish", "cancel"] | None
    key: str | None
    delay: float | None
    at: str | datetime | None
    retries: int | None
    keep: float | None
    traceparent: str | None
    owner: str | None
    token: str | None
    wait: float | None
    on_progress: OnProgress | None


class Words(msgspec.Struct, frozen=True):
    """The options of a client, None if they are not given: `with_options` makes others of them.

    `timeout`, `deadline`, `delay`, `keep` and `wait` are in seconds. `wait` is how long
    a reply is awaited, and `on_progress` gets the progress of the task; all others
    are those of docs/protocol.md.
    """

    timeout: float | None = None
    priority: int | None = None
    deadline: float | None = None
    on_disconnect: Literal["finish", "cancel"] | None = None
    key: str | None = None
    delay: float | None = None
    at: str | None = None
    retries: int | None = None
    keep: float | None = None
    traceparent: str | None = None
    owner: str | None = None
    token: str | None = None
    wait: float | None = None
    on_progress: OnProgress | None = None

    def with_options(
        self,
        *,
        timeout: float | UnsetType | None = UNSET,
        priority: int | UnsetType | None = UNSET,
        deadline: float | UnsetType | None = UNSET,
        on_disconnect: Literal["finish", "cancel"] | UnsetType | None = UNSET,
        key: str | UnsetType | None = UNSET,
        delay: float | UnsetType | None = UNSET,
        at: str | datetime | UnsetType | None = UNSET,
        retries: int | UnsetType | None = UNSET,
        keep: float | UnsetType | None = UNSET,
        traceparent: str | UnsetType | None = UNSET,
        owner: str | UnsetType | None = UNSET,
        token: str | UnsetType | None = UNSET,
        wait: float | UnsetType | None = UNSET,
        on_progress: OnProgress | UnsetType | None = UNSET,
    ) -> Words:
        """Return the options with those changed that are given; None takes one away.

        Raises `ValueError` for a value that the server would refuse.
        """
        given = {
            name: value
            for name, value in {
                "timeout": timeout,
                "priority": priority,
                "deadline": deadline,
                "on_disconnect": on_disconnect,
                "key": key,
                "delay": delay,
                "at": _time_text(at),
                "retries": retries,
                "keep": keep,
                "traceparent": traceparent,
                "owner": owner,
                "token": token,
                "wait": wait,
                "on_progress": on_progress,
            }.items()
            if value is not UNSET
        }
        changed = msgspec.structs.replace(self, **given)
        changed._check()
        return changed

    def _check(self) -> None:
        """Raise `ValueError` if a value is none that its option can have."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and name != "on_progress":
                _check_value(name, value)
        if self.on_progress is not None and not callable(self.on_progress):
            raise ValueError(f"on_progress is a function, not {self.on_progress!r}")
        if self.delay is not None and self.at is not None:
            raise ValueError("delay and at both say when the task is due: give one of them")

    def check_method(self, method: str) -> None:
        """Raise `ValueError` if an option is given that does not belong to a method of the client."""
        if self is NO_WORDS:
            return
        for name, methods in _WHERE.items():
            if method not in methods and getattr(self, name) is not None:
                raise ValueError(
                    f"the option {name} does not belong to {method}: it is for {_listed(methods)}"
                )

    def call_options(self) -> Options:
        """Return the options of a call on the wire."""
        if self is NO_WORDS:
            return NO_OPTIONS
        return Options(
            timeout=self.timeout,
            deadline=self.deadline,
            priority=PRIORITY if self.priority is None else self.priority,
            progress=self.on_progress is not None,
            on_disconnect=self.on_disconnect or "finish",
            traceparent=self.traceparent,
            owner=self.owner,
        )

    def submit_options(self) -> SubmitOptions:
        """Return the options of a stored task on the wire."""
        given = {name: value for name in _LATER if (value := getattr(self, name)) is not None}
        return SubmitOptions(
            timeout=self.timeout,
            deadline=self.deadline,
            priority=PRIORITY if self.priority is None else self.priority,
            traceparent=self.traceparent,
            owner=self.owner,
            **given,
        )


NO_WORDS = Words()

CONCURRENCY = 16
"""Rows of a `map` that are in flight at once, unless another number is given."""


class _Others(msgspec.Struct, forbid_unknown_fields=True):
    """The options that the server does not know by that name, with the values that they can have."""

    token: Token | None = None
    wait: Annotated[float, Meta(gt=0)] | None = None


def _check_value(name: str, value: object) -> None:
    """Raise `ValueError` if an option cannot have this value."""
    kind = next(kind for kind in (SubmitOptions, Options, _Others) if name in kind.__struct_fields__)
    try:
        msgspec.convert({name: value}, kind)
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - at")[0]
        raise ValueError(f"the option {name} cannot be {value!r}: {reason}") from None


def _time_text(at: str | datetime | UnsetType | None) -> str | UnsetType | None:
    """Return the text of a time. Raises `ValueError` if it has no zone: each machine has its own."""
    if not isinstance(at, datetime):
        return at
    if at.tzinfo is None:
        raise ValueError(f"at needs a time with a zone, as datetime.now(UTC) has, not {at!r}")
    return at.isoformat()


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# --- functions and their arguments -------------------------------------------


def function_name(function: object, names: Registry | None = None) -> str:
    """Return the name that a function has on the wire: its own if it is registered, or the text itself.

    `names` is where it is registered, None for where ``@task`` does that. Raises `TypeError` if
    `function` is neither a text nor registered.
    """
    if isinstance(function, str):
        return function
    if names is not None:
        return names.name_of(function)
    from taskd.functions.registry import registry  # imported already if there is anything to find in it

    return registry.name_of(function)


def _encoded(function: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Raw | None:
    """Encode arguments. Raises `TypeError` and `ValueError` as `call_of`."""
    if not kwargs:
        return encode_arguments(args) if args else None
    if args:
        kwargs = _all_by_name(function, args, kwargs)
    return encode_arguments({wire_name(name): value for name, value in kwargs.items()})


def _all_by_name(function: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments that are given by position and by name, all by name."""
    if not callable(function):
        raise TypeError(
            f"{function}: give the arguments either by position or by name; both are possible only "
            "if the function itself is given, which shows the names"
        )
    import inspect

    parameters = inspect.signature(function).parameters.values()
    by_position = [
        each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    if len(args) > len(by_position):
        raise TypeError(
            f"{_shown(function)}: {len(args)} arguments by position, of which "
            f"{len(by_position)} have names: then none can be given by name"
        )
    named = dict(zip(by_position, args, strict=False))
    twice = named.keys() & kwargs.keys()
    if twice:
        raise TypeError(f"{_shown(function)}: {sorted(twice)[0]} is given by position and by name")
    return {**named, **kwargs}


def _shown(function: object) -> str:
    return str(getattr(function, "__name__", function))


def call_of(
    words: Words,
    function: object,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    names: Registry | None = None,
) -> Call:
    """Encode the call of a function, or of a name.

    `names` is as for `function_name`. Raises `TypeError` if the function is not registered,
    or the arguments cannot be written as JSON; `ValueError` if they are nested too deeply,
    or if an option does not belong to a call.
    """
    words.check_method("call")
    return Call(function_name(function, names), _encoded(function, args, kwargs), words.call_options())


def submit_of(words: Words, function: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Encode the submit of a task. Raises as `call_of` does."""
    words.check_method("submit")
    encoded = _encoded(function, args, kwargs)
    params = {"function": function_name(function), "options": words.submit_options()}
    if encoded is not None:
        params["args"] = encoded
    if words.token is not None:
        params["token"] = words.token
    return named_call(SUBMIT, params)


def row_arguments(row: object) -> Mapping[str, Any] | Sequence[Any]:
    """Return the arguments of a row: by position (a tuple, a list), by name (a mapping), or one value."""
    if isinstance(row, Mapping):
        return {wire_name(name): value for name, value in row.items()}
    return row if isinstance(row, tuple | list) else (row,)


def submit_batch_of(words: Words, function: object, rows: Iterable[object], then: object = None) -> Call:
    """Encode the submit of a batch: a task for each of `rows`. Raises as `call_of` does."""
    words.check_method("submit_batch")
    params: dict[str, Any] = {
        "function": function_name(function),
        "args": [row_arguments(row) for row in rows],
        "options": words.submit_options(),
    }
    if then is not None:
        params["then"] = function_name(then)
    if words.token is not None:
        params["token"] = words.token
    return named_call(SUBMIT_BATCH, params)


def row_call(words: Words, function: object, row: object, names: Registry | None = None) -> Call:
    """Encode the call of a function with one row of many. Raises as `call_of` does."""
    words.check_method("map")
    return Call(function_name(function, names), encode_arguments(row_arguments(row)), words.call_options())


def named_call(method: str, params: Mapping[str, Any]) -> Call:
    """Encode the call of one of the server's own methods."""
    return Call(method, encode_arguments(params) if params else None)
