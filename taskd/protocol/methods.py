"""The server's own methods (``taskd.*``): parameters and answers of each, and dispatch to handlers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Raw

from taskd.errors import Cancelled, InvalidParams, MethodNotFound, NotAllowed, quoted
from taskd.functions.descriptions import ParameterInfo, describe_parameters
from taskd.functions.parameters import Parameters
from taskd.functions.wire_names import RESERVED
from taskd.model import Call, Failure, Outcome, Result
from taskd.protocol.method_names import CANCEL, SUBMIT, SUBMIT_BATCH
from taskd.protocol.operator_methods import OperatorMethods
from taskd.protocol.stored_methods import NOT_GIVEN, Answer, StoredMethods

__all__ = [
    "WAS_DONE",
    "CancelTarget",
    "Methods",
    "bound",
    "cancel_target",
    "dispatch",
    "how_cancelled",
    "method_parameters",
]

WAS_DONE = Result(Raw(b'{"was":"done"}'))
"""The answer to ``taskd.cancel`` if the request or task that it named has ended or is unknown."""

MAX_ARGUMENTS = 65536
"""Bytes of the arguments of one of the server's own methods, which the daemon itself decodes: an id is
the longest of them, and nobody has longer ones than this."""

SUBMITS = frozenset({SUBMIT, SUBMIT_BATCH})
"""The methods whose arguments have those of functions, which are not decoded."""

_NOT_BY_NUMBER = (
    f"{CANCEL}: a task is named by its number only by operators, since it may be anybody's; name a request "
    "of this connection by its id, or a stored task by its own, or use a token with the role operate"
)

_NAMED_ID_STARTS = b'"-0123456789'

Asker = TypeVar("Asker", contravariant=True)


class Methods(OperatorMethods[Asker], Protocol[Asker]):
    """The table of the server's own methods: the function ``cancel`` is the method ``taskd.cancel``.

    `asker` is whoever the answer goes to. The parameters after it are the
    method's own: a call's arguments are checked against them and converted by
    their annotations, as for any registered function. Handlers may raise
    `taskd.errors.TaskdError`.
    """

    def ping(self, asker: Asker, /) -> Answer:
        """Answer ``"pong"``."""

    def auth(self, asker: Asker, /, token: str) -> Answer:
        """Let in whoever shows a token, and answer as `whoami` does."""

    def whoami(self, asker: Asker, /) -> Answer:
        """Answer with who is asking and what it may do: a `taskd.auth.whoami.Whoami`."""

    def functions(self, asker: Asker, /) -> Answer:
        """Answer with a `FunctionInfo` for each function that can be called, once the app is imported."""

    def status(self, asker: Asker, /) -> Answer:
        """Answer with a `ServerStatus`: what the server and each of its workers is doing."""

    def cancel(
        self,
        asker: Asker,
        /,
        id: Raw = NOT_GIVEN,  # noqa: A002
        task: int | str | None = None,
    ) -> Answer:
        """Cancel a request of this connection by its `id`, or a task.

        A stored task is named by its id, any other by its number (by operators alone).

        The answer comes when the task has ended: ``{"was": "waiting"}``,
        ``{"was": "running", "stopped_after": seconds, "killed": bool}`` or
        ``{"was": "done"}``.
        """


def _own_parameters(method: Callable[..., object]) -> Parameters:
    return Parameters(partial(method, None, None))  # without `self` and `asker`


def _methods_of(table: type) -> dict[str, Parameters]:
    return {
        RESERVED + name: _own_parameters(method)
        for name, method in vars(table).items()
        if not name.startswith("_") and callable(method)
    }


_OWN, _STORED = _methods_of(Methods) | _methods_of(OperatorMethods), _methods_of(StoredMethods)
_PARAMETERS = {**_OWN, **_STORED}


def bound(call: Call) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return a call's arguments, converted. Raises `MethodNotFound` or `InvalidParams`."""
    parameters = _PARAMETERS.get(call.function)
    if parameters is None:
        raise MethodNotFound(f"no such function: {quoted(call.function)}")
    is_long = call.args is not None and memoryview(call.args).nbytes > MAX_ARGUMENTS
    if is_long and call.function not in SUBMITS:
        raise InvalidParams(
            f"{call.function}: its arguments are at most {MAX_ARGUMENTS} bytes", limit=MAX_ARGUMENTS
        )
    try:
        return parameters.bind(call.args)
    except InvalidParams as error:
        raise InvalidParams(f"{call.function}: {error.message}", **error.data) from None


def method_parameters(method: str) -> dict[str, ParameterInfo]:
    """Describe the parameters of one of the server's own methods; there are none if it does not exist."""
    parameters = _PARAMETERS.get(method)
    return {} if parameters is None else describe_parameters(parameters)


def dispatch(
    methods: Methods[Asker], stored: StoredMethods[Asker] | None, asker: Asker, call: Call
) -> Answer:
    """Pass a call to its handler; those of stored tasks are None without a store.

    Raises `MethodNotFound`, `InvalidParams`, `NotAllowed`, or as the handler does.
    """
    args, named = bound(call)
    table: object = methods
    if call.function in _STORED:
        if stored is None:
            raise NotAllowed("this server has no store")
        table = stored
    handler: Callable[..., Answer] = getattr(table, call.function.removeprefix(RESERVED))
    return handler(asker, *args, **named)


# --- taskd.cancel ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CancelTarget:
    """The target of a ``taskd.cancel``: a request, by its id as JSON text, or else a task.

    A stored task is named by its id, any other by its number.
    """

    request_id: bytes | None
    task: int | str | None

    @classmethod
    def named(
        cls,
        id: Raw = NOT_GIVEN,  # noqa: A002
        task: int | str | None = None,
        *,
        by_number: bool,
    ) -> CancelTarget:
        """Return the target that arguments of `Methods.cancel` name.

        Raises `InvalidParams`; and `NotAllowed` for a task, unless the caller
        may name one `by_number`.
        """
        request_id = None if bytes(id) == bytes(NOT_GIVEN) else bytes(id)
        if (request_id is None) == (task is None):
            raise InvalidParams(
                f"{CANCEL}: takes either the id of a request of this connection, or a task", argument="id"
            )
        if request_id is not None and request_id[0] not in _NAMED_ID_STARTS:
            raise InvalidParams(
                f"{CANCEL}: an id is a string or a number", argument="id", expected="str | float"
            )
        if isinstance(task, int) and not by_number:
            raise NotAllowed(_NOT_BY_NUMBER, reason="role")
        return cls(request_id, task)


def cancel_target(call: Call, *, by_number: bool) -> CancelTarget:
    """Return the target of a call of ``taskd.cancel``. Raises as `CancelTarget.named` does."""
    args, named = bound(call)
    return CancelTarget.named(*args, **named, by_number=by_number)


def how_cancelled(outcome: Outcome) -> Result:
    """Return the answer to ``taskd.cancel`` for a target that ended with `outcome`."""
    if (
        isinstance(outcome, Failure)
        and outcome.code == Cancelled.code
        and isinstance(outcome.data, dict)
        and "was" in outcome.data
    ):
        return Result(Raw(msgspec.json.encode(outcome.data)))
    return WAS_DONE
