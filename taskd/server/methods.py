"""The handlers of the server's own methods (``taskd.*``), which `taskd.protocol.methods` declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from taskd.functions.registry import FunctionInfo
from taskd.model import Outcome, Result
from taskd.protocol.methods import NOT_GIVEN, WAS_DONE, CancelTarget, how_cancelled
from taskd.protocol.requests import Request
from taskd.scheduler.budget import Account
from taskd.scheduler.task import Nobody, Subscriber, Task
from taskd.server.status import ServerStatus

__all__ = ["Asker", "Requester", "ServerMethods"]


class Requester(Subscriber, Protocol):
    """A connection that submits requests: a subscriber whose keys are its requests, known by id."""

    @property
    def cancels_by_number(self) -> bool:
        """Whether it may cancel any task by its number."""

    @property
    def may_name_callers(self) -> bool:
        """Whether the option `caller` is believed: the connection is a gateway's, or may be one's."""

    def account(self) -> Account:
        """Return the account for what is held for the connection."""

    def cancel_request(self, asking: Request[Any], request_id: bytes) -> None:
        """Cancel the request with this id, and answer `asking` when it has ended."""


@dataclass(frozen=True, slots=True)
class Asker:
    """The request that a method answers, and the connection that it came from."""

    requester: Requester
    request: Request[Task]

    def answer(self, outcome: Outcome) -> None:
        """Answer the request, after its handler has returned None."""
        self.requester.task_ended(self.request, outcome)
        self.requester.flush()


class _CancelWatch(Nobody):
    """Answers a ``taskd.cancel`` when the task that it named has ended."""

    def task_ended(self, key: Asker, outcome: Outcome) -> None:  # type: ignore[override]
        """Answer with how the task ended."""
        key.answer(how_cancelled(outcome))


_CANCEL_WATCH = _CancelWatch()


class MethodServer(Protocol):
    """The task server, as far as the handlers need it."""

    @property
    def functions(self) -> list[FunctionInfo]:
        """The functions that can be called; empty before the app is imported."""

    def status(self) -> ServerStatus:
        """Return what the server and each of its workers is doing."""

    def find(self, number: int) -> Task | None:
        """Return the task with this number, None if it has ended or never existed."""

    def cancel(self, task: Task) -> None:
        """Cancel a task in flight."""


class ServerMethods:
    """The handlers of the server's own methods, which involve no worker.

    Implements `taskd.protocol.methods.Methods`.
    """

    def __init__(self, server: MethodServer) -> None:
        self._server = server
        # Those who asked for the functions before the app was imported.
        self._want_functions: list[Asker] = []

    def ping(self, asker: Asker, /) -> Outcome:
        """Answer ``"pong"``."""
        return _result("pong")

    def functions(self, asker: Asker, /) -> Outcome | None:
        """Answer with the functions, now or once the app is imported."""
        functions = self._server.functions
        if not functions:
            self._want_functions.append(asker)
            return None
        return _result(functions)

    def functions_changed(self) -> None:
        """Answer those who asked before the app was imported."""
        wanted, self._want_functions = self._want_functions, []
        for asker in wanted:
            asker.answer(_result(self._server.functions))

    def status(self, asker: Asker, /) -> Outcome:
        """Answer with what the server and each of its workers is doing."""
        return _result(self._server.status())

    def cancel(self, asker: Asker, /, id: Raw = NOT_GIVEN, task: int | None = None) -> Outcome | None:  # noqa: A002
        """Cancel a request of the asker's connection, or, if the asker may do that, any task."""
        target = CancelTarget.named(id, task, by_number=asker.requester.cancels_by_number)
        if target.request_id is not None:
            asker.requester.cancel_request(asker.request, target.request_id)
            return None
        found = self._server.find(target.task or 0)
        if found is None or not found.is_in_flight:
            return WAS_DONE
        found.subscribe(_CANCEL_WATCH, asker)
        self._server.cancel(found)
        return None


def _result(value: Any) -> Result:
    return Result(Raw(msgspec.json.encode(value)))
