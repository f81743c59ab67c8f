"""The server's own methods, ``taskd.…``: which there are, and what they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Raw

from taskd.errors import InvalidParams, MethodNotFound, quoted
from taskd.functions.registry import RESERVED, Function, FunctionInfo
from taskd.model import Call
from taskd.protocol.methods import CANCEL, WAS_DONE, check_id
from taskd.server.completion import as_result
from taskd.server.status import ServerStatus
from taskd.server.task import Caller, Task

__all__ = ["OwnMethods"]

_FUNCTIONS = f"{RESERVED}functions"


class Server(Protocol):
    """Who knows what is asked for."""

    @property
    def functions(self) -> list[FunctionInfo]:
        """The functions that can be called, empty before the app is imported."""

    def status(self) -> ServerStatus:
        """What the server and each of its workers is doing."""

    def find(self, number: int) -> Task | None:
        """The task of this number that has not ended."""

    def cancel_for(self, request: Task, caller: Caller, task: Task) -> None:
        """Cancel a task, and answer the request when it has ended."""


def _ping() -> None:
    """``taskd.ping``."""


def _functions() -> None:
    """``taskd.functions``."""


def _status() -> None:
    """``taskd.status``."""


_NOT_GIVEN = Raw(b"null")
"""msgspec knows no optional `Raw`; and a request whose id is null cannot be told from others by it."""


def _cancel(
    id: Raw = _NOT_GIVEN,  # noqa: A002  # its name on the wire
    task: int | None = None,
) -> tuple[Raw | None, int | None]:
    """``taskd.cancel``: a request of this connection by its id, or any task by its number."""
    request_id = None if bytes(id) == b"null" else id
    if (request_id is None) == (task is None):
        raise InvalidParams(f"{CANCEL}: takes either id or task", argument="id")
    if request_id is not None:
        check_id(bytes(request_id))
    return request_id, task


class OwnMethods:
    """Answers calls of the server's own methods, without asking any worker."""

    def __init__(self, server: Server) -> None:
        self._server = server
        own: dict[str, Callable[..., Any]] = {
            "ping": _ping,
            "functions": _functions,
            "status": _status,
            "cancel": _cancel,
        }
        self._functions = {RESERVED + name: Function(RESERVED + name, takes) for name, takes in own.items()}
        # Who asked for the functions before the app was imported.
        self._want_functions: list[tuple[Task, Caller]] = []

    def accept(self, request: Task, caller: Caller) -> None:
        """Answer a request, now or later. Raises `MethodNotFound` and `InvalidParams`."""
        call = request.call
        function = self._functions.get(call.function)
        if function is None:
            raise MethodNotFound(f"no such function: {quoted(call.function)}")
        given = function.callable(*_bound(function, call))
        if call.function == CANCEL:
            self._cancel(request, caller, *given)
        elif call.function == _FUNCTIONS:
            self._want_functions.append((request, caller))
            self._answer_functions()
        elif call.function == f"{RESERVED}status":
            caller.answered(request, as_result(self._server.status()))
        else:
            caller.answered(request, as_result("pong"))

    def functions_changed(self) -> None:
        """The app is imported: who had asked too early is answered."""
        for caller in self._answer_functions():
            caller.flush()

    def _answer_functions(self) -> list[Caller]:
        functions = self._server.functions
        if not functions:
            return []
        wanted, self._want_functions = self._want_functions, []
        for request, caller in wanted:
            caller.answered(request, as_result(functions))
        return [caller for _, caller in wanted]

    def _cancel(self, request: Task, caller: Caller, request_id: Raw | None, number: int | None) -> None:
        task = caller.find(request_id) if request_id is not None else self._server.find(number or 0)
        if task is None or not task.is_in_flight:
            caller.answered(request, WAS_DONE)
        else:
            self._server.cancel_for(request, caller, task)


def _bound(function: Function, call: Call) -> list[Any]:
    """The arguments of a call, by position. Raises `InvalidParams`, which names the method."""
    try:
        args, named = function.parameters.bind(call.args)
    except InvalidParams as error:
        raise InvalidParams(f"{function.name}: {error.message}", **error.data) from None
    bound = function.parameters.signature.bind(*args, **named)
    bound.apply_defaults()
    return list(bound.args)
